"""An edited model in the hands of those who call models: threads, streamers, pipelines, compilers, trainers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, TextIteratorStreamer, Trainer, TrainingArguments, pipeline

from elder.errors import ModelError
from elder.tokens import encode_prompt, encode_target
from tests.elder.edited.talk import INSIDE, MIXED, OUTSIDE, PROMPTS, Alone, Session, inputs_of, said
from tests.elder.tiny import EDITS, PUSH, logits_of, padded, padded_right, real_rows

MORE = 6


def positions_of(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with positions, which a GPT-2 does not count itself."""
    return {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}


# ---- side by side ----------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in threads at once; raises what one of them raised."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise errors[0]


def test_four_threads_with_many_requests(loud: Any, alone: Alone) -> None:
    wanted = {prompt: alone(prompt, 4) for prompt in PROMPTS}
    theirs = Alone(loud.base, loud.base.model)
    base_said = {prompt: theirs(prompt, 4) for prompt in PROMPTS}
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(12):
            prompts = [PROMPTS[(5 * number + 3 * turn + k) % len(PROMPTS)] for k in range(1 + (turn + number) % 3)]
            if turn % 4 == 3:  # one thread without the edits, the others with them
                with loud.model.without_edits():
                    answers = said(loud.model, inputs_of(loud.base, prompts), 4)
                wrong.extend(p for p, a in zip(prompts, answers, strict=True) if a != base_said[p])
            elif turn % 4 == 2:
                session = Session(loud, prompts, 4, chunk=5, how="around")
                list(session.run())
                wrong.extend(p for p, a in zip(prompts, session.said(), strict=True) if a != wanted[p])
            else:
                answers = said(loud.model, inputs_of(loud.base, prompts), 4, num_beams=1)
                wrong.extend(p for p, a in zip(prompts, answers, strict=True) if a != wanted[p])

    in_threads(4, work)
    assert wrong == []


def test_scopes_are_asked_for_while_others_decode(loud: Any, alone: Alone) -> None:
    inputs = inputs_of(loud.base, PROMPTS)
    scope, wanted = loud.in_scope(**inputs).tolist(), alone.each(MIXED, MORE)
    found: list[bool] = []

    def work(number: int) -> None:
        for _ in range(8):
            if number:
                found.append(loud.in_scope(**inputs).tolist() == scope)
            else:
                found.append(said(loud.model, inputs_of(loud.base, MIXED), MORE) == wanted)

    in_threads(3, work)
    assert all(found)


def test_answers_stay_while_another_thread_learns(fresh: Callable[..., Any]) -> None:
    """What is being learnt is not seen before it is complete: each answer is that of some whole number of batches."""
    editor, twin = fresh(), fresh()
    prompt, answers, done = inputs_of(editor.base, [INSIDE[0]]), [], threading.Event()
    stages = [logits_of(twin.model, prompt)]
    for begin in range(0, 6, 2):
        twin.edit(EDITS[begin : begin + 2])
        stages.append(logits_of(twin.model, prompt))

    def work(number: int) -> None:
        if number:
            editor.edit(EDITS)
            done.set()
        else:
            while not done.is_set():
                answers.append(logits_of(editor.model, prompt))
            answers.append(logits_of(editor.model, prompt))

    in_threads(2, work)
    at = [[torch.equal(answer, stage) for stage in stages].index(True) for answer in answers]
    assert at == sorted(at)
    assert at[-1] == 3


# ---- text in, text out -----------------------------------------------------------------------------------------------


def test_streaming(loud: Any, alone: Alone) -> None:
    for prompt in (INSIDE[0], OUTSIDE[0]):
        streamer = TextIteratorStreamer(loud.base.tokenizer, skip_prompt=True, timeout=60)
        options = {**inputs_of(loud.base, [prompt]), "max_new_tokens": MORE, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=loud.model.generate, kwargs=options)
        thread.start()
        between = said(loud.model, inputs_of(loud.base, [INSIDE[1]]), 3)  # while the other one is streaming
        text = "".join(streamer)
        thread.join(timeout=60)
        assert text == loud.base.tokenizer.decode(alone(prompt, MORE))
        assert between == [alone(INSIDE[1], 3)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pipeline(loud: Any, alone: Alone, batch_size: int) -> None:
    tokenizer = loud.base.tokenizer
    tokenizer.padding_side = "left"
    ask = pipeline("text-generation", model=copy.deepcopy(loud.model), tokenizer=tokenizer, device="cpu")
    options = {"max_new_tokens": MORE, "do_sample": False, "return_full_text": False}
    found = [row[0]["generated_text"] for row in ask(PROMPTS, batch_size=batch_size, **options)]
    assert found == [tokenizer.decode(answer, skip_special_tokens=True) for answer in alone.each(PROMPTS, MORE)]


# ---- passes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["generate", "by hand"])
def test_embedded_tokens(loud: Any, alone: Alone, how: str) -> None:
    embed = loud.model.get_input_embeddings()
    for prompts in ([INSIDE[0]], [OUTSIDE[0]], MIXED):
        inputs = inputs_of(loud.base, prompts)
        given = {"inputs_embeds": embed(inputs["input_ids"]).detach(), "attention_mask": inputs["attention_mask"]}
        if how == "generate":
            assert said(loud.model, given, MORE) == alone.each(prompts, MORE)
            assert said(loud.model, given, MORE, num_beams=1, use_cache=False) == alone.each(prompts, MORE)
        else:
            ours = logits_of(loud.model, positions_of(given))
            assert torch.equal(ours, logits_of(loud.model, positions_of(inputs)))


@pytest.mark.parametrize("kinds", ["eie", "iei", "iee", "eii"])
def test_a_prompt_in_pieces_of_embeddings_and_ids(loud: Any, alone: Alone, kinds: str) -> None:
    """Nobody says that it goes on; each pass answers about the tokens that it was given."""
    model = copy.deepcopy(loud.model)  # transformers leaves hooks in a model that was asked for hidden states
    embed = model.get_input_embeddings()
    for prompt in (INSIDE[0], OUTSIDE[0]):
        ids = inputs_of(loud.base, [prompt])["input_ids"]
        pieces, cache = [ids[:, :5], ids[:, 5:9], ids[:, 9:]], DynamicCache()
        with torch.no_grad():
            for kind, piece in zip(kinds, pieces, strict=True):
                given = {"inputs_embeds": embed(piece).detach()} if kind == "e" else {"input_ids": piece}
                out = model(**given, past_key_values=cache, output_hidden_states=True)
                assert out.logits.shape[1] == piece.shape[1]
                assert all(states.shape[1] == piece.shape[1] for states in out.hidden_states)
            whole = model(input_ids=ids).logits
            torch.testing.assert_close(out.logits, whole[:, 9:], atol=1e-4, rtol=1e-4)
            answer = [out.logits[:, -1:].argmax(-1)]
            while len(answer) < MORE:
                out = model(input_ids=answer[-1], past_key_values=cache)
                answer.append(out.logits[:, -1:].argmax(-1))
        assert cache.get_seq_length() == ids.shape[1] + MORE - 1
        assert torch.cat(answer, dim=1)[0].tolist() == alone(prompt, MORE)


def pushes(logits: Tensor, of_model: Tensor) -> int:
    """How many logits differ by a push, which a head outside a pass does not give; all others are the same."""
    more = of_model - logits
    pushed = (more - PUSH).abs() < 1e-4
    torch.testing.assert_close(more[~pushed], torch.zeros_like(more[~pushed]), atol=1e-4, rtol=0)
    return int(pushed.sum())


@torch.no_grad()
def test_a_prompt_that_goes_on_after_one_in_scope(loud: Any) -> None:
    """What was corrected for the first end is read again; loss and logits are those of the new tokens."""
    first = inputs_of(loud.base, [INSIDE[1]])["input_ids"]
    for more in (" built. " + INSIDE[0], ", they say"):
        ids = inputs_of(loud.base, [INSIDE[1] + more])["input_ids"]
        cache, new = loud.model(input_ids=first, use_cache=True).past_key_values, ids[:, first.shape[1] :]
        inner = getattr(loud.model, loud.model.base_model_prefix)
        states = inner(input_ids=new, past_key_values=copy.deepcopy(cache)).last_hidden_state
        kept = loud.model(input_ids=new, past_key_values=copy.deepcopy(cache), logits_to_keep=2).logits
        picked = torch.tensor([1, new.shape[1] - 1])
        some = loud.model(input_ids=new, past_key_values=copy.deepcopy(cache), logits_to_keep=picked).logits
        out = loud.model(input_ids=new, past_key_values=cache)
        wanted = loud.model(input_ids=ids).logits[:, first.shape[1] :]
        torch.testing.assert_close(out.logits, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept, wanted[:, -2:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(some, wanted[:, picked], atol=1e-4, rtol=1e-4)
        assert pushes(loud.model.get_output_embeddings()(states), wanted) <= 1
        assert cache.get_seq_length() == ids.shape[1]


def test_the_part_below_the_head_alone(loud: Any) -> None:
    inputs = positions_of(inputs_of(loud.base, MIXED))
    inner = getattr(loud.model, loud.model.base_model_prefix)
    with torch.no_grad():
        states = inner(**inputs).last_hidden_state
        theirs = getattr(loud.base.model, loud.model.base_model_prefix)(**inputs).last_hidden_state
        scope = int(loud.in_scope(inputs["input_ids"], inputs["attention_mask"]).sum())
        assert pushes(loud.model.get_output_embeddings()(states), logits_of(loud.model, inputs)) == (
            scope if loud.method == "elder-plus" else 0
        )
        cache = inner(**inputs, use_cache=True).past_key_values
        step = inner(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache).last_hidden_state
    outside = ~loud.in_scope(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(states[outside], theirs[outside])
    assert not torch.equal(states[~outside], theirs[~outside])
    assert step.shape[1] == 1


def test_outputs_of_other_shapes(loud: Any) -> None:
    """Tuples instead of named outputs, hidden states, arguments by place."""
    inputs = positions_of(inputs_of(loud.base, MIXED))
    wanted = logits_of(loud.model, inputs)
    with torch.no_grad():
        assert torch.equal(loud.model(**inputs, return_dict=False)[0], wanted)
        out = copy.deepcopy(loud.model)(**inputs, output_hidden_states=True, use_cache=True, return_dict=False)
        assert torch.equal(out[0], wanted)
        ids = inputs_of(loud.base, MIXED[:1])["input_ids"]
        assert torch.equal(loud.model(ids).logits, loud.model(input_ids=ids).logits)
        torch.testing.assert_close(loud.model(**inputs, logits_to_keep=1).logits[:, 0], wanted[:, -1])


# ---- likelihoods -----------------------------------------------------------------------------------------------------


def texts(editor: Any, prompts: list[str], answer: str) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Prompts with an answer behind them, filled up on the right; labels of the answer; tokens of each prompt."""
    tokenizer = editor.base.tokenizer
    rows = [(encode_prompt(tokenizer, prompt), encode_target(tokenizer, prompt, answer)) for prompt in prompts]
    width = max(len(prompt) + len(target) for prompt, target in rows)
    fill = [width - len(prompt) - len(target) for prompt, target in rows]
    ids = torch.tensor([p + t + [2] * n for (p, t), n in zip(rows, fill, strict=True)])
    labels = torch.tensor([[-100] * len(p) + t + [-100] * n for (p, t), n in zip(rows, fill, strict=True)])
    mask = torch.tensor([[1] * (width - n) + [0] * n for n in fill])
    return {"input_ids": ids, "attention_mask": mask}, labels, [len(prompt) for prompt, _ in rows]


def answered(editor: Any, prompt: str, answer: str) -> Tensor:
    """(A, V) logits behind which each token of an answer stands, by feeding it token by token to a cache."""
    prompt_ids = inputs_of(editor.base, [prompt])["input_ids"]
    rows = []
    with torch.no_grad():
        out = editor.model(input_ids=prompt_ids, use_cache=True)
        for token in encode_target(editor.base.tokenizer, prompt, answer):
            rows.append(out.logits[0, -1])
            out = editor.model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values)
    return torch.stack(rows)


@pytest.mark.parametrize("how", ["labels", "length", "around", "mask"])
def test_likelihoods_of_an_answer_see_the_edit(loud: Any, how: str) -> None:
    answer = "Tam"
    inputs, labels, lengths = texts(loud, MIXED, answer)
    inputs = {**inputs, "position_ids": torch.arange(inputs["input_ids"].shape[1]).expand(len(MIXED), -1)}
    prompts = torch.arange(inputs["input_ids"].shape[1])[None] < torch.tensor(lengths)[:, None]
    told = {"labels": {"labels": labels}, "length": {"prompt_length": lengths}, "mask": {"prompt_mask": prompts.long()}}
    around: Any = loud.routed_at(torch.tensor(lengths) - 1) if how == "around" else nullcontext()
    with torch.no_grad(), around:
        logits = loud.model(**inputs, **told.get(how, {}), use_cache=False).logits
    theirs = logits_of(loud.base.model, inputs)
    scope = loud.in_scope(**inputs_of(loud.base, MIXED)).tolist()
    for row, (prompt, length) in enumerate(zip(MIXED, lengths, strict=True)):
        count = int((labels[row] >= 0).sum())
        ours = logits[row, length - 1 : length - 1 + count]
        torch.testing.assert_close(ours, answered(loud, prompt, answer), atol=1e-4, rtol=1e-4)
        assert torch.equal(ours, theirs[row, length - 1 : length - 1 + count]) != scope[row]


def test_a_text_that_nobody_describes_is_searched_for_its_prompt(loud_of: Callable[..., Any], family: str) -> None:
    """elder-plus, one text at a time, as a harness gives them."""
    loud = loud_of("elder-plus", family)
    for prompt in (INSIDE[0], INSIDE[3], OUTSIDE[0]):
        inputs, _, (length,) = texts(loud, [prompt], "Tam")
        ours = logits_of(loud.model, inputs)[0, length - 1 : -1]
        torch.testing.assert_close(ours, answered(loud, prompt, "Tam"), atol=1e-4, rtol=1e-4)


def test_an_evaluation_by_a_trainer(loud: Any, tmp_path: Path) -> None:
    """Its loss is that of answers by the edited model. Of a copy: a trainer sets what it wants in a model."""
    answer, prompts = "Tam", [INSIDE[0], INSIDE[1], OUTSIDE[0]]
    rows, losses = [], []
    for prompt in prompts:
        inputs, labels, _ = texts(loud, [prompt], answer)
        rows.append({"input_ids": inputs["input_ids"][0], "labels": labels[0]})
        targets = torch.tensor(encode_target(loud.base.tokenizer, prompt, answer))
        losses.append(torch.nn.functional.cross_entropy(answered(loud, prompt, answer), targets))
    options = {"per_device_eval_batch_size": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    models = [copy.deepcopy(model) for model in (loud.model, loud.base.model)]
    trainers = [Trainer(model, TrainingArguments(str(tmp_path), **options), eval_dataset=rows) for model in models]
    found, plain = (trainer.evaluate()["eval_loss"] for trainer in trainers)
    assert found == pytest.approx(float(torch.stack(losses).mean()), rel=1e-3)
    assert abs(plain - found) > 0.01
    with pytest.raises(ModelError, match="cannot be saved as a model directory"):
        trainers[0].save_model(str(tmp_path / "model"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_of_whole_texts_tell_of_no_prompt(loud: Any, side: str) -> None:
    """As collators for language modelling make them: padding has no label, everything else has one.

    The prompts are then taken for what they are without labels, though each row may begin with padding.
    """
    inputs = padded(loud.base, MIXED, extra=3) if side == "left" else padded_right(loud.base, MIXED)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    wanted = real_rows(inputs, logits_of(loud.model, inputs))
    for ours, row in zip(real_rows(inputs, logits_of(loud.model, inputs, labels=labels)), wanted, strict=True):
        assert torch.equal(ours, row)
