"""The products that a run uses."""

from __future__ import annotations

import pytest
import torch

from ling.ops import fp8_choice
from ling.ops.fp8_choice import Choice
from ling.train.fp8.backend import choose


@pytest.mark.parametrize("scales", ["power-of-two", "float32"])
def test_products_have_the_scales_that_were_asked_for(scales):
    products = choose(scales)
    assert products.scales == scales
    assert products.name == "emulation"


@pytest.mark.parametrize("name", ["triton", "scaled_mm"])
def test_products_of_a_gpu(monkeypatch, name):
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    monkeypatch.setattr(fp8_choice, "choose", lambda device, wanted: Choice(name, "it has them"))
    products = choose("float32", torch.device("cuda"))
    assert (products.name, products.scales) == (name, "float32")
