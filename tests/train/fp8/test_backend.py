"""The products that a run uses."""

from __future__ import annotations

import pytest

from ling.train.fp8.backend import choose


@pytest.mark.parametrize("scales", ["power-of-two", "float32"])
def test_products_have_the_scales_that_were_asked_for(scales):
    products = choose(scales)
    assert products.scales == scales
    assert products.name == "emulation"
