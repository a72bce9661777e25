from __future__ import annotations

import json

import pytest
import torch

from ling.ops import softmax
from ling.train import loss
from ling.train.loss import RoutingLoss, cross_entropy, roll_left
from ling.train.objectives.pretrain import Pretraining

CPU = torch.device("cpu")
OBJECTIVE = Pretraining(mtp_weight=0.1, z_coef=3.5e-6)


def test_chunked_cross_entropy_equals_torch_with_gradients(monkeypatch):
    monkeypatch.setattr("ling.train.loss.CHUNK_TOKENS", 7)
    torch.manual_seed(0)
    h = torch.randn(25, 8, requires_grad=True)
    w = torch.randn(30, 8, requires_grad=True)
    targets, mask = torch.randint(0, 30, (25,)), (torch.rand(25) > 0.3).float()
    head = torch.nn.Linear(8, 30, bias=False)
    head.weight = torch.nn.Parameter(w)
    loss, count = cross_entropy(h, head, targets, mask)
    each = torch.nn.functional.cross_entropy(h @ w.t(), targets, reduction="none")
    want = (each * mask).sum() / mask.sum()
    assert count == mask.sum()
    torch.testing.assert_close(loss, want)
    got = torch.autograd.grad(3 * loss, [h, head.weight])
    for a, b in zip(got, torch.autograd.grad(3 * want, [h, w]), strict=True):
        torch.testing.assert_close(a, b)


def sizes_of_chunks(monkeypatch):
    """A list that gets the rows of each chunk of scores, with a kernel or without."""
    found = []

    def noted(real):
        return lambda scores, *rest: found.append(len(scores)) or real(scores, *rest)

    monkeypatch.setattr(loss, "_loss_gradient", noted(loss._loss_gradient))
    monkeypatch.setattr(softmax, "loss_gradient_", noted(softmax.loss_gradient_))
    return found


@pytest.mark.parametrize(("device", "rows"), [("cpu", [512, 512, 1]), ("meta", [1025])])
def test_only_a_cpu_has_caches_that_chunks_are_cut_for(monkeypatch, device, rows):
    found = sizes_of_chunks(monkeypatch)
    head = torch.nn.Linear(4, 6, bias=False, device=device)
    targets, mask = torch.zeros(1025, dtype=torch.int64, device=device), torch.ones(1025)
    cross_entropy(torch.zeros(1025, 4, device=device), head, targets, mask.to(device))
    assert found == rows


def test_loss_in_bfloat16_is_that_of_float32_to_its_rounding(monkeypatch):
    monkeypatch.setattr("ling.train.loss.IN_PLACE_CHUNK_TOKENS", 16)
    head = torch.nn.Linear(32, 200, bias=False)
    hidden, targets = torch.randn(40, 32).bfloat16(), torch.randint(0, 200, (40,))
    mask = (torch.rand(40) > 0.3).float()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        h = hidden.to(dtype).requires_grad_()
        loss, _ = cross_entropy(h, head, targets, mask)
        found.append([loss.detach(), *torch.autograd.grad(loss, [h, head.weight])])
    assert not found[0][1][mask == 0].any()
    for a, b in zip(*found, strict=True):
        assert (a.float() - b).norm() <= 0.01 * b.norm()


def test_empty_mask_gives_zero():
    loss, _ = cross_entropy(
        torch.randn(3, 4), torch.nn.Linear(4, 5), torch.zeros(3).long(), torch.zeros(3)
    )
    assert loss == 0


def test_mtp_rolling_and_loss_equal_megatron(fixtures):
    want = json.loads((fixtures / "training" / "mtp_loss.json").read_text())
    tokens, labels = torch.tensor(want["tokens"]), torch.tensor(want["labels"])
    mask, logits = torch.tensor(want["loss_mask"]), torch.tensor(want["mtp_logits"])
    assert roll_left(tokens).tolist() == want["rolled_input_ids"]
    assert roll_left(labels).tolist() == want["rolled_labels"]
    assert roll_left(mask).tolist() == want["rolled_loss_mask"]
    V = logits.shape[-1]
    flat = (
        logits.reshape(-1, V)
        if logits.shape[:2] == tokens.shape
        else logits.transpose(0, 1).reshape(-1, V)
    )
    # With the identity as head, hidden states are the logits themselves.
    head = torch.nn.Linear(V, V, bias=False)
    torch.nn.init.eye_(head.weight)
    loss, _ = cross_entropy(flat, head, roll_left(labels).flatten(), roll_left(mask).flatten())
    each = torch.nn.functional.cross_entropy(flat, roll_left(labels).flatten(), reduction="none")
    given = torch.tensor(want["mtp_loss"])
    if given.ndim:
        assert torch.allclose(
            (each * roll_left(mask).flatten()).view(tokens.shape), given, atol=1e-5
        )
    else:
        assert torch.allclose(loss, given, atol=1e-5)


def test_z_loss_equals_megatron(fixtures):
    want = json.loads((fixtures / "training" / "router.json").read_text())
    trace = RoutingLoss(len(want["expert_bias"]), train=True)
    logits = torch.tensor(want["logits"])
    trace.record(0, logits, torch.zeros(len(logits), 1, dtype=torch.long))
    assert float(trace.z_loss()) * 3.5e-6 == pytest.approx(
        want["z_loss_times_coeff_3p5e6"], rel=1e-5
    )


# ---- token by token ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learns", [True, False])
def test_token_losses_take_any_gradient_and_never_store_all_scores(dtype, learns, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 16)
    monkeypatch.setattr(loss, "IN_PLACE_CHUNK_TOKENS", 16)
    hidden, targets = torch.randn(50, 8, dtype=dtype), torch.randint(40, (50,))
    head = torch.nn.Linear(8, 40, bias=False)
    head.weight.requires_grad_(learns)
    weights = torch.randn(50)  # of both signs
    weights[3] = 0
    sizes = sizes_of_chunks(monkeypatch)
    x = hidden.clone().requires_grad_()
    got = loss.token_losses(x, head, targets)
    (got * weights).sum().backward()
    assert max(sizes) == 16
    y = hidden.clone().requires_grad_()
    w = head.weight.detach().to(dtype).requires_grad_()
    want = torch.nn.functional.cross_entropy((y @ w.t()).float(), targets, reduction="none")
    (want * weights).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
    torch.testing.assert_close(got, want, **near)
    torch.testing.assert_close(x.grad, y.grad, **near)
    assert x.grad[3].abs().max() == 0
    if learns:
        torch.testing.assert_close(head.weight.grad, w.grad.float(), rtol=2e-2, atol=4e-2)
    else:
        assert head.weight.grad is None
