"""Rows as the caller has them and rows filled up attend alike, through the same pages."""

from __future__ import annotations

import pytest
import torch
from on_device import CFG

from ling.infer.device.attention import SHORT_ROWS, EvenAttend, MixedAttend
from ling.infer.device.inputs import Shape, StepInputs, even_block, flat_block, flat_shape
from ling.infer.device.pages import DevicePages
from ling.infer.pages import Segment
from ling.ops import reference

HEADS = CFG.num_attention_heads, CFG.num_key_value_heads, CFG.num_key_value_heads


def rows(count):
    return [torch.randn(count, heads, CFG.head_dim) for heads in HEADS]


def mixed(pages, segments, qkv):
    count = segments[-1].stop
    shape = flat_shape(segments)
    block = torch.from_numpy(flat_block([0] * count, segments, shape))
    return MixedAttend(pages, StepInputs(block, shape), segments)(1, *qkv)


@pytest.mark.parametrize("parts", [(70, 30), (SHORT_ROWS, 3), (SHORT_ROWS + 1, 64)])
def test_parts_of_sequences_side_by_side(parts):
    """Two requests, each in two passes; one's short part is beside the other's long one."""
    torch.manual_seed(0)
    pages = DevicePages(CFG, 6, torch.float32, torch.device("cpu"))
    whole = [rows(sum(parts)) for _ in range(2)]
    tables, out = ([4, 1], [0, 3]), [[], []]
    done = [0, 0]
    for sizes in (parts, parts[::-1]):
        segments, start = [], 0
        for table, first, n in zip(tables, done, sizes, strict=True):
            segments.append(Segment(table, first, start, start + n))
            start += n
        pieces = [
            torch.cat(
                [
                    w[i][s.first : s.first + s.stop - s.start]
                    for w, s in zip(whole, segments, strict=False)
                ]
            )
            for i in range(3)
        ]
        got = mixed(pages, segments, pieces)
        for i, s in enumerate(segments):
            out[i].append(got[s.start : s.stop])
            done[i] += s.stop - s.start
    for have, (q, k, v) in zip(out, whole, strict=True):
        torch.testing.assert_close(torch.cat(have), reference.causal_attention(q, k, v))


def test_rows_that_are_filled_up():
    torch.manual_seed(1)
    segments = [Segment([2], 0, 0, 2), Segment([5], 0, 2, 3)]
    qkv = rows(3)
    pages = [DevicePages(CFG, 6, torch.float32, torch.device("cpu")) for _ in range(2)]
    want = mixed(pages[0], segments, qkv)
    shape = Shape(4, 8, 3)
    inputs = StepInputs(torch.from_numpy(even_block([0] * 3, segments, shape, 6)), shape)
    kept = inputs.kept[:3].long()
    filled = [x.new_zeros(8, *x.shape[1:]).index_copy(0, kept, x) for x in qkv]
    got = EvenAttend(pages[1], inputs)(1, *filled)
    torch.testing.assert_close(got[kept], want)
    assert torch.equal(pages[0].values[:, :, :6], pages[1].values[:, :, :6])
