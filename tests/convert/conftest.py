"""A small model with every feature of the family, and its GGUF export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ling.config import ModelConfig
from ling.convert.sink import SinkOptions, sink_for
from ling.data.tokenizer import train_tokenizer
from ling.model.ling import from_config
from ling.model.names import tensor_specs
from ling.model.weights import model_tensors
from ling.presets import preset

WORDS = "def add(first, second):\n    return first + second\n\n\nprint(add(12, 30))  # 中文\n"


def named_tensors(cfg: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights under Hugging Face names; the expert bias is not zero."""
    torch.manual_seed(0)
    state = from_config(cfg, seed=0).state_dict()
    found = {}
    for name, tensor in model_tensors(state, cfg):
        keep = tensor_specs(cfg)[name].float32
        found[name] = torch.randn_like(tensor) if keep else tensor.to(dtype)
    return found


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
