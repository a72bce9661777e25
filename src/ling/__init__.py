"""Train, convert and serve Ling 2.0 MoE models.

`import ling` is quick: torch is imported when something that needs it is first touched. It makes
transformers know Ling 2.0, whenever that is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plugins import hf_hook

if TYPE_CHECKING:
    from .checkpoint.load import load_model as load
    from .config.model import ModelConfig
    from .grammar.spec import StructuredOutputs
    from .infer.request import SamplingParams
    from .llm import LLM
    from .model.ling import from_config

_HOMES = {
    "LLM": ("llm", "LLM"),
    "ModelConfig": ("config.model", "ModelConfig"),
    "SamplingParams": ("infer.request", "SamplingParams"),
    "StructuredOutputs": ("grammar.spec", "StructuredOutputs"),
    "from_config": ("model.ling", "from_config"),
    "load": ("checkpoint.load", "load_model"),
    "preset": ("presets", "preset"),
}
__version__: str
__all__ = [
    "LLM",
    "ModelConfig",
    "SamplingParams",
    "StructuredOutputs",
    "from_config",
    "load",
    "preset",
]

hf_hook.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module `ling` has no attribute `{name}`")
    module, attribute = _HOMES[name]
    return getattr(import_module(f".{module}", __name__), attribute)


def __dir__() -> list[str]:
    """What is here and what is loaded when it is first touched."""
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ling")
    except PackageNotFoundError:  # the sources on PYTHONPATH, not installed
        return "unknown"
