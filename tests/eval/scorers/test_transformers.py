"""The transformers library as a scorer takes data of a folder only."""

from __future__ import annotations

import pytest
import torch

from ling.errors import UsageError
from ling.eval.scorers.transformers import TransformersScorer

transformers = pytest.importorskip("transformers")


def test_pickled_weights_are_refused(tmp_path):
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(tmp_path)
    torch.save(transformers.GPT2LMHeadModel(config).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"cannot load it: .*safetensors"):
        TransformersScorer(tmp_path)
