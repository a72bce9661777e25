"""A real `ling.LLM` on the smallest model, whose random weights say anything at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripted import small_tokenizer

from ling import LLM, from_config, preset
from ling.checkpoint.hf.save import save_model


@contextlib.contextmanager
def random_llm(context: int = 4096, **options) -> Iterator[LLM]:
    """The model with Ling's template, and a vocabulary that is the tokenizer's."""
    tokenizer = small_tokenizer()
    size = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": context}
    config = preset("ling-tiny").replace(dtype="float32", **size)
    with tempfile.TemporaryDirectory() as folder:
        save_model(from_config(config, seed=1), config, Path(folder))
        tokenizer.save(folder)
        with LLM(folder, dtype="float32", **options) as llm:
            yield llm
