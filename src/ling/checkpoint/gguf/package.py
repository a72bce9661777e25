"""The optional `gguf` package: file heads and quantised blocks."""

from __future__ import annotations

from types import ModuleType

from ...errors import UsageError


def gguf_package() -> ModuleType:
    """Import it, or say in one line how to get it."""
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise UsageError("GGUF needs the `gguf` package: `pip install 'ling[gguf]'`") from None
    return gguf
