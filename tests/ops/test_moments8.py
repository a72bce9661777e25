"""Which of the equal implementations runs."""

from __future__ import annotations

import pytest
import torch

from ling.ops import adam8, moments8, native, native_adam8


def stepped(p):
    n = len(p)
    codes = [torch.full((n,), code, dtype=torch.uint8) for code in adam8.ZERO_CODE]
    scales = [torch.zeros(adam8.num_blocks(n)) for _ in range(2)]
    moments = adam8.Moments(codes[0], scales[0], codes[1], scales[1])
    moments8.step([(p, torch.sin(p), moments, adam8.scalars(1, 0.1, (0.9, 0.95), 1e-8, 0.1))])
    values = moments8.dequantise(moments.codes1, moments.absmax1, signed=True)
    return [p, *moments, values, *moments8.quantise(values, signed=True)]


@pytest.mark.skipif(native.library() is None, reason="the library is not built")
def test_without_the_library_it_is_the_definition_with_the_same_bits(monkeypatch):
    start = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    with_library = stepped(start.clone())
    monkeypatch.setattr(native, "library", lambda: None)
    for name in ("step", "quantise", "dequantise"):
        monkeypatch.delattr(native_adam8, name)
    for a, b in zip(with_library, stepped(start.clone()), strict=True):
        assert torch.equal(a, b)


def test_no_shards_are_no_work():
    moments8.step([])
