"""`AutoTokenizer` for Ling 2.0 folders: transformers' own class over tokenizer.json."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .hf_config import BailingMoeV2Config


def register() -> None:
    """Needed where tokenizer_config.json names no class, or names remote code."""
    AutoTokenizer.register(
        BailingMoeV2Config, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
    )
