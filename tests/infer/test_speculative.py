"""Drafting is measured: the policy on made-up costs, and the engine on a made-up clock."""

from __future__ import annotations

import pytest

from ling.infer.speculative import KEEP_STEPS, DraftPolicy


def gain(accepted, drafts):
    """Expected tokens of a step whose drafts are each right with this probability."""
    return sum(accepted**k for k in range(drafts + 1))


def simulate(policy, steps, cost, accepted, batch=1, most=99):
    """Numbers of drafts chosen; a step verifies the drafts that the step before it made."""
    chosen, have = [], 0
    for _ in range(steps):
        drafts = policy.num_drafts(batch)
        chosen.append(drafts)
        policy.observe(batch, have, gain(accepted, have), cost(have))
        have = min(drafts, most)
    return chosen


def share(chosen, best):
    return chosen.count(best) / len(chosen)


@pytest.mark.parametrize("slope", [0.05, 0.22, 0.35, 0.6, 1.2])
@pytest.mark.parametrize("accepted", [0.1, 0.5, 0.75, 0.95])
def test_policy_settles_on_the_number_that_is_fastest(slope, accepted):
    def cost(drafts):
        return 0.03 * (1 + slope * drafts)

    rates = [gain(accepted, k) / cost(k) for k in range(4)]
    chosen = simulate(DraftPolicy(3, adaptive=True), 3000, cost, accepted)
    assert share(chosen[100:], rates.index(max(rates))) > 0.9
    assert set(chosen) == {0, 1, 2, 3}  # and goes on looking at the others


def test_policy_switches_off_where_drafting_loses_and_on_again_when_it_pays():
    policy = DraftPolicy(1, adaptive=True)
    assert share(simulate(policy, 1000, lambda k: 1 + 0.9 * k, 0.2)[100:], 0) > 0.9
    assert share(simulate(policy, 3000, lambda k: 1 + 0.2 * k, 0.9)[-1000:], 1) > 0.9


def test_trying_costs_little():
    chosen = simulate(DraftPolicy(3, adaptive=True), 5000, lambda k: 1 + k, 0.0)
    assert sum(k > 0 for k in chosen[200:]) / 4800 < 3 * 8 / KEEP_STEPS


def test_batches_of_other_sizes_are_measured_apart():
    policy = DraftPolicy(1, adaptive=True)
    for _ in range(10):  # alone a draft pays, in a crowd it does not
        alone = simulate(policy, 100, lambda k: 1 + 0.2 * k, 0.8, batch=1)
        crowd = simulate(policy, 100, lambda k: 1 + 1.0 * k, 0.8, batch=16)
    assert share(alone, 1) > 0.8
    assert share(crowd, 0) > 0.8


def test_without_adapting_it_is_always_the_most():
    assert set(simulate(DraftPolicy(2, adaptive=False), 500, lambda k: 1 + 9 * k, 0.0)) == {2}


def test_numbers_that_never_happen_do_not_hold_up_the_choice():
    """Requests so short that only one draft fits: the other numbers still get their turn."""
    chosen = simulate(DraftPolicy(3, adaptive=True), 1500, lambda k: 1 + 2 * k, 0.5, most=1)
    assert share(chosen[200:], 0) > 0.9


# ---- the engine --------------------------------------------------------------------------------
