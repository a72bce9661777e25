"""Tiles cover each expert's rows, and no tile has rows of two."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops.triton.tiles import one_group, tiles_of


@pytest.mark.parametrize(
    ("counts", "behind"),
    [([3], 0), ([0, 0], 0), ([0, 128, 0, 129, 1, 0], 0), ([1] * 9, 300), ([0, 0], 300), ([256], 1)],
)
def test_tiles_cover_all_rows_in_order(counts, behind):
    ends = torch.tensor(counts).cumsum(0)
    rows = int(ends[-1]) + behind
    tiles = tiles_of(ends.to(torch.int32), rows)
    found = []
    for start, end, expert in zip(
        tiles.start_P.tolist(), tiles.end_P.tolist(), tiles.expert_P.tolist(), strict=True
    ):
        assert end - start <= 128
        found += [expert] * max(end - start, 0)
    want = [e for e, n in enumerate([*counts, behind]) for _ in range(n)]
    assert found == want
    used = [-(-n // 128) for n in counts]
    assert tiles.first_E1.tolist() == [sum(used[:e]) for e in range(len(counts) + 1)]
    assert tiles.experts == len(counts)


def test_no_value_is_read_from_a_device():
    """Fake tensors have none: reading one is an error."""
    with FakeTensorMode():
        assert len(tiles_of(torch.empty(3, dtype=torch.int32), 512)) == 4 + 3 + 1


@pytest.mark.parametrize("rows", [0, 1, 128, 300])
def test_one_group(rows):
    tiles = one_group(rows, torch.device("cpu"))
    assert len(tiles) == -(-rows // 128)
    assert int((tiles.end_P - tiles.start_P).sum()) == rows
    assert tiles.experts == 1
    assert tiles.first_E1.tolist() == [0, len(tiles)]
