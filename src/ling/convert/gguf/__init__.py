"""GGUF files of architecture `bailingmoe2`, written for llama.cpp and read back."""

from .sink import GGUFSink
from .source import GGUFSource

__all__ = ["GGUFSink", "GGUFSource"]
