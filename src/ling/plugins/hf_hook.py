"""Registers our classes when transformers is loaded, whichever of the two is imported first.

`import ling` installs the hook and nothing else: it imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from ..errors import UsageError
from . import hf_release

# Where an `Auto` class is made, and our file that registers with it.
_AUTO = "transformers.models.auto"
_REGISTERS = {
    f"{_AUTO}.configuration_auto": "hf_config",
    f"{_AUTO}.modeling_auto": "hf_model",
    f"{_AUTO}.tokenization_auto": "hf_tokenizer",
}
_log = logging.getLogger("ling")


def install() -> None:
    """Register with what transformers has loaded already, and watch for the rest."""
    finder = next((f for f in sys.meta_path if isinstance(f, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    for name in _REGISTERS:
        if name in sys.modules:
            finder.register(name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds three modules of transformers as Python would, and registers once they have run."""

    def __init__(self) -> None:
        self.said: set[int] = set()  # one warning and one error at most, for three modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _REGISTERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader  # made for this import: the change is seen by it alone
            loader.exec_module = self._then_register(loader.exec_module, name)
        return spec

    def _then_register(
        self, run: Callable[[ModuleType], None], name: str
    ) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            run(module)
            self.register(name)

        return exec_module

    def register(self, name: str) -> None:
        """Register with one module of transformers; a release that fails still imports."""
        version = hf_release.installed()
        if hf_release.is_too_old(version):
            self._say(logging.WARNING, hf_release.too_old(version))
            return
        try:
            import_module(f"ling.plugins.{_REGISTERS[name]}").register()
        except Exception as err:
            # There are all the other models in it: only loading one of ours is an error.
            message = hf_release.failure(version, err)
            self._say(logging.ERROR, message)
            with contextlib.suppress(Exception):  # said already; the tables may have changed, too
                _refuse(name, message)
            return
        if hf_release.is_untested(version):
            self._say(logging.WARNING, hf_release.untested(version))

    def _say(self, level: int, message: str) -> None:
        if level not in self.said:
            self.said.add(level)
            _log.log(level, message)


def _refuse(name: str, message: str) -> None:
    """Make loading a Ling folder fail with `message`, not with a model type nobody knows."""

    def fail(*_: Any, **__: Any) -> Any:
        raise UsageError(message)

    methods = ("from_dict", "from_pretrained", "_from_config")
    stand_in: Any = type("BailingMoeV2", (), {m: staticmethod(fail) for m in methods})
    if _REGISTERS[name] == "hf_config":
        for model_type in hf_release.MODEL_TYPES:
            sys.modules[name].CONFIG_MAPPING.register(model_type, stand_in, exist_ok=True)
    elif _REGISTERS[name] == "hf_model":
        config = import_module("ling.plugins.hf_config").BailingMoeV2Config
        stand_in.config_class = config
        sys.modules[name].AutoModelForCausalLM.register(config, stand_in, exist_ok=True)
