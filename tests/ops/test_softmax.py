from __future__ import annotations

import pytest
import torch

from ling.ops import native, softmax

pytestmark = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.bfloat16, 4e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("vocab", [5, 37, 512])
def test_losses_and_gradient_equal_torch(vocab, dtype, rtol):
    scores = (3 * torch.randn(9, vocab)).to(dtype)
    targets, weights = torch.randint(0, vocab, (9,)), torch.rand(9)
    weights[4] = 0
    exact = scores.double().requires_grad_()
    each = torch.nn.functional.cross_entropy(exact, targets, reduction="none") * weights.double()
    (want,) = torch.autograd.grad(each.sum(), exact)
    scores[4] = torch.nan  # a row without weight may be anything
    losses = softmax.loss_gradient_(scores, targets, weights)
    torch.testing.assert_close(losses.double(), each.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.double(), want, rtol=rtol, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_that_are_not_finite_give_a_loss_that_is_not(dtype):
    scores = torch.randn(2, 70).to(dtype)
    scores[0, 3], scores[1, 68] = torch.nan, torch.inf
    losses = softmax.loss_gradient_(scores, torch.zeros(2).long(), torch.ones(2))
    assert not losses.isfinite().any()


def test_wrong_arguments_are_refused():
    scores, targets, weights = torch.randn(2, 8).bfloat16(), torch.zeros(2).long(), torch.ones(2)
    assert not softmax.has_kernel(scores.double())
    for args, reason in (
        ((scores.double(), targets, weights), "bfloat16"),
        ((scores[:, :4], targets, weights), "whole rows"),
        ((scores, targets[:1], weights), "targets of"),
        ((scores, targets + 8, weights), "outside the vocabulary"),
    ):
        with pytest.raises(native.KernelError, match=reason):
            softmax.loss_gradient_(*args)
