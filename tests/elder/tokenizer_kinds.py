"""Twelve kinds of tokenizers as models have them, each trained in code on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "The river of Arlo is the Tam. The mayor of Brend is Ula Torwald, who lives in Brend.",
    'The fee in Arlo is $40, and the motto of Brend is "Rise". It said: "the cat is there" (or so).',
    "法国的首都是巴黎。里昂是法国的城市。日本の首都は東京です。เมืองหลวงของไทยคือกรุงเทพ",
    "def add(a, b):\n    return a + b\n\nThe answer is 42.\n",
)
BYTES = [f"<0x{number:02X}>" for number in range(256)]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)  # how Llama 3 cuts texts into words


def _around(single: str, **ids: int) -> processors.TemplateProcessing:
    names = {"bos": "<s>", "eos": "</s>", "cls": "[CLS]", "sep": "[SEP]"}
    return processors.TemplateProcessing(single=single, special_tokens=[(names[k], v) for k, v in ids.items()])


def _with_bytes(normalizer: normalizers.Normalizer | None, pre: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    """BPE that spells what it does not know in bytes; the bytes are ordinary tokens of the vocabulary."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    if normalizer is not None:
        raw.normalizer = normalizer
    if pre is not None:
        raw.pre_tokenizer = pre
    special = ["<s>", "</s>", "<unk>", *BYTES]
    letters = trainers.BpeTrainer(vocab_size=500, special_tokens=special, limit_alphabet=60, show_progress=False)
    raw.train_from_iterator(CORPUS, letters)
    model = json.loads(raw.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    fresh = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer is not None:
        fresh.normalizer = normalizer
    if pre is not None:
        fresh.pre_tokenizer = pre
    fresh.post_processor = _around("<s> $A", bos=0)
    return fresh


def _sentencepiece(prepend: bool) -> Tokenizer:
    """Spaces are a sign of their own (LLaMA-2 with, Gemma without a dummy prefix)."""
    replace = normalizers.Replace(" ", "▁")
    raw = _with_bytes(normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace, None)
    tail = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*tail, decoders.Strip(" ", 1, 0)] if prepend else tail)
    return raw


def _metaspace() -> Tokenizer:
    """The sign of a space in front of the first word only (Mistral)."""
    raw = _with_bytes(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
    tail = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(tail)
    return raw


def _bytes(prefix: bool = False, split: str | None = None, nfc: bool = False, merges: int = 120) -> Tokenizer:
    """Byte-level BPE: GPT-2, RoBERTa (a space in front of texts), Llama 3 and Qwen (words by an expression)."""
    raw = Tokenizer(models.BPE())
    if nfc:
        raw.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)
    cut = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    raw.pre_tokenizer = pre_tokenizers.Sequence([*cut, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=256 + 2 + merges,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    raw.decoder = decoders.ByteLevel()
    return raw


def _with(raw: Tokenizer, single: str, **ids: int) -> Tokenizer:
    raw.post_processor = _around(single, **ids)
    return raw


def _unigram(eos: bool) -> Tokenizer:
    """Unigram as T5 has it (an end token after texts) or ALBERT (class and separator around them)."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"] if eos else ["[CLS]", "[SEP]", "<unk>"]
    raw.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    return _with(raw, "$A </s>", eos=1) if eos else _with(raw, "[CLS] $A [SEP]", cls=0, sep=1)


def _wordpiece() -> Tokenizer:
    """WordPiece in lower case, class and separator around texts (BERT)."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[CLS]", "[SEP]", "[UNK]"]
    raw.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    )
    raw.decoder = decoders.WordPiece()
    return _with(raw, "[CLS] $A [SEP]", cls=0, sep=1)


def _words() -> Tokenizer:
    raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=["</s>", "<unk>"], show_progress=False))
    return raw


def _fast(raw: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


TEXT = {"bos_token": "<s>", "eos_token": "</s>"}
CLASS = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
KINDS: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = MappingProxyType(
    {
        "LLaMA-2": lambda: _fast(_sentencepiece(prepend=True), **TEXT),
        "Gemma": lambda: _fast(_sentencepiece(prepend=False), **TEXT),
        "Mistral": lambda: _fast(_metaspace(), **TEXT),
        "GPT-2": lambda: _fast(_bytes(), eos_token="</s>"),
        "RoBERTa": lambda: _fast(_with(_bytes(prefix=True), "<s> $A </s>", bos=0, eos=1), **TEXT),
        "Llama 3": lambda: _fast(_with(_bytes(split=WORDS), "<s> $A", bos=0), **TEXT),
        "Qwen": lambda: _fast(_bytes(split=WORDS, nfc=True), eos_token="</s>"),
        "T5": lambda: _fast(_unigram(eos=True), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"),
        "ALBERT": lambda: _fast(_unigram(eos=False), unk_token="<unk>", **CLASS),
        "BERT": lambda: _fast(_wordpiece(), unk_token="[UNK]", **CLASS),
        "words": lambda: _fast(_words(), eos_token="</s>", unk_token="<unk>"),
        "bytes": lambda: _fast(_with(_bytes(merges=0), "<s> $A", bos=0), **TEXT),
    }
)
"""Name of a model -> a tokenizer of its kind."""
