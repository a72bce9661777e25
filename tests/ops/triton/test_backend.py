"""The products of training on a GPU, against the values that the codes stand for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.config.recipe import TrainConfig
from ling.model.ling import Ling
from ling.ops import fp8_tiles
from ling.ops.triton import backend
from ling.ops.triton.backend import ScaledMMProducts, TritonProducts
from ling.ops.triton.quantise import quantise_blocks
from ling.ops.triton.transpose import transposed
from ling.presets import preset
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.fp8 import rule
from ling.train.fp8.emulation import RoundedProducts
from ling.train.objectives.pretrain import Pretraining

GROUPS = [0, 0, 5, 140]


def weight(*shape, scales="power-of-two"):
    torch.manual_seed(1)
    codes, inverse = quantise_blocks(torch.randn(shape), scales)
    turned = SimpleNamespace(codes=transposed(codes), inverse=inverse.transpose(-1, -2))
    return SimpleNamespace(codes=codes, inverse=inverse, transposed=lambda: turned)


def wide(w):
    return fp8_tiles.dequantise_blocks(w.codes, w.inverse)


def rows(x, scales):
    return fp8_tiles.dequantise_rows(*fp8_tiles.quantise_rows(x, scales))


def columns(x, scales, groups=None):
    return fp8_tiles.dequantise_columns(*fp8_tiles.quantise_columns(x, scales, groups), groups)


def near(got, want):
    """Float32 sums in another order, then one rounding to bfloat16, which Triton's interpreter does
    by cutting off."""
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2**-7, atol=1e-5 * float(want.abs().max()))


@pytest.fixture(params=["power-of-two", "float32"])
def scales(request):
    return request.param


@pytest.fixture
def cublas(monkeypatch):
    """What torch's `scaled_mm` on Hopper asks of codes and scales, and then computes."""
    calls, kinds = [], F.ScalingType

    def blocks_128(size):
        return -(-size // 128)

    def check_rows(scale, size, inner):
        assert scale.shape == (size, blocks_128(inner))
        assert scale.stride(0) == 1
        assert scale.stride(1) == size or scale.shape[1] == 1

    def scaled_mm(a, b, scale_a, kind_a, scale_b, kind_b):
        (M, inner), N = a.shape, b.shape[1]
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert M % 16 == N % 16 == inner % 16 == 0
        assert kind_a == kinds.BlockWise1x128
        check_rows(scale_a, M, inner)
        values_a = a.float() * scale_a.repeat_interleave(128, 1)[:, :inner]
        if kind_b == kinds.BlockWise1x128:
            check_rows(scale_b, N, inner)
            values_b = b.t().float() * scale_b.repeat_interleave(128, 1)[:, :inner]
        else:
            assert kind_b == kinds.BlockWise128x128
            of_4 = -(-blocks_128(inner) // 4) * 4
            assert scale_b.shape == (of_4, blocks_128(N))
            assert scale_b.stride(0) == 1
            assert scale_b.stride(1) == of_4
            each = scale_b.t().repeat_interleave(128, 0).repeat_interleave(128, 1)
            values_b = b.t().float() * each[:N, :inner]
        calls.append((M, N, inner))
        return (values_a @ values_b.t()).bfloat16()

    monkeypatch.setattr(F, "scaled_mm", scaled_mm)
    return calls


@pytest.mark.parametrize(("N", "K"), [(256, 128), (128, 640), (144, 128)])
def test_linear_through_cublas_where_sizes_are_whole_blocks(cublas, scales, N, K):
    products, w = ScaledMMProducts(scales), weight(N, K, scales=scales)
    x, dy = torch.randn(21, K).bfloat16(), torch.randn(21, N).bfloat16()
    near(products.linear(x, w), rows(x, scales) @ wide(w).t())
    near(products.linear_dgrad(dy, w), rows(dy, scales) @ wide(w))
    near(products.linear_wgrad(dy, x), columns(dy, scales).t() @ columns(x, scales))
    assert cublas == ([(32, N, K), (32, K, N), (N, K, 128)] if N % 128 == 0 else [])


def test_linear_by_our_kernels(scales):
    products, w = TritonProducts(scales), weight(48, 144, scales=scales)
    x, dy = torch.randn(130, 144).bfloat16(), torch.randn(130, 48).bfloat16()
    near(products.linear(x, w), rows(x, scales) @ wide(w).t())
    near(products.linear_dgrad(dy, w), rows(dy, scales) @ wide(w))
    near(products.linear_wgrad(dy, x), columns(dy, scales).t() @ columns(x, scales))


@pytest.mark.parametrize("as_tensor", [True, False])
def test_experts(scales, as_tensor):
    """Borders as numbers, or as a device has them."""
    groups = torch.tensor(GROUPS[1:], dtype=torch.int32) if as_tensor else GROUPS
    products, w = TritonProducts(scales), weight(3, 48, 144, scales=scales)
    x, dy = torch.randn(140, 144).bfloat16(), torch.randn(140, 48).bfloat16()
    spans = [slice(5), slice(5, 140)]
    forward = [rows(x, scales)[s] @ wide(w)[e].t() for e, s in enumerate(spans, 1)]
    near(products.grouped(x, w, groups), torch.cat(forward))
    dgrad = [rows(dy, scales)[s] @ wide(w)[e] for e, s in enumerate(spans, 1)]
    near(products.grouped_dgrad(dy, w, groups), torch.cat(dgrad))
    by_column = [columns(t, scales, GROUPS) for t in (dy, x)]
    wgrad = [torch.zeros(48, 144), *(by_column[0][s].t() @ by_column[1][s] for s in spans)]
    near(products.grouped_wgrad(dy, x, groups), torch.stack(wgrad))


@pytest.mark.parametrize("of", [TritonProducts, ScaledMMProducts])
def test_no_rows(of):
    products, w = of("power-of-two"), weight(128, 128)
    nothing = torch.empty(0, 128, dtype=torch.bfloat16)
    assert products.linear(nothing, w).shape == (0, 128)
    assert not products.linear_wgrad(nothing, nothing).any()
    w = weight(2, 128, 128)
    groups = torch.zeros(2, dtype=torch.int32)
    assert products.grouped(nothing, w, groups).shape == (0, 128)
    assert not products.grouped_wgrad(nothing, nothing, groups).any()


@pytest.mark.slow
def test_a_training_step_has_the_bits_of_the_emulation(monkeypatch):
    """Of all sums of ling-tiny none is longer than a tile, so none is added up in another order."""
    for name in ("product", "weight_gradient"):
        monkeypatch.setattr(backend, name, rounded_in_torch(getattr(backend, name)))
    found = []
    for products in (RoundedProducts(), TritonProducts("power-of-two")):
        monkeypatch.setattr(rule, "choose", lambda *args, products=products: products)
        network = LingForTraining(Ling(preset("ling-tiny")))
        network.ling.init_weights(torch.Generator().manual_seed(1))
        network.ling.compute_dtype = torch.bfloat16
        rule.fp8(network, TrainConfig(fp8="blockwise"))
        torch.manual_seed(2)
        tokens, labels = torch.randint(0, 384, (2, 2, 64))
        batch = Batch(tokens, labels, torch.ones(2, 64))
        ((losses, _),) = network.micro_batches(Pretraining(0.1, 1e-6), [batch], 1)
        found.append([losses.total, *(p.grad for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def rounded_in_torch(multiply):
    """Triton's interpreter cuts off what does not fit into bfloat16, where a GPU rounds."""
    return lambda a, b, tiles, dtype: multiply(a, b, tiles, torch.float32).to(dtype)
