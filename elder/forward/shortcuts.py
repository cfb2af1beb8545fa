"""Shortcuts through the two outer blocks of the trained range, which need not compute everything in every step.

In the first edited block everything that runs before the edited map gives the same in every step, and so does the
map itself: only the correction changes. In the model's last block only the answer's tokens reach the logits, so
its MLP, which treats every token separately, can leave out the others. Both are exact. Patches a clone only. Knows
nothing of architectures beyond "a block has children, one of which holds the MLP's maps", and nothing of mixtures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from elder.models.anatomy import dimensions

Memo = dict[Any, Any]
"""Results of the children of one block for one micro-batch, by name and number of the call."""


class FirstBlock:
    """Remembers the results up to the edited map of a block, and returns them instead of computing them again.

    Only calls that end before the edited map's first one are remembered: they cannot depend on its correction.

    Args:
        block: The first edited block.
        target: Its edited map.
    """

    def __init__(self, block: nn.Module, target: nn.Module) -> None:
        self.target = target
        self._memo: Memo | None = None
        self._recording = False
        self._calls: Counter[str] = Counter()  # of each child, in the present pass
        for name, child in block.named_children():
            if any(module is target for module in child.modules()):
                if child is not target:
                    self._wrap(child, self._branch)
            else:
                self._wrap(child, lambda forward, args, kwargs, name=name: self._before(name, forward, args, kwargs))
        self._wrap(target, self._mapped)

    @contextmanager
    def recording(self, memo: Memo) -> Iterator[None]:
        """Fill a memo from the one pass in this block of code, which must be uncorrected and without gradients."""
        self._memo, self._recording = memo, True
        self._calls.clear()
        try:
            yield
        finally:
            memo.pop("made", None)
            self._memo, self._recording = None, False

    @contextmanager
    def replaying(self, memo: Memo) -> Iterator[None]:
        """The one pass in this block of code, on the same inputs, takes what the memo holds."""
        self._memo = memo
        self._calls.clear()
        try:
            yield
        finally:
            self._memo = None

    def _wrap(self, module: nn.Module, around: Callable[..., Any]) -> None:
        forward = module.forward

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs) if self._memo is None else around(forward, args, kwargs)

        module.forward = wrapped

    def _before(self, name: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A child beside the edited branch, such as attention or a norm; Phi has a dropout that is called twice."""
        memo = self._memo
        assert memo is not None
        call = name, self._calls[name]
        self._calls[name] += 1
        if not self._recording:
            return memo[call] if call in memo else forward(*args, **kwargs)
        out = forward(*args, **kwargs)
        if "target" not in memo:
            memo[call] = out
        return out

    def _branch(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The child that holds the edited map; where that map comes last, nothing else of it need run."""
        memo = self._memo
        assert memo is not None
        if not self._recording:
            return self.target(memo["input"]) if memo.get("last") else forward(*args, **kwargs)
        out = forward(*args, **kwargs)
        memo["last"] = out is memo.pop("made", None)
        if not memo["last"]:
            memo.pop("input", None)
        return out

    def _mapped(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The edited map; its hooks, which add the correction, run on what this returns."""
        memo = self._memo
        assert memo is not None
        if self._recording:
            memo["input"], memo["made"] = args[0], forward(*args, **kwargs)
            memo["target"] = memo["made"].clone()  # Falcon adds attention to what the map returned, in place
            return memo["made"]
        return memo["target"]


class LastBlock:
    """Lets the maps of the last block that treat every token separately, and the head, work on a few tokens only.

    These are the MLP, and the map whose output attention returns, which is found by watching attention once.

    Args:
        block: The model's last block.
        out: The last map of its MLP; only the head is spared where this is no part of a separate child.
        head: The vocabulary projection.
    """

    def __init__(self, block: nn.Module, out: nn.Module, head: nn.Module) -> None:
        self._kept: Tensor | None = None
        self._places: Tensor | None = None
        self._returned: dict[str, Any] = {}  # what the maps of attention returned, while it is watched
        self._closing: str | None = None  # the map that attention ends with
        holders = [c for c in block.children() if c is not out and any(module is out for module in c.modules())]
        self.trims = bool(holders)
        for mlp in holders:
            self._wrap(mlp, lambda: True)
        for name, child in block.named_children() if holders else ():
            maps = [] if child in holders else [(f"{name}.{n}", m) for n, m in child.named_modules() if dimensions(m)]
            for path, module in maps:
                self._wrap(module, lambda path=path: self._closing == path, path)  # type: ignore[misc]
            if maps:
                child.register_forward_hook(self._watch)
        head.register_forward_pre_hook(self._at_places)

    @contextmanager
    def keeping(self, kept: Tensor | None, places: Tensor) -> Iterator[None]:
        """Passes in this block of code give logits at some tokens.

        Args:
            kept: (M,) indices into all B*T tokens; the MLP sees them as one row of M. None: all as they are.
            places: (R, K) indices into all B*T tokens, among `kept`; logits are (R, K, V).
        """
        self._kept, self._places = kept, places
        try:
            yield
        finally:
            self._kept, self._places = None, None

    def _at_places(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self._places is None else (args[0].flatten(0, 1)[self._places], *args[1:])

    def _watch(self, _: nn.Module, __: Any, out: Any) -> None:
        """Note which map's output attention returns unchanged."""
        first = out[0] if isinstance(out, tuple) else out
        for path, returned in self._returned.items():
            if returned is first:
                self._closing = path
        self._returned.clear()

    def _wrap(self, module: nn.Module, trimmed: Callable[[], bool], path: str | None = None) -> None:
        forward = module.forward

        def wrapped(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._kept is None or x.dim() != 3:
                return forward(x, *args, **kwargs)
            if trimmed():
                flat = x.flatten(0, 1)
                out = forward(flat[None, self._kept], *args, **kwargs)[0]
                return out.new_zeros(len(flat), out.shape[-1]).index_copy(0, self._kept, out).view(*x.shape[:2], -1)
            out = forward(x, *args, **kwargs)
            if path is not None and self._closing is None:
                self._returned[path] = out
            return out

        module.forward = wrapped
