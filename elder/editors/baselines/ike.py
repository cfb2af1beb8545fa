"""In-context editing: the edits that a prompt is about are told to the model in front of it; nothing is learnt.

Ce Zheng and others, "Can We Edit Factual Knowledge by In-Context Learning?" (IKE, arXiv 2305.12740), without its
demonstrations: the context holds edits of the stream alone, found by words. So it is also retrieval into the prompt.

The caller's tokens, masks, positions and caches stay as they are. For rows that are about an edit, each pass is run
once more on the whole text with the context in it, without a cache, and its logits are put in the place of those of the
first pass. That costs a pass over the text for every generated token, and nothing can go wrong with what a cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from elder.editors.baselines.asked import Asked
from elder.editors.baselines.edit_store import StoredEdit
from elder.editors.baselines.ike_options import IkeOptions
from elder.editors.baselines.retrieval_editor import RetrievalEditor
from elder.editors.baselines.retrieved import AskedRow, Lookup, RetrievedEdits
from elder.joining import join
from elder.mixture.pass_info import Version
from elder.runtime import Runtime
from elder.tokens import TextFormat, encode_prompt, pad_id, pad_left


@dataclass(frozen=True)
class Telling:
    """How edits are told.

    Attributes:
        texts: How the base model's texts are written.
        template: Text of one edit, with a place `{fact}`.
        closing: Text between the last of them and the prompt.
        window: The longest text that the model takes, in tokens; None: any.
    """

    texts: TextFormat
    template: str
    closing: str
    window: int | None

    def told(self, asked: Asked, edits: Sequence[StoredEdit]) -> str:
        """The user's words after edits; the nearest is given first and told last."""
        facts = [self.template.replace("{fact}", join(edit.prompt, edit.target)) for edit in reversed(edits)]
        return "".join(facts) + self.closing + asked.words

    def prompt(self, asked: Asked, edits: Sequence[StoredEdit], ids: Sequence[int], begin: int) -> list[int]:
        """The ids of a prompt with edits in it.

        Encoded as if the user had written all of it, since context and words may share a token. Where the prompt's own
        ids are not those of its words, as where the user has rendered a chat template, the edits are put between them.

        Args:
            asked: What the prompt says.
            edits: Those to be told, the nearest first.
            ids: Of the prompt.
            begin: Where the user's words begin in them.
        """
        if encode_prompt(asked.form, asked.words) == list(ids):
            return encode_prompt(asked.form, self.told(asked, edits))
        alone = self.told(replace(asked, words=""), edits)
        context = self.texts.tokenizer(alone, add_special_tokens=False)["input_ids"]
        return [*ids[:begin], *context, *ids[begin:]]


class ToldEdits(RetrievedEdits):
    """Runs rows that are about edits with these in front of the prompt."""

    def __init__(
        self, version: Version, embed: nn.Module, summary: str, runtime: Runtime | None, telling: Telling
    ) -> None:
        super().__init__(version, embed, summary, runtime)
        self.telling = telling

    def _changed(
        self, call: Callable[..., Any], lookup: Lookup, rows: Sequence[AskedRow], output: Any
    ) -> Tensor | None:
        """See `RetrievedEdits._changed`; collective where the model is sharded."""
        told = [(row, self._told(lookup, row)) for row in rows]
        told = [(row, longer) for row, longer in told if longer]
        if not self._anywhere(bool(told)):
            return None
        pad = pad_id(self.telling.texts.tokenizer)
        longest = [longer for _, longer in told] or [[pad]]  # a rank without any keeps the others company
        ids, mask, positions = pad_left(longest, pad, self._device(output))
        width = ids.shape[1]
        places = [  # row, logit of the caller, column of the longer text
            (row.row, place, number, width - len(row.ids) + seen - 1)
            for number, (row, _) in enumerate(told)
            for place, seen in row.places
        ]
        first = min((column for *_, column in places), default=width - 1)
        again = call(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=width - first,
            return_dict=True,
        ).logits
        if not told:
            return None
        rows_, logits, numbers, columns = torch.tensor(places, device=again.device).unbind(1)
        changed: Tensor = output.logits.index_put((rows_, logits), again[numbers, columns - first])
        return changed

    def _told(self, lookup: Lookup, row: AskedRow) -> list[int]:
        """The ids of a row with as many of its edits told as there is room for; empty if there is none for any."""
        prompt, answer = row.ids[: row.end], row.ids[row.end :]
        asked, found = lookup.found(prompt)
        edits, window = [lookup.store.edits[one.number] for one in found], self.telling.window
        for count in range(len(edits), 0, -1):
            longer = [*self.telling.prompt(asked, edits[:count], prompt, lookup.reader.words_begin(prompt)), *answer]
            if window is None or len(longer) <= window:
                return longer
        return []

    def _anywhere(self, here: bool) -> bool:
        if self.runtime is None:
            return here
        return bool(self.runtime.sum(torch.tensor([float(here)], device=self.runtime.device)) > 0)

    @staticmethod
    def _device(output: Any) -> torch.device:
        found = getattr(output, "logits", None)
        return torch.device("cpu") if found is None else found.device


class IkeEditor(RetrievalEditor):
    """See the module's text."""

    method = "ike"
    options: IkeOptions

    @property
    def most(self) -> int:
        """See `RetrievalEditor.most`."""
        return self.options.neighbours

    def _edits(self, model: Any) -> RetrievedEdits:
        base, o = self.base, self.options
        window = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
        telling = Telling(base.texts, o.template, o.closing, window)
        summary = f"method {self.method}, on {base.source}"
        shared = base.runtime if base.runtime.sharded else None
        return ToldEdits(self._version(0), model.get_input_embeddings(), summary, shared, telling)
