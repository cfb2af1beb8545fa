"""The tokenizer of a world model: byte-level BPE, trained on the world's own text.

Every text can be encoded, since all bytes are in the vocabulary. `<s>` is put in front by the tokenizer,
`</s>` ends a statement, `<pad>` is a separate token. Knows nothing of models.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from elder.world.facts import World
from elder.world.prose import sentences

NAME_WEIGHT = 400  # how often each name occurs, so that most become one token
BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def build_tokenizer(world: World, vocab: int, seed: int, positions: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a world.

    Args:
        world: Its statements (every fact once in each wording that training shows) are the corpus.
        vocab: Size of the vocabulary in tokens, special tokens included; at least 259.
        seed: Seed of the generic sentences.
        positions: Longest input of the model, in tokens.
    """
    statements = [f"{prompt} {answer}." for prompt, answer in world.prompts(trained=True)]
    prose = sentences(len(statements) // 4, random.Random(f"tokenizer {seed}"))
    # Answers are repeated more often than they occur, so that most become one or two tokens: shorter training rows.
    relations = {fact.relation.name: fact.relation for fact in world.facts}
    answers = [f" {answer}." for relation in relations.values() for answer in relation.objects]
    # A name of one or two tokens is learned several times faster than one that must be put together from syllables.
    names = sorted({part for person in world.people for part in person.split()})
    words = [f" {name}" for name in names] * NAME_WEIGHT + names * (NAME_WEIGHT // 4)
    corpus = statements + prose + answers * (1 + len(statements) // len(answers)) + words
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
