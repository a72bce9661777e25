"""What is remembered of drafts and costs: means that follow changes, and what is not known yet."""

from __future__ import annotations

import random

import pytest

from ling.infer.draft_evidence import LEAST_WEIGHT, Acceptance, Aged, Costs


def test_a_mean_follows_what_changed():
    mean = Aged()
    for step in range(200):
        mean.add(0.0, step)
    for step in range(200, 300):
        mean.add(1.0, step)
    assert mean.mean() > 0.85


def test_what_is_old_counts_less_but_is_not_forgotten():
    mean = Aged()
    for step in range(100):
        mean.add(0.0, step)
    mean.add(1.0, 10_000)
    assert mean.mean() == pytest.approx(1 / (LEAST_WEIGHT + 1))
    assert Aged().mean(0.3) == 0.3


def test_unknown_depths_and_bins_are_taken_from_their_neighbours():
    a = Acceptance(0.6, (0.5, 0.9))
    assert [a.bin(x) for x in (0.0, 0.49, 0.5, 0.95)] == [0, 0, 1, 2]
    assert a.chance(1, 0) == a.chance(4, 2) == 0.6
    for step in range(60):
        a.learn(1, 2, right=True, step=step)
        a.learn(1, 0, right=step % 4 == 0, step=step)
    assert a.chance(1, 2) > 0.9
    assert a.chance(1, 0) == pytest.approx(0.25, abs=0.1)
    assert a.chance(1, 1) == a.mean(1) == pytest.approx(a.mean(3))
    assert a.spread(2) == [(1.0, a.mean(1))]
    shares, chances = zip(*a.spread(1), strict=True)
    assert shares == pytest.approx((0.5, 0.5))
    assert set(chances) == {a.chance(1, 0), a.chance(1, 2)}


def test_a_slower_machine_does_not_look_like_dearer_rows():
    costs, rng = Costs(), random.Random(0)
    for step in range(400):
        machine = 0.02 if step < 200 else 0.03
        rows = 1 if step < 50 or step > 330 else 2
        noise = 1 + 0.03 * rng.gauss(0, 1)
        costs.observe_step(rows, machine * (1 if rows == 1 else 1.3) * noise, step)
        if step > 60:
            assert costs.step(2) / costs.step(1) == pytest.approx(1.3, rel=0.12), step
    assert costs.scale * costs.step(1) == pytest.approx(0.03, rel=0.1)


def test_numbers_of_rows_that_were_not_measured_lie_on_a_line():
    costs = Costs()
    assert costs.step(3) > costs.step(1) > 0
    for _ in range(3):
        costs.observe_step(1, 1.0, 0)
        costs.observe_step(3, 2.0, 0)
    assert not costs.known(2)
    assert costs.known(3)
    assert costs.step(2) == pytest.approx((costs.step(1) + costs.step(3)) / 2)
    assert costs.step(5) == pytest.approx(1.5 * costs.step(3) - 0.5 * costs.step(1))
    assert costs.row(1, 1) == pytest.approx(costs.step(2) - costs.step(1))
    assert costs.row(1, 2) == pytest.approx((costs.step(4) - costs.step(2)) / 2)


def test_a_disturbed_step_counts_no_more_than_twice():
    costs = Costs()
    for step in range(40):
        costs.observe_step(1, 1.0, step)
    costs.observe_step(1, 1000.0, 40)
    assert costs.scale < 1.4
    assert costs.step(1) < 1.2


def test_large_batches_share_what_they_measure():
    costs = Costs()
    for _ in range(2):
        costs.observe_step(64, 1.0, 0)
    assert costs.known(65)
    assert not costs.known(80)


def test_passes_are_measured_a_request_and_further_ones_apart():
    costs = Costs()
    costs.observe_pass(1, 4, 1.0, 0)  # without a scale it says nothing
    costs.observe_step(4, 2.0, 0)
    for _ in range(3):
        costs.observe_pass(1, 4, 0.4, 0)
        costs.observe_pass(2, 4, 0.2, 0)
        costs.observe_pass(3, 4, 0.2, 0)
    assert costs.draft_pass(1, 4) == pytest.approx(0.05)
    assert costs.draft_pass(2, 4) == costs.draft_pass(3, 4) == pytest.approx(0.025)
    assert costs.draft_pass(1, 1) > 0
