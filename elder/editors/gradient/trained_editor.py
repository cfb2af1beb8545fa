"""MEND and MALMEN in use: changes made by networks that `elder train-editor` trained for this base model.

Answering needs the changes alone; only `edit` needs the networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.base import Base
from elder.edit import Edit
from elder.editors.gradient.factor_editor import Changes, FactorEditor
from elder.editors.gradient.malmen_options import MalmenOptions
from elder.errors import AdapterError, ConfigError
from elder.hyper.factors import Factors
from elder.hyper.maps import last_layers
from elder.hyper.meta import changes_of
from elder.hyper.network import HyperNetwork
from elder.hyper.options import UNTRAINED, TrainedOptions
from elder.hyper.trained import Trained, adopt, check_base, load_trained, network_of
from elder.state_checks import refuse

CHUNK = 1024  # tokens that pass through the network together


class TrainedEditor(FactorEditor):
    """An editor whose changes a network makes. A directory in `options.trained` is read when the editor is made.

    Raises:
        ConfigError: `trained` is not given.
        AdapterError: The directory is damaged, or of another method or base.
    """

    options: TrainedOptions

    def __init__(self, base: Base, options: TrainedOptions) -> None:
        if options.trained is None:
            raise ConfigError(
                f"editor.trained: {self.method} needs a trained network; train one with `elder train-editor CONFIG` "
                "and name its directory or run id, or set `trained: none` for an untrained one"
            )
        found: Trained | None = None
        if options.trained != UNTRAINED and Path(options.trained).is_dir():
            found = load_trained(options.trained)
            options = adopt(options, found)
        super().__init__(base, options)
        self.network: HyperNetwork | None = None
        self._digest = ""
        self._seen["trained"] = ""
        if options.trained == UNTRAINED:
            ridge = options.ridge if isinstance(options, MalmenOptions) else 1.0
            style: Any = self.method
            network = HyperNetwork(self.sizes, style, 1, 0, options.lr, ridge=ridge)
            self.network, self._digest = network.place(base.runtime.device), UNTRAINED
        elif found is not None:
            self._use(found)

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The last six blocks, at most half of them (MALMEN)."""
        return last_layers(depth, 6)

    def use_trained(self, directory: str | Path) -> None:
        """Edit with the trained editor of a directory from now on.

        Raises:
            AdapterError: It is damaged, of another method, base or other maps, or not the one that was used before.
        """
        found = load_trained(directory)
        adopt(self.options, found)
        self._use(found)

    def _use(self, found: Trained) -> None:
        if found.method != self.method:
            raise AdapterError(f"editor.trained: it was trained for {found.method}, the method here is {self.method}")
        check_base(found, self.base)
        if self._seen["trained"] not in ("", found.digest):
            raise AdapterError(_OTHER)
        self.network = network_of(found, self.sizes).place(self.base.runtime.device)
        self._digest = found.digest

    def _ready(self, edits: Sequence[Edit]) -> None:
        if self.network is None:
            raise ConfigError(
                f"editor.trained: there is no directory '{self.options.trained}', so {self.method} can answer but not "
                "edit; pull the trained editor, or train one with `elder train-editor CONFIG`"
            )

    def _changes(self, factors: Mapping[str, Factors]) -> Changes:
        assert self.network is not None
        applied = changes_of(self.network, factors, self.base.runtime, CHUNK)
        return {name: (one.left, one.right) for name, one in applied.items()}

    def _written(self) -> None:
        super()._written()
        self._seen["trained"] = self._digest

    def _check_cursor(self, cursor: Mapping[str, Any]) -> None:
        refuse([] if isinstance(cursor["trained"], str) else ["'cursor': trained must be a digest"])
        if self._digest and cursor["trained"] not in ("", self._digest):
            raise AdapterError(_OTHER)

    def empty_copy(self) -> TrainedEditor:
        """See `WrittenEditor.empty_copy`: with the same trained network, wherever that came from."""
        fresh: TrainedEditor = super().empty_copy()
        fresh.network, fresh._digest = self.network, self._digest
        return fresh


_OTHER = "editor.trained: the edits so far were made with another trained editor; use that one again"
