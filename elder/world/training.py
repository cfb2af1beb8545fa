"""Trains the Llama of a world from scratch and measures what it knows.

Deterministic: equal recipes give equal weights on one machine. Leaves the global random state and the
number of threads as they were. Knows nothing of caches or files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from elder.world.facts import World
from elder.world.prose import sentences
from elder.world.recipe import Recipe, Shape

THREADS = 1
"""Fixed, because the order of floating point sums, and so the weights, depends on it. One, because the
operators are small: a second thread gains little on an idle machine, and on a busy one the two wait for
each other (395 s instead of 14 s were measured for `world:tiny` beside six other busy processes)."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Muon's quintic iteration; they push all singular values close to one in a few steps."""

MOMENTUM, ITERATIONS = 0.95, 5

TrainingProgress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps of all, mean answer loss in nats)."""


@dataclass(frozen=True)
class Rows:
    """Statements as one padded tensor.

    Attributes:
        ids: (N, T) token ids, padded at the right; `<s>` first, `</s>` last.
        lengths: (N,) tokens of each row.
        answers: (N,) index of the first answer token of each row.
    """

    ids: Tensor
    lengths: Tensor
    answers: Tensor


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seeded random numbers and a fixed number of threads inside the block; both as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings, float32, initialised from the global random state."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def tokenize(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> Rows:
    """Rows `<s> prompt answer. </s>`; an empty prompt makes the whole text the answer.

    Args:
        tokenizer: Puts `<s>` in front.
        pairs: (prompt, answer) of every statement, without the space between them.
    """
    texts = [f"{prompt} {answer}." if prompt else answer for prompt, answer in pairs]
    whole = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    heads = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    ids = torch.full((len(whole), max(map(len, whole))), int(tokenizer.pad_token_id))
    for row, tokens in zip(ids, whole, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return Rows(ids, torch.tensor([len(w) for w in whole]), torch.tensor([len(h) for h in heads]))


def answer_mask(rows: Rows, length: int) -> Tensor:
    """(N, length - 1) bool: positions whose next token belongs to the answer, its full stop or `</s>`."""
    target = torch.arange(1, length)
    return (target >= rows.answers[:, None]) & (target < rows.lengths[:, None])


def train(
    recipe: Recipe, world: World, tokenizer: PreTrainedTokenizerBase, progress: TrainingProgress | None = None
) -> LlamaForCausalLM:
    """Train a model on the statements of a world, in the wordings that training may show.

    Args:
        recipe: Shape, schedule and seed.
        world: The facts.
        tokenizer: Made by `build_tokenizer`.
        progress: Called after every step.

    Returns:
        The model in eval mode, float32, on the CPU.
    """
    plan = recipe.training
    prose = sentences(plan.sentences, random.Random(f"training {recipe.size.seed}"))
    rows = tokenize(tokenizer, [*world.prompts(trained=True), *(("", text) for text in prose)])
    with repeatable(recipe.size.seed):
        model = build_model(recipe.shape, tokenizer)
        model.train()
        steps = plan.epochs * -(-len(rows.ids) // plan.batch_size)
        matrices = [p for layer in model.model.layers for p in layer.parameters() if p.dim() == 2]
        inside = {id(p) for p in matrices}
        muon = Muon(matrices)
        rest = [p for p in model.parameters() if id(p) not in inside]
        adam = torch.optim.AdamW(rest, lr=plan.lr, betas=(0.9, 0.98), weight_decay=plan.weight_decay)
        forward = TrainingForward(model, rows.ids.shape[1])
        for step, batch in enumerate(_batches(rows, plan.epochs, plan.batch_size), start=1):
            pace = _pace(step / steps, plan.warmup)
            loss, answer_loss = _loss(model, forward, batch, plan.text_share)
            loss.backward()  # type: ignore[no-untyped-call]
            muon.step(plan.matrix_lr * pace)
            adam.param_groups[0]["lr"] = plan.lr * pace
            adam.step()
            model.zero_grad(set_to_none=True)
            if progress is not None:
                progress(step, steps, answer_loss)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _pace(done: float, warmup: float) -> float:
    """Share of the peak rates: rises during the warm-up, stays, falls to zero over the second half."""
    return min(1.0, done / warmup, 2 * (1 - done) + 1e-3)


def _batches(rows: Rows, epochs: int, batch_size: int) -> Iterator[Rows]:
    """Batches of rows of like length, in a new order every epoch, cut to the longest row."""
    for _ in range(epochs):
        # Sorting a shuffled order by length keeps rows of one length shuffled among themselves.
        order = torch.randperm(len(rows.ids))
        order = order[rows.lengths[order].argsort(stable=True)]
        chunks = torch.split(order, batch_size)
        for index in torch.randperm(len(chunks)).tolist():
            chosen = chunks[index]
            length = int(rows.lengths[chosen].max())
            yield Rows(rows.ids[chosen, :length], rows.lengths[chosen], rows.answers[chosen])


def _loss(model: LlamaForCausalLM, forward: TrainingForward, batch: Rows, text_share: float) -> tuple[Tensor, float]:
    """Mean cross-entropy over the answers and a random share of the other tokens; and over the answers only.

    Padding is at the right, so a causal model needs no attention mask. Logits are made only
    where they are scored: they cost as much as two blocks of this small model.
    """
    length = batch.ids.shape[1]
    answers = answer_mask(batch, length)
    real = torch.arange(1, length) < batch.lengths[:, None]
    scored = answers | (real & (torch.rand(real.shape) < text_share))
    hidden = forward(batch.ids)[:, :-1][scored]
    losses = F.cross_entropy(model.lm_head(hidden), batch.ids[:, 1:][scored], reduction="none")
    return losses.mean(), float(losses.detach()[answers[scored]].mean())


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> float:
    """Share of statements whose answer the model completes exactly, full stop and `</s>` included.

    One forward pass measures greedy generation too: greedy decoding gives exactly this text if and only
    if every token of it is the most likely one after those before it.

    Args:
        model: In eval mode.
        tokenizer: Its tokenizer.
        pairs: (prompt, answer) of every statement.
    """
    rows = tokenize(tokenizer, pairs)
    right = 0
    for chosen in torch.split(rows.lengths.argsort(stable=True), 512):
        length = int(rows.lengths[chosen].max())
        batch = Rows(rows.ids[chosen, :length], rows.lengths[chosen], rows.answers[chosen])
        guesses = model(input_ids=batch.ids, use_cache=False).logits[:, :-1].argmax(-1)
        right += int(((guesses == batch.ids[:, 1:]) | ~answer_mask(batch, length)).all(1).sum())
    return right / len(rows.ids)


class TrainingForward:
    """The forward pass of a plain Llama, written out for training on a processor: right-padded rows, from position 0.

    Works on the parameters of `LlamaForCausalLM` itself. It computes what the model computes (a test compares them)
    with a third of the operators: fused norms and projections, rotations by one table, and attention written out,
    because the fused kernel is made for long rows and loses on rows of twenty tokens.

    Args:
        model: A Llama without biases, with as many key heads as query heads and plain rotary positions.
        length: Longest row that will come, in tokens.
    """

    def __init__(self, model: LlamaForCausalLM, length: int) -> None:
        self.model = model.model
        self.heads = model.config.num_attention_heads
        self.eps = model.config.rms_norm_eps
        positions = torch.arange(length)[None]
        cos, sin = self.model.rotary_emb(self.model.embed_tokens.weight, positions)
        half = cos.shape[-1] // 2
        # Rotating halves is swapping them and negating one: the sign goes into the table.
        self.cos = cos[0]
        self.sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        self.mask = torch.full((length, length), float("-inf")).triu(1)

    def __call__(self, ids: Tensor) -> Tensor:
        """Final hidden states, normed.

        Args:
            ids: (B, T) token ids.

        Returns:
            (B, T, D) states, ready for the output embedding.
        """
        batch, length = ids.shape
        cos, sin, half = self.cos[:length], self.sin[:length], self.cos.shape[-1] // 2
        scale = (2 * half) ** -0.5
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            y = F.rms_norm(x, x.shape[-1:], layer.input_layernorm.weight, self.eps)
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            qkv = F.linear(y, weight).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            qk = qkv[:2]
            qk = qk * cos + qk.roll(half, -1) * sin
            scores = torch.matmul(qk[0], qk[1].mT) * scale + self.mask[:length, :length]
            y = torch.matmul(scores.softmax(-1), qkv[2])
            x = x + F.linear(y.transpose(1, 2).reshape(batch, length, -1), attention.o_proj.weight)
            y = F.rms_norm(x, x.shape[-1:], layer.post_attention_layernorm.weight, self.eps)
            gate, up = F.linear(y, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, mlp.down_proj.weight)
        return F.rms_norm(x, x.shape[-1:], self.model.norm.weight, self.eps)


class Muon:
    """Muon (Jordan et al. 2024): Nesterov momentum, then the nearest orthogonal matrix; no weight decay.

    It learns the facts of a world in about half the steps of AdamW. Matrices of one shape are orthogonalised together
    in float32; torch's own Muon does them one by one in bfloat16, which is slow on processors without it.

    Args:
        matrices: Parameters of two dimensions.
    """

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.groups = list(by_shape.values())
        self.sums = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix along its orthogonalised momentum.

        Args:
            lr: Step length; scaled by sqrt(rows / columns) for matrices with more rows than columns.
        """
        for group, sums in zip(self.groups, self.sums, strict=True):
            gradients = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            sums.lerp_(gradients, 1 - MOMENTUM)
            steps = orthogonalised(gradients.lerp_(sums, MOMENTUM), ITERATIONS)
            rows, columns = group[0].shape
            scale = -lr * max(1.0, rows / columns) ** 0.5
            for matrix, step in zip(group, steps, strict=True):
                matrix.add_(step, alpha=scale)


def orthogonalised(matrices: Tensor, iterations: int) -> Tensor:
    """Matrices with the same singular vectors and singular values near one.

    Args:
        matrices: (N, rows, columns) float.
        iterations: Of the quintic iteration.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result
