"""Which drafts are taken: the policy on made-up costs and coins, against the best fixed number."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from ling.infer.speculative import PROBE_SHARE, DraftPolicy, Plan


@dataclass
class World:
    """Costs in plain steps of one request: a further row, the layer's first pass, its others.

    `chance(confidence)` is how often a draft is right, `confidence(rng)` what the layer says.
    """

    row: float
    accepted: float
    first: float = 0.06
    further: float = 0.05
    noise: float = 0.03
    confident: bool = False
    """Whether the confidence says which drafts are right: half are by 0.97, half by 0.02."""

    def step(self, rows):
        return 1 + self.row * (rows - 1) ** 0.9

    def draft_pass(self, depth, requests):
        return (self.first if depth == 1 else self.further) * (1 + 0.2 * (requests - 1))

    def coin(self, rng):
        """(confidence, right) of a draft."""
        if not self.confident:
            return 0.2, rng.random() < self.accepted
        sure = rng.random() < 0.5
        return (0.97, rng.random() < 0.97) if sure else (0.05, rng.random() < 0.02)

    def speed_of(self, drafts, batch=1):
        """Of that many drafts every step, beside plain decoding."""
        tokens = sum(self.accepted**k for k in range(drafts + 1))
        passes = sum(self.draft_pass(d, batch) for d in range(1, drafts + 1))
        return tokens * self.step(batch) / (self.step(batch * (1 + drafts)) + passes)


@dataclass
class Run:
    """What came of it: time beside that of plain decoding, and drafts verified a request."""

    time: float = 0.0
    plain: float = 0.0
    drafts: list | None = None

    @property
    def speed(self):
        return self.plain / self.time


def simulate(policy, world, steps, batch=1, seed=0):
    """Decoding steps as the drafter makes them, each verifying what the one before drafted."""
    rng, run = random.Random(seed), Run(drafts=[])
    pending = [[] for _ in range(batch)]
    for _ in range(steps):
        rows = batch + sum(kept for guesses in pending for *_, kept in guesses)
        tokens = sum(_verified(policy, guesses) for guesses in pending)
        seconds = world.step(rows) * max(0.5, 1 + rng.gauss(0, world.noise))
        plan = policy.plan(batch)
        pending, drafting = _draft(policy, plan, world, batch, rng)
        if not policy.skips_step():
            policy.observe(batch, rows, tokens, seconds + drafting, drafting)
        run.time += seconds + drafting
        run.plain += world.step(batch) * tokens / batch
        run.drafts.append((rows - batch) / batch)
    return run


def _verified(policy, guesses):
    """Tokens that a request gets; the policy learns which of its drafts were right."""
    tokens = 1
    for depth, (bin, right, kept) in enumerate(guesses, 1):
        policy.mtp.learn(depth, bin, right, policy.step)
        if not right or not kept:
            break
        tokens += 1
    return tokens


def _draft(policy, plan, world, batch, rng):
    pending, seconds = [[] for _ in range(batch)], 0.0
    live = [(b, 1.0) for b in range(batch)] if plan.runs_mtp else []
    depth = 1
    while live:
        cost = world.draft_pass(depth, len(live))
        policy.costs.observe_pass(depth, len(live), cost, policy.step)
        seconds, deeper = seconds + cost, []
        for b, reach in live:
            confidence, right = world.coin(rng)
            bin = policy.mtp.bin(confidence)
            reach *= policy.mtp.chance(depth, bin)
            kept = plan.keeps(depth, reach)
            pending[b].append((bin, right, kept))
            if kept and policy.goes_deeper(plan, depth + 1, reach):
                deeper.append((b, reach))
        live, depth = deeper, depth + 1
    return pending, seconds


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("row", [0.05, 0.22, 0.35, 0.6, 1.2])
@pytest.mark.parametrize("accepted", [0.0, 0.1, 0.5, 0.75, 0.95])
def test_speed_is_near_that_of_the_best_number_of_drafts(row, accepted, batch):
    world, policy = World(row, accepted), DraftPolicy(4, adaptive=True)
    best = max(world.speed_of(k, batch) for k in range(5))
    simulate(policy, world, 300, batch)
    run = simulate(policy, world, 1200, batch, seed=1)
    assert run.speed > 0.93 * best
    assert run.speed > 0.98


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("row", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("first", [0.05, 0.4])
def test_drafts_that_fail_cost_less_than_a_fiftieth(seed, row, first):
    """From the first step on, also where the layer is a large part of the model."""
    world = World(row, 0.0, first=first, further=first)
    assert simulate(DraftPolicy(4, adaptive=True), world, 800, seed=seed).speed > 0.98


def test_the_best_depth_is_found():
    world, policy = World(0.2, 0.75, further=0.03), DraftPolicy(6, adaptive=True)
    speeds = [world.speed_of(k) for k in range(7)]
    assert speeds.index(max(speeds)) == 4
    assert speeds[3] > 0.99 * max(speeds)
    simulate(policy, world, 300)
    drafts = simulate(policy, world, 600, seed=1).drafts
    assert sum(d in (3, 4, 5) for d in drafts) > 0.8 * len(drafts)


def test_confidence_stops_drafts_that_would_fail():
    """Half of all drafts hold, and the layer knows which: better than any fixed number."""
    world = World(0.35, 0.495, further=0.03, confident=True)
    policy = DraftPolicy(4, adaptive=True)
    simulate(policy, world, 300)
    run = simulate(policy, world, 1500, seed=1)
    assert run.speed > 1.05 * max(world.speed_of(k) for k in range(5))
    assert 0.3 < sum(run.drafts) / len(run.drafts) < 1.2


def test_policy_recovers_when_conditions_change():
    policy = DraftPolicy(4, adaptive=True)
    bad, good = World(0.6, 0.1), World(0.2, 0.9)
    for world in (bad, good, bad, good):
        simulate(policy, world, 1500, seed=3)
        run = simulate(policy, world, 500, seed=4)
        assert run.speed > 0.96 * max(world.speed_of(k) for k in range(5))


def test_costs_that_change_are_noticed():
    policy, cheap, dear = DraftPolicy(3, adaptive=True), World(0.1, 0.7), World(1.0, 0.7)
    assert simulate(policy, cheap, 600).speed > 1.5
    simulate(policy, dear, 200)
    assert simulate(policy, dear, 600, seed=1).speed > 0.97


def test_batches_of_other_sizes_are_measured_apart():
    policy = DraftPolicy(2, adaptive=True)

    class Crowded(World):  # alone a row is cheap, in a crowd each costs a whole step's share
        def step(self, rows):
            return 1 + 0.1 * (rows - 1) if rows < 4 else 1.3 * rows / 4

    world = Crowded(0, 0.7)
    for _ in range(10):
        alone = simulate(policy, world, 100, batch=1)
        crowd = simulate(policy, world, 100, batch=16)
    assert sum(alone.drafts) > 1.5 * 90
    assert sum(crowd.drafts) < 0.2 * 100


def test_trying_again_takes_a_fixed_share_of_the_time():
    world, policy = World(0.5, 0.0, first=1.0), DraftPolicy(4, adaptive=True)
    simulate(policy, world, 300)
    run = simulate(policy, world, 20_000, seed=1)
    assert 0.3 * PROBE_SHARE < 1 - run.speed < 1.5 * PROBE_SHARE


def test_without_adapting_all_drafts_are_taken():
    policy = DraftPolicy(2, adaptive=False)
    run = simulate(policy, World(9.0, 0.0), 100)
    assert set(run.drafts[1:]) == {2.0}


def test_a_plan_counts_what_further_drafts_may_bring():
    """A pass that loses alone pays with the one behind it."""
    policy = DraftPolicy(2, adaptive=True)
    for step in range(60):
        policy.mtp.learn(1, 6, True, step)
        policy.mtp.learn(2, 6, True, step)
    plan = Plan(1.0, [0.5, 0.1], [0.6, 0.1], 0)
    assert plan.pass_gain(policy.mtp, 1, 1.0) < 0 < plan.pass_gain(policy.mtp, 1, 1.0, ahead=1)
    assert plan.value(1, 0.4) < 0 < plan.value(1, 0.6)


def test_measured_speed_overrules_what_was_expected():
    """A pass that takes far longer than the drafter's own clock says."""
    world, policy = World(0.3, 0.75), DraftPolicy(2, adaptive=True)
    policy.costs.observe_pass = lambda *args: None  # passes seem to take what is assumed at first
    slow = World(0.3, 0.75, first=1.5, further=1.5)
    simulate(policy, world, 200)
    simulate(policy, slow, 500)
    assert simulate(policy, slow, 4000, seed=1).speed > 0.95


def test_rows_of_ngrams_that_lose_alone_are_made_up_for_by_further_ones():
    """A second row costs as much as five: a long match pays, a short one does not."""
    plan = Plan(1.0, [0.95, 0.05, 0.05, 0.05], [0.0] * 4, 0)
    assert plan.ngrams_kept([0.9]) == (0, 0.0)
    count, saved = plan.ngrams_kept([0.9, 0.9, 0.9, 0.01])
    assert count == 3
    assert saved == pytest.approx(0.9 + 0.81 + 0.729 - 1.05)
    plan.tries_ngrams = True
    assert plan.ngrams_kept([0.9, 0.1])[0] == 2
    assert plan.ngrams_kept([0.1, 0.1])[0] == 0
    plan.keeps_ngrams = False
    assert plan.ngrams_kept([0.9] * 4) == (0, 0.0)


def test_most_steps_without_drafts_are_not_even_measured():
    policy = DraftPolicy(2, adaptive=True)
    simulate(policy, World(0.5, 0.0, first=1.0), 300)
    skipped = 0
    for _ in range(16):
        policy.plan(1)
        if policy.skips_step():
            skipped += 1
        else:
            policy.observe(1, 1, 1, 1.0, 0.0)
    assert skipped == 12
