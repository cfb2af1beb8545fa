"""Teacher-forced scoring: what the model would have said at every token of a given continuation.

Knows nothing of edits; whether the model is an edited one is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elder.metrics.batching import ProgressMeter, run_batched
from elder.runtime import Runtime
from elder.tokens import pad_left

LOGIT_BUDGET = 2**28
"""Most logits of one batch (1 GiB in float32): long continuations under a large vocabulary get smaller batches."""

RoutedAt = Callable[[Tensor], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and the continuation to be scored, as token ids; neither is empty."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The model at every token of one continuation.

    Attributes:
        argmax: The most likely token at each place, given the true tokens before it.
        nlls: Negative log likelihood of the true token at each place, in nats.
    """

    argmax: tuple[int, ...]
    nlls: tuple[float, ...]

    @property
    def nll(self) -> float:
        """Mean over the tokens, in nats; exp(-nll) is the per-token geometric mean probability."""
        return sum(self.nlls) / len(self.nlls)


def score(
    model: nn.Module,
    pairs: Sequence[Pair],
    batch_size: int,
    runtime: Runtime,
    pad: int,
    routed_at: RoutedAt | None = None,
    meter: ProgressMeter | None = None,
) -> list[TokenScores]:
    """Score every continuation behind its prompt (collective; every rank gets all scores).

    Rows are padded on the left, so that the continuations end together and only their logits are
    computed: the vocabulary projection never sees the prompts.

    Args:
        model: A transformers causal language model.
        pairs: Prompts and continuations.
        batch_size: Most rows a forward; fewer when the logits would not fit `LOGIT_BUDGET`.
        runtime: Splits the pairs over the ranks.
        pad: Id that fills the rows.
        routed_at: `Editor.routed_at`, so that an editor routes a row by the last token of its prompt;
            None when the edits are disabled or the model has none.
        meter: Told about every batch.
    """
    if not pairs:
        return []
    vocabulary = int(getattr(getattr(model, "config", None), "vocab_size", 1))
    longest = max(len(pair.target) for pair in pairs)
    rows = max(1, min(batch_size, LOGIT_BUDGET // ((longest + 1) * vocabulary)))

    def run(batch: list[Pair]) -> list[TokenScores]:
        ids, mask, positions = pad_left([pair.prompt + pair.target for pair in batch], pad, runtime.device)
        width = max(len(pair.target) for pair in batch)
        lengths = torch.tensor([len(pair.target) for pair in batch], device=runtime.device)
        routing = nullcontext() if routed_at is None else routed_at(ids.shape[1] - lengths - 1)
        with torch.no_grad(), routing:
            output = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=width + 1,
            )
        return _read(output.logits[:, :-1], ids[:, -width:], batch)

    return run_batched(pairs, len, rows, runtime, run, meter)


def _read(logits: Tensor, targets: Tensor, batch: Sequence[Pair]) -> list[TokenScores]:
    """Scores from the logits before each of the last tokens.

    Args:
        logits: (B, N, V); the distribution before each token of `targets`.
        targets: (B, N) the last N tokens of every row.
        batch: The rows; the continuation of a row is its last `len(target)` tokens.
    """
    logits = logits[:, -targets.shape[1] :].float()
    nlls = (torch.logsumexp(logits, dim=-1) - logits.gather(-1, targets[..., None])[..., 0]).tolist()
    best = logits.argmax(dim=-1).tolist()
    return [
        TokenScores(tuple(best[i][-len(pair.target) :]), tuple(nlls[i][-len(pair.target) :]))
        for i, pair in enumerate(batch)
    ]
