"""The names that `import elder` gives, and that importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import elder

ROOT = Path(__file__).resolve().parents[2]


def test_importing_elder_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, elder; dir(elder); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("name", elder.__all__)
def test_every_public_name_is_the_object_at_its_home(name: str) -> None:
    found = getattr(elder, name)
    assert found is getattr(import_module(found.__module__), name)
    assert found.__module__.startswith("elder.")
    assert found.__doc__
    assert name in dir(elder)


def test_public_names_are_complete_and_others_are_refused() -> None:
    assert {"load_base", "load_edits", "make_editor", "load_edited", "evaluate", "Edit", "Probe"} <= set(elder.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = elder.nonsense


def test_the_version_is_the_packages() -> None:
    assert f'version = "{elder.__version__}"' in (ROOT / "pyproject.toml").read_text()
