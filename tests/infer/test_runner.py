"""What both runners promise of the tokens they choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ling.config.engine import EngineConfig
from ling.infer.choice import RowChoice
from ling.infer.open import runner_for
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


def bits(ids):
    """A mask of these ids of ling-tiny's 384."""
    mask = np.zeros(12, np.uint32)
    for i in ids:
        mask[i // 32] |= np.uint32(1) << np.uint32(i % 32)
    return mask


@pytest.mark.parametrize("fmt", [None, pytest.param("int8", marks=needs_library)])
def test_each_row_has_a_mask_of_its_own_and_none_chooses_a_banned_id(fmt):
    runner = runner_for(from_config(preset("ling-tiny"), seed=0), EngineConfig(format=fmt))
    runner.allocate(4)
    runner.ban_ids(lambda i: i >= 5)
    scores = runner.logits(torch.randn(4, runner.config.hidden_size))
    before = scores.clone()
    best = int(scores[2, 5:].argmax()) + 5
    masks = [None, bits([2, 7, 9]), bits(set(range(384)) - {best}), bits([2])]
    got = runner.choose(scores, [RowChoice(mask=m) for m in masks])
    assert got[0].token() == int(scores[0, 5:].argmax()) + 5
    assert got[1].token() == max((7, 9), key=lambda i: float(scores[1, i]))
    assert got[2].token() == int(scores[2, 5:].argsort(descending=True)[1]) + 5
    assert (
        str(got[3].error) == "no token may be chosen: every id is banned, or outside of the grammar"
    )
    assert torch.equal(scores, before)
