"""Models by name: of this package, from Hugging Face or ModelScope."""

from .download import download, resolve_model, resolve_tokenizer

__all__ = ["download", "resolve_model", "resolve_tokenizer"]
