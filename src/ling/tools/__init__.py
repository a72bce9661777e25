"""Built-in tools that a model may call: their definitions, and what they give."""

from .builtin import BUILTIN, Tool, builtin, failed, run

__all__ = ["BUILTIN", "Tool", "builtin", "failed", "run"]
