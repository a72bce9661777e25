from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file


@pytest.fixture
def tiny(fixtures) -> Path:
    return fixtures / "dcp" / "tiny"


@pytest.fixture
def weights(tiny) -> dict[str, torch.Tensor]:
    """The tensors of `dcp_in` under Megatron's names."""
    state = load_file(tiny / "megatron_state.safetensors")
    return {k: v for k, v in state.items() if not k.startswith("optimizer")}


@pytest.fixture
def args(tiny) -> dict:
    return json.loads((tiny / "args.json").read_text())


@pytest.fixture
def megatron(tmp_path):
    """Writes a checkpoint with torch's own writer; returns its folder."""

    def write(state: dict[str, torch.Tensor], args: dict, name: str = "megatron") -> Path:
        folder = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(state, checkpoint_id=folder, no_dist=True)
        torch.save({"args": argparse.Namespace(**args)}, folder / "common.pt")
        return folder

    return write


@pytest.fixture
def tensors():
    """All tensors of a folder, read by the safetensors library."""

    def read(folder: Path) -> dict[str, torch.Tensor]:
        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            found |= load_file(path)
        return found

    return read
