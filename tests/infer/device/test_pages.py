"""Keys and values by slot, and the page that nobody reads."""

from __future__ import annotations

import torch
from on_device import CFG

from ling.infer.device.pages import DevicePages
from ling.infer.pages import PAGE


def test_a_slot_is_a_position_of_a_page():
    pages = DevicePages(CFG, 3, torch.float32, torch.device("cpu"))
    assert pages.scratch == 3
    heads = (CFG.num_key_value_heads, CFG.head_dim)
    k, v = torch.randn(2, *heads), torch.randn(2, *heads)
    pages.write(1, torch.tensor([2 * PAGE + 5, 0]), k, v)
    keys, values = pages.of_layer(1)
    assert torch.equal(keys[2, 5], k[0])
    assert torch.equal(keys[0, 0], k[1])
    assert torch.equal(values[2, 5], v[0])
    assert torch.equal(values[0, 0], v[1])
    assert pages.values.count_nonzero() == k.count_nonzero() + v.count_nonzero()
