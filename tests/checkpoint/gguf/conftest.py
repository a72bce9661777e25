"""A small model with every feature of the family, and its GGUF export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_models import WORDS
from torch import Tensor

from ling.checkpoint.open import sink_for
from ling.checkpoint.sink import SinkOptions
from ling.config.model import ModelConfig
from ling.data.tokenizer import train_tokenizer
from ling.presets import preset


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([WORDS] * 3, 300).save(folder)
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Write tensors as GGUF; returns the file."""

    def run(
        cfg: ModelConfig, tensors: dict[str, Tensor], tokenizer: Path | None, kind: str = "bf16"
    ) -> Path:
        folder = tmp_path / f"tiny-{kind}"
        folder.mkdir(exist_ok=True)
        sink = sink_for("gguf", folder, cfg, SinkOptions(tokenizer=tokenizer, gguf_type=kind))
        for name in reversed(sink.names):  # any order
            sink.put(name, tensors[name])
        sink.finish()
        assert (folder / "model.gguf").stat().st_size == sink.files["model.gguf"]
        return folder / "model.gguf"

    return run


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return preset("ling-tiny")
