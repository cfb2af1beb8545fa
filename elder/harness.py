"""A model of lm-evaluation-harness whose likelihoods and answers are an edited model's.

    lm_eval.simple_evaluate(model=ElderLM(editor), tasks=[...])
    python -m elder.harness run --model elder --model_args adapter=DIR,base=... --tasks ...

Importing this registers the model as `elder`. The library is optional (the extra `harness`): without it the module can
be imported, and making a model raises an error that names what to install.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elder.adapter import load_edited
from elder.base import Base, Editor
from elder.errors import ConfigError
from elder.metrics.completions import Ask, Completer
from elder.metrics.scoring import Pair
from elder.models.load import load_base
from elder.tokens import decode

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    if error.name != "lm_eval":
        raise
    TemplateLM = None

__all__ = ["ElderLM", "ask_of", "main"]

NAME = "elder"
BATCH_SIZE, MAX_GEN_TOKS = 8, 256
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
IDLE = ("until", "do_sample", "temperature", "top_p", "top_k", *LIMITS)  # all that a greedy request may contain
LOADING = ("dtype", "device", "revision", "cache_dir")
RUNNING = ("batch_size", "max_batch_size", "max_length", "max_gen_toks")


class ElderLM(TemplateLM or object):  # type: ignore[misc]
    """The model that the harness calls: every request is routed where its context ends, and answered greedily.

    All requests are split over the ranks of the model's runtime; every rank gets all results.

    Args:
        subject: An editor, whose edits are active, or a base model.
        batch_size: Most requests of one forward, a number (also as text).
        max_length: Most tokens of a request; default: the context of the model.
        max_gen_toks: Most new tokens of a generation whose task sets no limit.
        max_batch_size: Taken from the harness and not used: batches are never sized automatically.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
        ConfigError: A number that is none, or an impossible one.
    """

    def __init__(
        self,
        subject: Editor | Base,
        batch_size: int | str = BATCH_SIZE,
        max_length: int | None = None,
        max_gen_toks: int = MAX_GEN_TOKS,
        max_batch_size: int | None = None,
    ) -> None:
        if TemplateLM is None:
            raise ImportError(
                "lm-evaluation-harness (lm_eval) is not installed: pip install 'elder[harness]'", name="lm_eval"
            )
        if not str(batch_size).isdigit():
            raise ConfigError(f"batch_size: expected a number, found '{batch_size}' (it is not sized automatically)")
        super().__init__()
        self.subject = subject
        self.completer = Completer(subject, int(batch_size), max_length)
        self.tokenizer = self.completer.tokenizer
        self.max_gen_toks = int(max_gen_toks)
        self._device = self.completer.runtime.device

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> ElderLM:
        """From `adapter=DIR,base=...`; see `create_from_arg_obj`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> ElderLM:
        """From `adapter` (a directory), on the base that it names or on `base`; `base` alone is the unedited model.

        Args:
            arg_dict: `adapter`, `base`; dtype, device, revision, cache_dir of `load_base`; arguments of this class.
            additional_config: What the harness adds: batch_size, max_batch_size, device.

        Raises:
            ConfigError: An unknown argument, or neither adapter nor base.
            AdapterError: As `load_edited`.
            ModelError: As `load_base`.
        """
        given = {name: value for name, value in {**arg_dict, **(additional_config or {})}.items() if value is not None}
        adapter, base = given.pop("adapter", None), given.pop("base", None)
        unknown = sorted(set(given) - {*LOADING, *RUNNING})
        if unknown or not (adapter or base):
            wrong = f"unknown argument {unknown[0]!r}" if unknown else "neither adapter nor base is given"
            known = ", ".join(("adapter", "base", *LOADING, *RUNNING))
            raise ConfigError(f"model_args of '{NAME}': {wrong}; expected adapter=DIR or base=MODEL, of {known}")
        loading = {name: str(given.pop(name)) for name in LOADING if name in given}
        if adapter:
            return cls(load_edited(str(adapter), None if base is None else str(base), **loading), **given)
        return cls(load_base(str(base), **loading), **given)  # type: ignore[arg-type]

    # ---- requests -----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) its log-likelihood, in nats, and whether it is the greedy one.

        Raises:
            DataError: A continuation without tokens, or longer than the context.
        """
        return self.completer.likelihoods([self.completer.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each (text,) the log-likelihood of all of it after the empty prompt; see `Completer.whole`."""
        return self.completer.whole([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, arguments) the greedy continuation up to a stop text.

        Raises:
            ConfigError: A request asks for sampling or anything else that greedy search does not do.
        """
        asks = [(request.args[0], request.args[1]) for request in requests]
        return self.completer.complete([ask_of(prompt, arguments, self.max_gen_toks) for prompt, arguments in asks])

    # ---- properties of the model --------------------------------------------------------------------------------

    @property
    def max_length(self) -> int:
        """Most tokens of a request."""
        return self.completer.context

    @property
    def batch_size(self) -> int:
        """Most requests of one forward."""
        return self.completer.batch_size

    @property
    def eot_token_id(self) -> int:
        """The id that ends texts."""
        eos = self.tokenizer.eos_token_id
        return self.prefix_token_id if eos is None else int(eos)

    @property
    def prefix_token_id(self) -> int:
        """The id of an empty prompt: BOS, else EOS."""
        return self.completer.prefix

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of requests."""
        return str(self.tokenizer.name_or_path or self.completer.base.source).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt, by the template of the tokenizer; without a new turn the last is continued."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text."""
        return self.completer.encode(string, add_special_tokens)

    def tok_decode(self, tokens: Sequence[int], **_: Any) -> str:
        """The text of ids."""
        return decode(self.tokenizer, tokens)

    def get_model_info(self) -> dict[str, Any]:
        """Facts about the model for the results."""
        base, edited = self.completer.base, not isinstance(self.subject, Base)
        return {
            "model_source": base.source,
            "model_num_parameters": base.model.num_parameters(),
            "model_dtype": str(base.model.dtype),
            "elder_method": self.subject.method if edited else None,  # type: ignore[union-attr]
            "elder_edits": self.subject.edits_applied if edited else 0,  # type: ignore[union-attr]
        }

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return self.completer.likelihoods([Pair(tuple(head), tuple(tail)) for _, head, tail in requests])


def ask_of(prompt: str, arguments: Mapping[str, Any], limit: int) -> Ask:
    """A generation request of the harness.

    Args:
        prompt: What is to be continued.
        arguments: `until` (a text or several), a limit under one of its names (`LIMITS`), and sampling switched off.
        limit: Most new tokens, where the arguments set no limit.

    Raises:
        ConfigError: Sampling, or an argument that is not known here.
    """
    sampled = arguments.get("do_sample")
    if sampled or (sampled is None and float(arguments.get("temperature") or 0) > 0):
        raise ConfigError(
            f"generate_until: the model '{NAME}' answers greedily, and the task asks for sampling ({dict(arguments)}); "
            "set do_sample=False and temperature=0 (gen_kwargs), or use the model 'hf' with editor.model"
        )
    unknown = sorted(set(arguments) - set(IDLE))
    if unknown:
        known = ", ".join(IDLE)
        raise ConfigError(f"generate_until: '{unknown[0]}' is not known to the model '{NAME}'; known: {known}")
    until = arguments.get("until") or ()
    given = next((arguments[name] for name in LIMITS if arguments.get(name) is not None), limit)
    return Ask(prompt, (until,) if isinstance(until, str) else tuple(until), int(given))


def main() -> None:
    """The command line of lm-evaluation-harness, which knows the model `elder`.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
    """
    if TemplateLM is None:
        raise ImportError("lm-evaluation-harness (lm_eval) is not installed: pip install 'elder[harness]'")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if TemplateLM is not None:
    register_model(NAME)(ElderLM)

if __name__ == "__main__":
    main()
