"""Drafting is measured: the policy on made-up costs, and the engine on a made-up clock."""

from __future__ import annotations

import pytest
import torch

import ling.infer.engine as engine_module
from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import SamplingParams
from ling.infer.speculative import KEEP_STEPS, DraftPolicy
from ling.model.ling import from_config
from ling.presets import preset


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


class Clock:
    """Stands in for the module `time`; a runner that charges for its rows moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now


def charged(runner, clock, row, draft):
    """A forward pass costs 1 and `row` for each further row of a request, a draft `draft`."""
    forward, mtp = runner.forward, runner.mtp

    def slow_forward(tokens, segments):
        clock.now += 1 + row * (len(tokens) - len(segments))
        return forward(tokens, segments)

    def slow_mtp(*args):
        clock.now += draft
        return mtp(*args)

    runner.forward, runner.mtp = slow_forward, slow_mtp
    return runner


def generate(monkeypatch, row, draft, model, n=160, adaptive=True, **options):
    clock = Clock()
    monkeypatch.setattr(engine_module, "time", clock)
    runner = charged(runner_for(model), clock, row, draft)
    e, wanted = Engine(runner, EngineConfig(**options), adaptive=adaptive), []
    choose = e.drafter.policy.num_drafts
    e.drafter.policy.num_drafts = lambda batch: wanted.append(choose(batch)) or wanted[-1]
    request = e.add([1, 2, 3], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages
    return request.output, wanted, e.stats


def test_engine_stops_drafting_where_it_loses_and_keeps_its_tokens(monkeypatch):
    model = from_config(preset("ling-tiny"), seed=0)
    want, *_ = generate(monkeypatch, 0, 0, model)
    got, wanted, stats = generate(monkeypatch, 0.9, 0.9, model, speculative="mtp", num_drafts=2)
    assert got == want
    assert share(wanted[40:], 0) > 0.8
    assert stats.acceptance is not None


def test_engine_goes_on_drafting_where_it_pays(monkeypatch):
    """Every token is the same, so a draft is always right."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    want, *_ = generate(monkeypatch, 0, 0, model)
    got, wanted, stats = generate(monkeypatch, 0.1, 0.1, model, speculative="mtp", num_drafts=3)
    assert got == want == [0] * 160
    assert stats.acceptance == 1
    assert share(wanted[40:], 3) > 0.8


def test_drafts_never_reach_beyond_the_last_token(monkeypatch):
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for n in (1, 2, 3, 4):
        got, _, stats = generate(
            monkeypatch, 0, 0, model, n=n, speculative="mtp", num_drafts=3, adaptive=False
        )
        assert len(got) == n
        assert stats.drafted == stats.accepted == max(n - 2, 0)
