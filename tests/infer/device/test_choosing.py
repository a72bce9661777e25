"""Tokens from scores on a device are those of the CPU's sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ling.infer.choice import NO_IDS, Filters, RowChoice
from ling.infer.device import choosing
from ling.infer.device.choosing import choose_on_device
from ling.infer.sampler import choose

BANNED = np.array([3, 900], np.int32)
MASK = np.full(4, 0x0F0F0F0F, np.uint32)
CHOICES = [
    RowChoice(),
    RowChoice(num_best=0),
    RowChoice(Filters(1.0), seed=4, position=9),
    RowChoice(num_best=3),
    RowChoice(mask=MASK),
    RowChoice(excluded=np.array([7], np.int32)),
    RowChoice(bias_ids=np.array([5], np.int32), bias=np.array([9.0], np.float32)),
    RowChoice(given=11, num_best=1),
    RowChoice(Filters(0.8, top_p=0.9, top_k=40), seed=1, position=3),
]


@pytest.mark.parametrize("library", [True, False])
def test_every_kind_of_choice_in_one_batch(library, monkeypatch):
    if not library:
        monkeypatch.setattr(choosing.native, "library", lambda: None)
    torch.manual_seed(2)
    scores = torch.randn(len(CHOICES), 128)
    scores[0, [50, 60]] = scores[0].max() + 1  # of equal ones the first
    scores[1, 3] = 99  # banned, and more likely than what is chosen
    got = choose_on_device(scores, CHOICES, BANNED)
    want = [choose(row, c, BANNED) for row, c in zip(scores.numpy(), CHOICES, strict=True)]
    assert got[0].token_id == 50
    assert got[1].rank == 2
    for a, b in zip(got, want, strict=True):
        assert (a.token_id, a.rank, a.error) == (b.token_id, b.rank, None)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
        assert a.best_ids.tolist() == b.best_ids.tolist()


def test_rows_that_have_no_token_fail_alone():
    scores = torch.zeros(3, 8)
    scores[0, 2] = float("nan")
    got = choose_on_device(scores, [RowChoice(), RowChoice(num_best=0), RowChoice()], NO_IDS)
    assert "not finite" in str(got[0].error)
    assert [c.token_id for c in got[1:]] == [0, 0]
    (none,) = choose_on_device(scores[1:2], [RowChoice()], np.arange(8, dtype=np.int32))
    assert "no token may be chosen" in str(none.error)
