"""A prompt as a chat client sends it: rendered by the tokenizer's chat template, up to where the assistant speaks.

Knows the tokenizer; nothing of models, edits or files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from elder.bounded import call_bounded
from elder.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODES = ("auto", "on", "off", "both")
MOST_CHARACTERS = 1_000_000  # of what a template puts around a prompt
LONGEST_TRIAL_S = 20.0
MOST_TRIAL_BYTES = 400 << 20
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CODE = re.compile(rf"\{{#.*?#\}}|(\{{[{{%](?:{_QUOTED.pattern}|(?![%}}]\}}).)*)", re.DOTALL)  # comments are skipped
MARK = "Elder0placeholder"  # stands for a message while the template is looked at; no template changes such a word


@dataclass(frozen=True)
class Chat:
    """Renders prompts as the message of a user.

    Attributes:
        tokenizer: Has the template.
        system: Text of a system message before it; None: none is sent, and the template may put its own.
        plain: Whether edits are trained and measured as plain texts too.
    """

    tokenizer: PreTrainedTokenizerBase
    system: str | None = None
    plain: bool = False

    def render(self, prompt: str) -> str:
        """The conversation with one question, up to where the answer begins.

        Raises:
            ModelError: The template refuses it.
        """
        return self._apply([self._user(prompt)], add_generation_prompt=True)

    @cached_property
    def head(self) -> str:
        """What stands before the user's words: BOS, a system message, the user's header."""
        return self.render(MARK).partition(MARK)[0]

    @cached_property
    def tail(self) -> str:
        """What a rendered prompt ends in: everything after the user's words, the assistant's header included."""
        return self.render(MARK).rpartition(MARK)[2]

    @cached_property
    def lead(self) -> str:
        """What an answer begins with in this template, before its words: nothing, a space, an empty thought."""
        return self._around[0]

    @cached_property
    def closing(self) -> str:
        """What the template puts after an answer: the token that ends a turn, mostly."""
        return self._around[1]

    def holds(self, prompt: str) -> bool:
        """Whether a prompt is rendered already: it ends as the template ends where the assistant is to speak."""
        tail = self.tail.strip()
        return bool(tail) and prompt.rstrip().endswith(tail)

    def completed(self, prompt: str) -> str:
        """A prompt that `holds`, with the white space of the template at its end, which some files of edits lose."""
        return prompt if prompt.endswith(self.tail) else prompt.rstrip() + self.tail[len(self.tail.rstrip()) :]

    def check(self, longest_s: float = LONGEST_TRIAL_S) -> None:
        """Try the template.

        Args:
            longest_s: Seconds that one question may take to render.

        Raises:
            ModelError: It refuses a plain question, or the system message, leaves the words out, renders more than
                `MOST_CHARACTERS` around them, takes too much memory, or has not ended in time.
        """
        if _has_powers(self.tokenizer.chat_template):  # of Python's integers: no thread runs before one is computed
            raise ModelError("data.chat: the chat template computes a power (**), which has no bound; set it to off")
        try:
            found = call_bounded(lambda: self.render(MARK), longest_s, MOST_TRIAL_BYTES)
        except TimeoutError as error:
            raise ModelError(
                f"data.chat: the chat template has not rendered one question in {longest_s:g} s; set data.chat to off"
            ) from error
        if MARK not in found:
            raise ModelError("data.chat: the chat template leaves the user's words out; set data.chat to off")

    @cached_property
    def _around(self) -> tuple[str, str]:
        """Lead and closing of an answer, read off a whole conversation."""
        answer = {"role": "assistant", "content": f"{MARK}1"}
        try:
            whole = self._apply([self._user(MARK), answer], add_generation_prompt=False)
        except ModelError:
            return "", ""
        before, _, after = whole.rpartition(f"{MARK}1")
        head = self.render(MARK)
        return (before[len(head) :] if before.startswith(head) else ""), after

    def _user(self, prompt: str) -> dict[str, str]:
        return {"role": "user", "content": prompt}

    def _apply(self, messages: list[dict[str, str]], **how: Any) -> str:
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        try:
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, **how))
        except MemoryError as error:
            raise ModelError(
                "data.chat: the chat template needs too much memory for one question; set data.chat to off"
            ) from error
        except Exception as error:  # a template is its author's program: it may raise anything
            key = "data.chat" if self.system is None else "data.system"
            raise ModelError(f"{key}: the tokenizer's chat template refuses it: {error}") from error
        around = len(text) - sum(len(message["content"]) for message in messages)
        if around > MOST_CHARACTERS:
            raise ModelError(
                f"data.chat: the chat template puts {around:,} characters around a prompt, at most "
                f"{MOST_CHARACTERS:,} are taken; set data.chat to off"
            )
        return text


def chat_of(tokenizer: PreTrainedTokenizerBase, mode: str = "auto", system: str | None = None) -> Chat | None:
    """How prompts are rendered, or None where they are plain texts.

    Args:
        tokenizer: Of the model.
        mode: `auto`: by the template where there is one; `on`: there must be one; `off`: never; `both`: as `on`, and
            edits are trained and measured as plain texts too.
        system: Text of the system message.

    Raises:
        ConfigError: An unknown mode.
        ModelError: There is no template, or it refuses to render.
    """
    if mode not in MODES:
        raise ConfigError(f"data.chat: expected one of {', '.join(MODES)}, found '{mode}'")
    has = bool(tokenizer.chat_template)
    if mode in ("on", "both") and not has:
        raise ModelError(
            f"data.chat: it is {mode}, but the model's tokenizer has no chat template; set it to auto or off"
        )
    if mode == "off" or not has:
        if system is not None:
            why = "data.chat is off" if has else "the model's tokenizer has none"
            raise ModelError(f"data.system: only chat templates send it, and {why}; take it out")
        return None
    chat = Chat(tokenizer, system, mode == "both")
    chat.check()
    return chat


def _has_powers(template: Any) -> bool:
    """Whether the code of a template, or of one of several by name, has the operator `**`; its texts may."""
    texts = template.values() if isinstance(template, Mapping) else [template]
    codes = (code for text in texts for code in _CODE.findall(str(text)))
    return any("**" in _QUOTED.sub("", code) for code in codes)


def chat_record(chat: Chat | None) -> dict[str, Any] | None:
    """How prompts go through a chat template, for a manifest; None: they do not."""
    if chat is None:
        return None
    return {"system": chat.system, "plain": True} if chat.plain else {"system": chat.system}


def template_digest(chat: Chat) -> str:
    """sha256 of the template itself."""
    return hashlib.sha256(str(chat.tokenizer.chat_template).encode()).hexdigest()


def in_words(record: Mapping[str, Any] | None) -> str:
    """What `chat_record` says, for a user."""
    if record is None:
        return "plain prompts"
    name = f"the chat template{' ' + record['template'][:12] if record.get('template') else ''}"
    system = "" if record["system"] is None else f" and the system message {record['system']!r}"
    return name + system + (", and plain prompts too" if record.get("plain") else "")
