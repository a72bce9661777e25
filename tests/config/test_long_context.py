"""Configurations for more positions than a model was trained for."""

from __future__ import annotations

import pytest

from ling.config.long_context import stretched, trained_length, yarn_scaling
from ling.presets import preset

PLAIN = preset("ling-tiny").replace(max_position_embeddings=256)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


def test_yarn_keeps_the_positions_of_training():
    longer = PLAIN.replace(**stretched(PLAIN, 1024, 4))
    assert longer.rope_scaling == YARN
    assert (trained_length(longer), longer.context_length) == (256, 1024)


def test_without_yarn_positions_go_on_as_they_come():
    longer = PLAIN.replace(rope_scaling=YARN)
    longer = longer.replace(**stretched(longer, 2048, 1))
    assert longer.rope_scaling is None
    assert longer.context_length == 2048


@pytest.mark.parametrize("scaling", [None, {"type": "yarn", "factor": 2.0, "beta_fast": 16}])
def test_no_factor_leaves_the_frequencies_of_the_configuration(scaling):
    from ling.model.rope import inverse_frequencies

    cfg = PLAIN.replace(rope_scaling=scaling)
    longer = cfg.replace(**stretched(cfg, 2048))
    assert longer.context_length == 2048
    before, now = inverse_frequencies(cfg), inverse_frequencies(longer)
    assert before[0].tolist() == now[0].tolist()
    assert before[1] == now[1]


def test_another_factor_keeps_what_else_a_scaling_says():
    cfg = PLAIN.replace(rope_scaling={"type": "yarn", "factor": 2.0, "beta_fast": 16})
    assert yarn_scaling(cfg, 8) == {**YARN, "factor": 8.0, "beta_fast": 16}
