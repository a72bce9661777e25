"""FP8 copies of weights: made once, and again after a change; transposed exactly."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from ling.config.recipe import TrainConfig
from ling.errors import UsageError
from ling.model.layers import Linear
from ling.model.ling import Ling
from ling.model.moe import Experts
from ling.presets import preset
from ling.train.fp8.backend import choose
from ling.train.fp8.emulation import RoundedProducts
from ling.train.fp8.layers import Fp8Linear
from ling.train.fp8.rule import fp8
from ling.train.fp8.weights import KeptWeight, kept_weights, quantised, renew, save_memory

SCALES = ("power-of-two", "float32")


class ProductsOfTransposed(RoundedProducts):
    """The gradient of inputs from the transposed bytes, as GPUs compute it."""

    reads_transposed = True

    def linear_dgrad(self, dy_MN, w):
        return super().linear(dy_MN, w.transposed())


def test_a_copy_is_kept_until_a_parameter_changes():
    kept, p = KeptWeight("power-of-two"), nn.Parameter(torch.randn(16, 32))
    first = kept.of(p)
    assert kept.of(p) is first
    with torch.no_grad():
        p.mul_(2)
    second = kept.of(p)
    assert second is not first
    assert torch.equal(second.widened(), 2 * first.widened())


def test_renew_makes_copies_again_after_a_change_that_autograd_does_not_see():
    layer = Fp8Linear(Linear(32, 16, bias=False), choose("power-of-two"))
    x = torch.randn(4, 32).bfloat16()
    before = layer(x)
    layer.weight.detach().numpy()[:] = 0
    assert torch.equal(layer(x), before)
    renew(nn.ModuleList([layer]))
    assert not layer(x).any()


def test_parts_are_quantised_one_below_the_other():
    gate, up = torch.randn(2, 2, 64, 128)
    both = KeptWeight("power-of-two").of(gate, up)
    assert both.codes.shape == (2, 128, 128)
    assert both.inverse.shape == (2, 1, 1)


def test_a_copy_of_what_is_gathered_for_a_pass_ends_with_it():
    kept, p = KeptWeight("power-of-two"), nn.Parameter(torch.randn(16, 32))
    kept.of_gathered = True
    used = kept.of(p)
    assert kept.of(p) is used  # by the next micro-batch, while a backward pass has it
    assert kept.nbytes == 16 * 32 + 4
    del used
    gc.collect()
    assert kept.nbytes == 0


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("shape", [(256, 384), (3, 128, 256), (2, 48, 208)])
def test_a_transposed_copy_is_the_transposed_weights_bit_for_bit(scales, shape):
    weight = torch.randn(shape) * torch.logspace(-6, 3, shape[-1])
    want = quantised((weight.transpose(-1, -2).contiguous(),), scales)
    for keep in (True, False):
        got = quantised((weight,), scales, keep_transposed=keep).transposed()
        assert torch.equal(got.codes.view(torch.uint8), want.codes.view(torch.uint8))
        assert torch.equal(got.inverse, want.inverse)
        assert got.codes.is_contiguous()


def test_on_demand_halves_the_bytes_and_changes_no_gradient():
    weight, x = torch.randn(256, 384), torch.randn(40, 384).bfloat16()
    found = []
    for on_demand in (False, True):
        layer = Fp8Linear(Linear(384, 256, bias=False), ProductsOfTransposed())
        layer.load_state_dict({"weight": weight})
        train = TrainConfig(fp8="blockwise", fp8_transpose_on_demand=on_demand)
        save_memory(layer, train, reads_transposed=True)
        rows = x.clone().requires_grad_()
        layer(rows).square().sum().backward()
        (kept,) = kept_weights(layer)
        found.append((kept.nbytes, rows.grad, layer.weight.grad))
    (both, *gradients), (one, *same) = found
    assert both == 2 * one == 2 * (256 * 384 + 4 * 2 * 3)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_products_that_read_either_layout_keep_one():
    with torch.device("meta"):
        model = Ling(preset("ling-nano"))
    fp8(model, TrainConfig(fp8="blockwise", fp8_param_gather=True, fp8_pad_routing=True))
    kept = kept_weights(model)
    assert len(kept) == 6 * 2 + 3 + 5 * 5
    assert not any(k.keep_transposed for k in kept)
    assert all(k.as_bytes for k in kept)
    assert all(m.pad_routing for m in model.modules() if isinstance(m, Experts))


@pytest.mark.parametrize("name", ["fp8_param_gather", "fp8_transpose_on_demand", "fp8_pad_routing"])
def test_a_saving_of_fp8_without_fp8_is_refused(name):
    with pytest.raises(UsageError, match=rf"`train.{name}: true` needs .*`train.fp8: blockwise`"):
        TrainConfig(**{name: True})


@pytest.mark.parametrize("scales", SCALES)
def test_rows_of_the_padded_map_change_nothing_but_the_scale_of_a_tile(scales):
    """The last tile of an expert's tokens, for the gradient of its weights, sees added ones too."""
    torch.manual_seed(0)
    cfg = preset("ling-nano").replace(num_experts=8, moe_intermediate_size=64)
    x, dout = torch.randn(2, 90, cfg.hidden_size).bfloat16()
    x *= torch.logspace(-1, 1, 90)[:, None]
    ids = torch.rand(90, 8).topk(2).indices
    weights = torch.rand(90, 2)
    found = []
    for pad in (False, True):
        torch.manual_seed(1)
        module = nn.ModuleDict({"experts": Experts(cfg)})
        for p in module.parameters():
            nn.init.normal_(p, std=0.1)
        fp8(module, TrainConfig(fp8="blockwise", fp8_scales=scales, fp8_pad_routing=pad))
        given = [t.clone().requires_grad_() for t in (x, weights)]
        out = module["experts"](given[0], ids, given[1])
        out.backward(dout)
        found.append(([out, *(t.grad for t in given)], [p.grad for p in module.parameters()]))
    (rows, of_weights), (same, near) = found
    assert all(torch.equal(a, b) for a, b in zip(rows, same, strict=True))
    for a, b in zip(of_weights, near, strict=True):
        assert (a - b).norm() <= 0.02 * a.norm()
