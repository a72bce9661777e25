"""What both runners promise of the scores' best ids."""

from __future__ import annotations

import pytest
import torch

from ling.config.engine import EngineConfig
from ling.errors import RequestError
from ling.infer.open import runner_for
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.mark.parametrize("fmt", [None, pytest.param("int8", marks=needs_library)])
def test_each_row_has_a_mask_of_its_own(fmt):
    runner = runner_for(from_config(preset("ling-tiny"), seed=0), EngineConfig(format=fmt))
    runner.allocate(4)
    runner.ban_ids(lambda i: i >= 5)
    hidden = torch.randn(3, runner.config.hidden_size)
    scores, plain = runner.logits(hidden)
    scores = scores.clone()
    mask = torch.ones(scores.shape, dtype=torch.bool)
    mask[1] = False
    mask[1, [2, 7, 9]] = True  # of these 2 is banned
    mask[2, plain[2]] = False
    masked_scores, best = runner.logits(hidden, mask=mask)
    assert torch.equal(masked_scores, scores)
    assert best[0] == plain[0]
    assert best[1] == max((7, 9), key=lambda i: float(scores[1, i]))
    assert best[2] == int(scores[2, 5:].argsort(descending=True)[1]) + 5
    mask[1] = False
    with pytest.raises(RequestError, match="mask leaves no id"):
        runner.logits(hidden, mask=mask)
