"""How many rows a run still needs of its data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ling.config.recipe import TrainConfig
from ling.train.rows import rows_needed


@pytest.mark.parametrize(
    ("step", "rows", "left_out", "want"),
    [
        (0, 0, [], 40),
        (6, 24, [], 40),
        (6, 0, [], 16),  # the data started again
        (3, 12, [(20, 24)], 44),
        (6, 24, [(4, 8)], 40),  # behind it already
    ],
)
def test_rows_left_out_come_on_top(step, rows, left_out, want):
    recipe = SimpleNamespace(train=TrainConfig(steps=10, global_batch_size=4))
    assert rows_needed(recipe, SimpleNamespace(step=step, rows=rows, left_out=left_out)) == want
