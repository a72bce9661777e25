from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ling.model.rope import inverse_frequencies, rotary_tables
from ling.presets import preset

MINI = preset("ling-mini-2.0")
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_plain_frequencies_follow_the_formula():
    freq, factor = inverse_frequencies(MINI)
    want = MINI.rope_theta ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(freq.numpy(), want, rtol=1e-6)
    assert factor == 1.0


def test_yarn_leaves_fast_pairs_and_slows_the_others_by_its_factor():
    plain, _ = inverse_frequencies(MINI)
    freq, factor = inverse_frequencies(MINI.replace(rope_scaling=YARN))
    turns = 32768 * plain.double() / (2 * math.pi)  # over the original context
    ratio = (freq / plain).double()
    assert torch.allclose(ratio[turns > 45], torch.ones(1, dtype=torch.double), atol=1e-6)
    assert torch.allclose(ratio[turns < 0.6], torch.full((1,), 0.25, dtype=torch.double), atol=1e-6)
    between = ratio[(turns < 20) & (turns > 2)]
    assert len(between) > 3
    assert ((between > 0.25) & (between < 1)).all()
    assert (ratio.diff() <= 1e-6).all()
    assert factor == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 2.0, "mscale_all_dim": 2.0}, 1.0),
        (
            {"mscale": 1.0, "mscale_all_dim": 0.5},
            (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        ),
    ],
)
def test_attention_factor_is_given_or_computed(more, factor):
    cfg = MINI.replace(rope_scaling={**YARN, **more})
    assert inverse_frequencies(cfg)[1] == pytest.approx(factor)


def test_tables_are_cos_and_sin_of_position_times_frequency():
    freq = torch.tensor([1.0, 0.01])
    cos, sin = rotary_tables(freq, 2.0, torch.tensor([0, 3, 1000]), torch.float32)
    for row, position in enumerate((0, 3, 1000)):
        angles = [position * 1.0, position * 0.01] * 2
        np.testing.assert_allclose(cos[row], 2 * np.cos(angles), atol=1e-4)
        np.testing.assert_allclose(sin[row], 2 * np.sin(angles), atol=1e-4)
    half = rotary_tables(freq, 1.0, torch.tensor([1000]), torch.bfloat16)[0]
    assert torch.equal(half, (cos[2:] / 2).bfloat16())  # the angle itself was float32


def test_yarn_at_the_released_values_has_its_ramp_from_12_to_21():
    plain = preset("ling-mini-2.0")
    scaled = plain.replace(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    )
    (a, _), (b, factor) = inverse_frequencies(plain), inverse_frequencies(scaled)
    ratio = a / b
    assert factor == pytest.approx(1.1386294)
    assert torch.allclose(ratio[:13], torch.ones(13))
    assert torch.allclose(ratio[21:], torch.full((11,), 4.0))
    assert ((ratio[13:21] > 1.0) & (ratio[13:21] < 4.0)).all()
