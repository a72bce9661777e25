"""Registers our classes when transformers is loaded, whichever of the two is imported first.

`import ling` installs the hook and nothing else: it imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

OLDEST = (4, 57)
# Where an `Auto` class is made, and our file that registers with it.
_AUTO = "transformers.models.auto"
_REGISTERS = {
    f"{_AUTO}.configuration_auto": "hf_config",
    f"{_AUTO}.modeling_auto": "hf_model",
    f"{_AUTO}.tokenization_auto": "hf_tokenizer",
}


def install() -> None:
    """Register with what transformers has loaded already, and watch for the rest."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in _REGISTERS:
        if name in sys.modules:
            _register(name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds three modules of transformers as Python would, and registers once they have run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _REGISTERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader  # made for this import: the change is seen by it alone
            loader.exec_module = _then_register(loader.exec_module, name)
        return spec


def _then_register(run: Callable[[ModuleType], None], name: str) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        run(module)
        _register(name)

    return exec_module


def _register(name: str) -> None:
    version = str(getattr(sys.modules.get("transformers"), "__version__", "0.0"))
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST:
        logging.getLogger("ling").warning(
            "transformers %s is older than %d.%d: the Ling 2.0 classes are not registered",
            *(version, *OLDEST),
        )
        return
    import_module(f"ling.plugins.{_REGISTERS[name]}").register()
