"""The parts of the training: tokenizer, rows, forward pass, optimizer, repeatability."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from elder.world.facts import World, make_world
from elder.world.prose import sentences
from elder.world.tokens import build_tokenizer
from elder.world.training import (
    Muon,
    TrainingForward,
    accuracy,
    answer_mask,
    build_model,
    orthogonalised,
    tokenize,
    train,
)
from tests.elder.world.micro import MICRO


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(MICRO.size)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return build_tokenizer(world, MICRO.shape.vocab, MICRO.size.seed, MICRO.shape.positions)


@pytest.mark.parametrize("text", ["Kelmo Selmark lives in", "Zürich — 日本 🙂\n\ttabs", "x  y", "", "don't </ s>"])
def test_any_text_can_be_encoded_and_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text


def test_special_tokens_are_three_and_the_tokenizer_is_repeatable(
    world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [0, 1, 2]
    again = build_tokenizer(world, MICRO.shape.vocab, MICRO.size.seed, MICRO.shape.positions)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_tokens_of_a_prompt_begin_its_statement(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = world.prompts(trained=True)
    rows = tokenize(tokenizer, pairs)
    mask = answer_mask(rows, rows.ids.shape[1])
    for (prompt, answer), ids, length, first, row in zip(
        pairs, rows.ids, rows.lengths, rows.answers, mask, strict=True
    ):
        assert ids[:first].tolist() == tokenizer(prompt)["input_ids"]
        assert tokenizer.decode(ids[first : length - 1]) == f" {answer}."
        assert ids[length - 1] == tokenizer.eos_token_id
        assert ids[1:][row].tolist() == ids[first:length].tolist()


def test_the_training_forward_computes_what_the_model_computes(tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(MICRO.shape, tokenizer)
        ids = torch.randint(3, 300, (5, 11))
    forward = TrainingForward(model, 30)
    torch.testing.assert_close(forward(ids), model.model(ids).last_hidden_state, rtol=1e-4, atol=1e-5)
    grads = []
    for states in (forward(ids), model.model(ids).last_hidden_state):
        model.zero_grad()
        states.square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalised(matrices, 8)
    core = left.mT @ made @ right.mT
    diagonal = core.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    assert (core - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_muon_moves_downhill() -> None:
    matrices = [torch.nn.Parameter(torch.eye(4) * k) for k in (2.0, 3.0)]
    muon = Muon(matrices)
    for _ in range(60):
        sum(matrix.square().sum() for matrix in matrices).backward()  # type: ignore[union-attr]
        muon.step(0.06)
        for matrix in matrices:
            matrix.grad = None
    assert all(matrix.norm() < 0.5 * start for matrix, start in zip(matrices, (4.0, 6.0), strict=True))


def test_training_is_repeatable_and_leaves_the_process_as_it_was(
    world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(11)
    random.seed(11)
    state, other, threads = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    seen: list[tuple[int, int]] = []
    first = train(MICRO, world, tokenizer, progress=lambda done, of, loss: seen.append((done, of)))
    second = train(MICRO, world, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == other
    assert torch.get_num_threads() == threads
    assert torch.get_float32_matmul_precision() == precision
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert not first.training
    reseeded = train(replace(MICRO, size=replace(MICRO.size, seed=4)), world, tokenizer)
    assert not torch.equal(first.lm_head.weight, reseeded.lm_head.weight)


def test_accuracy_counts_whole_answers(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    class Oracle(torch.nn.Module):
        """Says the row that it is given, except for rows with the token `blind`, where it says padding."""

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            rows = torch.cat([input_ids[:, 1:], input_ids[:, :1]], 1)
            wrong = (input_ids == self.blind).any(1, keepdim=True)
            logits = torch.nn.functional.one_hot(rows.masked_fill(wrong, 2), len(tokenizer)).float()
            return type("Output", (), {"logits": logits})

    pairs = world.prompts(trained=False)
    oracle = Oracle()
    oracle.blind = -1
    assert accuracy(oracle, tokenizer, pairs) == 1.0  # type: ignore[arg-type]
    word = tokenizer(" " + pairs[0][1], add_special_tokens=False)["input_ids"][0]
    oracle.blind = word
    hit = sum(word in tokenizer(f"{prompt} {answer}.")["input_ids"] for prompt, answer in pairs)
    assert accuracy(oracle, tokenizer, pairs) == pytest.approx(1 - hit / len(pairs))  # type: ignore[arg-type]


def test_generic_sentences_name_nobody_and_are_repeatable(world: World) -> None:
    made = sentences(50, random.Random(1))
    assert made == sentences(50, random.Random(1))
    assert all(text[0].isupper() and text[-1] in ".?!" for text in made)
    assert not any(name.split()[1] in text for name in world.people for text in made)
