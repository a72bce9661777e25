from __future__ import annotations

import pytest
import torch

from ling.ops import native, softmax

pytestmark = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.mark.parametrize("vocab", [37, 512])
def test_losses_and_gradient_equal_torch(vocab):
    scores = (3 * torch.randn(9, vocab)).bfloat16()
    targets, weights = torch.randint(0, vocab, (9,)), torch.rand(9)
    weights[4] = 0
    exact = scores.double().requires_grad_()
    each = torch.nn.functional.cross_entropy(exact, targets, reduction="none") * weights.double()
    (want,) = torch.autograd.grad(each.sum(), exact)
    scores[4] = torch.nan  # a row without weight may be anything
    losses = softmax.loss_gradient_(scores, targets, weights)
    torch.testing.assert_close(losses.double(), each.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.double(), want, rtol=4e-3, atol=1e-8)  # 8 bits


def test_scores_that_are_not_finite_give_a_loss_that_is_not():
    scores = torch.randn(2, 64).bfloat16()
    scores[0, 3], scores[1, 40] = torch.nan, torch.inf
    losses = softmax.loss_gradient_(scores, torch.zeros(2).long(), torch.ones(2))
    assert not losses.isfinite().any()


def test_wrong_arguments_are_refused():
    scores, targets, weights = torch.randn(2, 8).bfloat16(), torch.zeros(2).long(), torch.ones(2)
    assert not softmax.has_kernel(scores.float())
    for args, reason in (
        ((scores.float(), targets, weights), "bfloat16"),
        ((scores[:, :4], targets, weights), "whole rows"),
        ((scores, targets[:1], weights), "targets of"),
        ((scores, targets + 8, weights), "outside the vocabulary"),
    ):
        with pytest.raises(native.KernelError, match=reason):
            softmax.loss_gradient_(*args)
