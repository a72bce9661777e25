"""Parameters and operations of a shape against counts of their own."""

from __future__ import annotations

import pytest

from ling.model.size import flops_per_token, parameter_counts
from ling.plan.shape import shape_of
from ling.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_all_parameters_are_counted_once(name):
    cfg = preset(name)
    counts = parameter_counts(cfg)
    mtp = cfg.num_nextn_predict_layers * counts["mtp"]
    assert shape_of(cfg, 128).parameters == counts["total"] + mtp


def test_ling_mini_by_hand():
    shape = shape_of(preset("ling-mini-2.0"), 4096)
    assert (
        sum(layer.size() for layer in shape.layers[:20])
        == 16_255_638_528 - 2 * 157184 * 2048 - 2048
    )
    experts = shape.layers[5].size(experts=True)
    assert experts == 3 * 256 * 2048 * 512
    assert shape.layers[5] is shape.layers[6]  # equal layers are counted once
    assert [layer.is_moe for layer in shape.layers] == [False] + [True] * 20
    assert shape.predictions == 2


def test_operations_are_those_of_training():
    cfg = preset("ling-mini-2.0")
    shape = shape_of(cfg, 4096)
    head = 2 * cfg.vocab_size * cfg.hidden_size * shape.predictions
    layers = sum(sum(each.values()) for each in shape.flops)
    assert shape.flops_per_token == flops_per_token(cfg, 4096)
    assert 3 * (layers + head) == pytest.approx(shape.flops_per_token, rel=1e-5)  # but for norms


def test_products_of_fp8_are_linear_layers_and_experts():
    layer = shape_of(preset("ling-mini-2.0"), 4096).layers[-1]  # an MTP layer has all kinds
    fp8 = {w.name for w in layer.weights if w.fp8}
    assert fp8 == {
        "attention.query_key_value.weight",
        "attention.dense.weight",
        *(
            f"mlp.{who}.{p}_proj.weight"
            for who in ("experts.0", "shared_experts")
            for p in ("gate", "up", "down")
        ),
    }
    assert [w.name for w in layer.weights if w.cast and not w.fp8] == ["eh_proj.weight"]
