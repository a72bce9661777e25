"""The C++ core's gradient of RMSNorm and its rotation; results are in tests/model/test_fused.py."""

from __future__ import annotations

import pytest
import torch

from ling.errors import KernelError
from ling.model import fused
from ling.ops import native, native_layers, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="no kernel library")


def test_the_gradient_of_a_norm_is_autograds_whatever_the_threads():
    x, w = torch.randn(1300, 3, 32), torch.randn(32)
    dy = torch.randn_like(x)
    leaves = [x.double().requires_grad_(), w.double().requires_grad_()]
    want = torch.autograd.grad(reference.rms_norm(*leaves, 1e-6), leaves, dy.double())
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(native_layers.rms_norm_gradient(x, w, dy, 1e-6))
    for one, two, exact in zip(*found, want, strict=True):
        assert torch.equal(one, two)
        assert (one.double() - exact).norm() <= 1e-6 * exact.norm()


def test_a_rotation_of_a_part_of_a_row_is_the_references_and_turns_back():
    x = torch.randn(600, 7, 32)[:, 2:5]
    angles = torch.randn(600, 8).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    turned = native_layers.rotate(x, cos, sin, back=False)
    assert torch.equal(turned, reference.rotate(x, cos, sin))
    assert torch.equal(
        native_layers.rotate(turned, cos, sin, back=True), reference.rotate(turned, cos, -sin)
    )
    torch.testing.assert_close(native_layers.rotate(turned, cos, sin, back=True), x)


def test_gradients_that_are_one_row_for_all_tokens_are_read():
    x, w = torch.randn(9, 3, 32, requires_grad=True), torch.randn(3, 32)
    cos, sin = torch.randn(9, 16), torch.randn(9, 16)
    cos, sin = (torch.cat((t[:, :8], t[:, :8]), 1) for t in (cos, sin))
    found = [
        torch.autograd.grad((ops.rotate(x, cos, sin).sum(0) * w).sum(), x)[0]
        for ops in (fused, reference)
    ]
    torch.testing.assert_close(*found)


def test_wrong_arguments_are_refused():
    x, w = torch.randn(4, 2, 32), torch.randn(32)
    with pytest.raises(KernelError, match="gradients of"):
        native_layers.rms_norm_gradient(x, w, x[:3], 1e-6)
    with pytest.raises(KernelError, match="sizes out of range"):
        native_layers.rms_norm_gradient(x[..., :8], w[:8], x[..., :8], 1e-6)
    with pytest.raises(KernelError, match="tables of"):
        native_layers.rotate(x, torch.ones(3, 8), torch.ones(3, 8), back=False)
