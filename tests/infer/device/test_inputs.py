"""A step as one block of numbers, in the caller's order or with as many rows for every request."""

from __future__ import annotations

import torch

from ling.infer.device.inputs import (
    Shape,
    StepInputs,
    even_block,
    flat_block,
    flat_shape,
    most_pages,
    most_rows,
)
from ling.infer.pages import PAGE, Segment

# 70 positions of which two are new, and one position in another request's page.
SEGMENTS = [Segment([4, 7, 9], 68, 0, 2), Segment([1], 0, 2, 3)]
TOKENS = [11, 12, 13]


def test_sizes():
    assert flat_shape(SEGMENTS) == Shape(2, 3, 2)
    assert most_pages(SEGMENTS) == 2
    assert most_rows(SEGMENTS) == 2
    assert Shape(2, 3, 2).numbers == 18


def test_rows_in_the_order_of_the_caller():
    inputs = StepInputs(
        torch.from_numpy(flat_block(TOKENS, SEGMENTS, Shape(2, 3, 2))), Shape(2, 3, 2)
    )
    assert inputs.tokens_T.tolist() == TOKENS
    assert inputs.positions_T.tolist() == [68, 69, 0]
    assert inputs.slots_T.tolist() == [7 * PAGE + 4, 7 * PAGE + 5, PAGE]
    assert inputs.kept.tolist() == [0, 1, 2]
    assert inputs.lengths_B.tolist() == [70, 1]
    assert inputs.table_BW.tolist() == [[4, 7], [1, 0]]


def test_what_fills_up_writes_to_the_scratch_page_only():
    shape = Shape(4, 8, 3)
    inputs = StepInputs(torch.from_numpy(even_block(TOKENS, SEGMENTS, shape, 20)), shape)
    fills = [20 * PAGE]
    assert inputs.tokens_T.tolist() == [11, 12, 13, 0, 0, 0, 0, 0]
    assert inputs.slots_T.tolist() == [7 * PAGE + 4, 7 * PAGE + 5, PAGE, *fills * 5]
    assert inputs.kept.tolist()[:3] == [0, 1, 2]
    assert inputs.lengths_B.tolist() == [70, 1, 1, 1]
    assert inputs.table_BW.tolist() == [[4, 7, 20], [1, 20, 20], [20] * 3, [20] * 3]
