"""The class of an edited model: that of its base, with the edits active in everything that transformers does with it.

A request tells the model where its prompt ends, through `generate` or by an argument of a pass; what was decided for a
sequence is kept with its cache. Knows nothing of how edits are found, and of methods only the protocol `Edits`.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.errors import ModelError


class Edits(Protocol):
    """The part of an edited model beside the weights of its base.

    Attributes:
        summary: One line about method and base, for people.
    """

    summary: str

    @property
    def count(self) -> int:
        """Edits that are active."""

    def running(self) -> bool:
        """Whether a pass of this thread or task is running already."""

    def forward(self, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Run a pass with the edits active; `kwargs` may hold `prompt_mask` or `prompt_length`."""

    def request(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`, with those that must accompany the request."""

    def batching(self, config: Any) -> None:
        """Set, in a config of continuous batching, what the edits need."""

    def disabled(self) -> AbstractContextManager[None]:
        """Passes of this thread or task are the base model's inside the block."""

    def to(self, device: torch.device) -> None:
        """Follow the model to a device."""

    def merged(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Weights of the model, by name, as they are with the edits in them.

        Raises:
            ModelError: The edits are no change of weights.
        """


class EditedModel:
    """Mixed into the class of a base model by `make_edited`."""

    edits: Edits

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.GenerationMixin.generate`; routed once, where the given prompt ends."""
        plain: Any = super().generate  # type: ignore[misc]
        if inputs is not None:
            kwargs["inputs"] = inputs
        kwargs.update(zip(list(inspect.signature(plain).parameters)[1:], args, strict=False))
        return plain(**self.edits.request(self._described(kwargs)))

    def without_edits(self) -> AbstractContextManager[None]:
        """Calls of this thread or task are answered by the unedited model inside the block; other threads' are not."""
        return self.edits.disabled()

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Write a model directory with the edits in the weights.

        Raises:
            ModelError: The edits are no change of weights, so that no model directory could hold them.
        """
        own: Mapping[str, Tensor] = self.state_dict()  # type: ignore[attr-defined]
        merged = dict(self.edits.merged(self))  # type: ignore[arg-type]
        given = kwargs.get("state_dict")
        if given is not None:  # a trainer passes the weights of the base
            changed = {n: t for n, t in merged.items() if n in given and t.data_ptr() != own[n].data_ptr()}
            merged = {**given, **changed}
        kwargs["state_dict"] = merged
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        """Let a block that is recomputed in the backward pass see the edits of the forward pass."""
        name = "gradient_checkpointing_func"
        if enable and kwargs.get(name) is not None:
            kwargs[name] = functools.partial(_in_the_same_pass, kwargs[name])
        super()._set_gradient_checkpointing(enable, **kwargs)  # type: ignore[misc]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the base model would change with it, and the edits were learnt on other weights.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "weights cannot be loaded into an edited model: they are its base's. Load them into a model of their own "
            "(elder.load_base), or take over edits with editor.load_state_dict or elder.load_edited"
        )

    def init_continuous_batching(
        self,
        generation_config: Any = None,
        continuous_batching_config: Any = None,
        workload_hints: Any = None,
    ) -> Any:
        """See transformers; settings that the edits need are made in a copy of the given config."""
        from transformers import ContinuousBatchingConfig

        config = copy.deepcopy(continuous_batching_config) or ContinuousBatchingConfig()
        self.edits.batching(config)
        return super().init_continuous_batching(  # type: ignore[misc]
            generation_config, continuous_batching_config=config, workload_hints=workload_hints
        )

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """A draft model that is not edited does not get `prompt_mask`."""
        draft = kwargs.get("assistant_model")
        if draft is not None and not isinstance(draft, EditedModel) and "model_kwargs" in kwargs:
            kept = {name: value for name, value in kwargs["model_kwargs"].items() if name != "prompt_mask"}
            kwargs["model_kwargs"] = kept
        return super()._get_candidate_generator(*args, **kwargs)  # type: ignore[misc]

    def _described(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate` with a `prompt_mask`, unless there is one or no prompt."""
        if kwargs.get("prompt_mask") is not None:
            return kwargs
        tokens = next((t for n in ("inputs", "input_ids", "inputs_embeds") if (t := kwargs.get(n)) is not None), None)
        if not isinstance(tokens, Tensor):
            return kwargs
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            mask = self._guessed_mask(tokens, kwargs)
        return {**kwargs, "prompt_mask": mask}

    def _guessed_mask(self, tokens: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """(B, W) as `generate` makes it where none is given: padding is known by its id, unless it ends answers."""
        ones = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        config = kwargs.get("generation_config") or self.generation_config  # type: ignore[attr-defined]
        pad = kwargs.get("pad_token_id", getattr(config, "pad_token_id", None))
        ends = kwargs.get("eos_token_id", getattr(config, "eos_token_id", None))
        ends = [] if ends is None else [ends] if isinstance(ends, int) else [int(end) for end in ends]
        if pad is None or int(pad) in ends or tokens.is_floating_point():
            return ones
        return (tokens != int(pad)).long()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """`to`, `half`, `cuda`: changes this model only. Edits follow to the device and keep their number formats."""
        own_parameters(self)  # type: ignore[arg-type]
        before = self.device  # type: ignore[attr-defined]
        super()._apply(fn, recurse)  # type: ignore[misc]
        if self.device != before:  # type: ignore[attr-defined]
            self.edits.to(self.device)  # type: ignore[attr-defined]
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (edited_class, base_class(type(self))), self.__dict__

    def __repr__(self) -> str:
        edits = f"{self.edits.count} edit" + ("" if self.edits.count == 1 else "s")
        return f"Edited model: {edits}, {self.edits.summary}\n{super().__repr__()}"


def make_edited(model: PreTrainedModel, edits: Edits) -> PreTrainedModel:
    """Let a model carry edits; it stays an instance of its class, and keeps its name.

    Args:
        model: A clone (see `elder.models.anatomy.clone_sharing_weights`); its class is changed in place.
        edits: Attached to its parts already.
    """
    kind: Any
    inner = getattr(model, model.base_model_prefix, None)
    if isinstance(inner, nn.Module) and inner is not model:
        kind = type(inner)
        inner.__class__ = _inner_class(kind)
        object.__setattr__(inner, "edits", edits)
    kind = type(model)
    model.__class__ = edited_class(kind)
    object.__setattr__(model, "edits", edits)
    return model


@functools.cache
def edited_class(kind: Any) -> Any:
    """The class of edited models of a kind."""
    made = _with_forward(kind, EditedModel, lambda self, call, kwargs: self.edits.forward(call, kwargs))
    made.prepare_inputs_for_generation = _with_prompt_mask(kind.prepare_inputs_for_generation)
    return made


def base_class(kind: type) -> type:
    """The class that an edited model's class was made of."""
    return kind.__mro__[2]


def _in_the_same_pass(checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Checkpoint a function so that it always runs with the present values of this thread or task."""
    now = contextvars.copy_context()
    return checkpoint(lambda *a, **k: now.copy().run(function, *a, **k), *args, **kwargs)


def own_parameters(model: nn.Module) -> None:
    """Give a module tree new parameters, which share the data of those it had; tied ones stay tied."""
    fresh: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in fresh:
                fresh[id(parameter)] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
            module._parameters[name] = fresh[id(parameter)]


class EditedInner:
    """Mixed into the class of the part below the head, so that a call of that part alone is edited too."""

    edits: Edits

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (_inner_class, base_class(type(self))), self.__dict__


@functools.cache
def _inner_class(kind: Any) -> Any:
    def route(self: Any, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        return call(**kwargs) if self.edits.running() else self.edits.forward(call, kwargs)

    return _with_forward(kind, EditedInner, route)


def _with_forward(kind: Any, mixin: type, route: Callable[[Any, Callable[..., Any], dict[str, Any]], Any]) -> Any:
    """A class with the name of `kind`, whose forward is called through `route`."""
    plain = kind.forward
    names = [name for name in inspect.signature(plain).parameters if name != "self"]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.update(zip(names, args, strict=False))
        return route(self, functools.partial(plain, self), kwargs)

    eager = torch.compiler.disable(forward, recursive=False)  # type: ignore[no-untyped-call]
    functools.update_wrapper(eager, plain)
    body = {"forward": eager, "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (mixin, kind), body)


def _with_prompt_mask(plain: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`prepare_inputs_for_generation` that hands `prompt_mask` on to every pass of a generation.

    It shows the parameters of `plain` too, since transformers looks there for what a model can do.
    """

    def prepare_inputs_for_generation(
        self: Any, *args: Any, prompt_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = plain(self, *args, **kwargs)
        return inputs if prompt_mask is None else {**inputs, "prompt_mask": prompt_mask}

    functools.update_wrapper(prepare_inputs_for_generation, plain)
    shown = inspect.signature(plain)
    known = list(shown.parameters.values())
    place = len(known) - (known[-1].kind is inspect.Parameter.VAR_KEYWORD)
    known.insert(place, inspect.Parameter("prompt_mask", inspect.Parameter.KEYWORD_ONLY, default=None))
    prepare_inputs_for_generation.__signature__ = shown.replace(parameters=known)  # type: ignore[attr-defined]
    return prepare_inputs_for_generation


def _restored(class_of: Callable[[Any], Any], kind: Any) -> Any:
    """An empty object of the class that was made of a kind, for copies and pickles."""
    made = class_of(kind)
    return made.__new__(made)


def tell_apart(maps: Iterable[nn.Module]) -> None:
    """Give maps separate classes, with the names of those they had, whose forward runs the hooks that they have now.

    `torch.compile` reuses what it made of one block for the next one if their parts are of the same classes; it does
    not look at hooks. Without a separate class it would skip the hook of a map without a word. And torch calls a module
    without hooks in a shorter way: with six edited maps, that is a sixth of what an edited model adds to a token.
    """
    for module in maps:
        if isinstance(module, _ToldApart):
            continue
        kind: Any = type(module)
        module.__class__ = _told_apart(kind)
        if not _plain(module):
            continue
        for name, hooks in (("before", module._forward_pre_hooks), ("after", module._forward_hooks)):
            module.__dict__[name] = (*hooks.values(),)
            hooks.clear()


def _plain(module: nn.Module) -> bool:
    """Whether its class's forward is what runs, and each of its hooks is called with nothing but the arguments."""
    special = (
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks_with_kwargs,
        module._forward_hooks_always_called,
    )
    return "forward" not in vars(module) and not any(special)


class _ToldApart:
    """Mixed into the class of a map."""

    before: tuple[Callable[..., Any], ...] = ()
    after: tuple[Callable[..., Any], ...] = ()

    def forward(self, *args: Any) -> Any:
        for hook in self.before:
            if (changed := hook(self, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = super().forward(*args)  # type: ignore[misc]
        for hook in self.after:
            if (changed := hook(self, args, output)) is not None:
                output = changed
        return output

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (_told_apart, base_class(type(self))), self.__dict__


@functools.cache
def _told_apart(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_ToldApart, kind), names)
