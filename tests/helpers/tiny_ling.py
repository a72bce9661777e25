"""The tiny Ling folder that the tests of the transformers class share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.model.ling import from_config
from ling.presets import preset

TEXTS = ["def add(a, b):\n    return a + b\n", "for i in range(10):\n    print(i)\n"]


def load(path, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, **{"dtype": "auto", **options})


def tiny(**changes):
    cfg = preset("ling-tiny").replace(
        **{"num_nextn_predict_layers": 1, "dtype": "float32", **changes}
    )
    model = from_config(cfg, seed=0)
    with torch.no_grad():  # larger weights than at the start of training: varied continuations
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
        for layer in model.model.layers[cfg.first_k_dense_replace :]:
            layer.mlp.gate.expert_bias.normal_(0, 0.05)
    return model


def write_folder(folder: Path) -> None:
    """A folder as `ling convert` leaves it, tokenizer included."""
    model = tiny()
    save_model(model, model.config, folder)
    train_tokenizer(TEXTS * 10, 300).save(folder)
    (folder / "generation_config.json").unlink()  # no stop: continuations of a fixed length


def run(code, tmp_path, cwd=None, **variables):
    """Python in a process of its own, with this source tree and no network."""
    path = os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p)
    env = {
        **os.environ,
        "PYTHONPATH": path,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, timeout=120
    )
