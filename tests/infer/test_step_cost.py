"""Predicted times of steps, from those of steps that ran."""

from __future__ import annotations

import math
import random

import pytest

from ling.infer.step_cost import MANY, START_S_PER_TOKEN, StepCost, StepLoad

SHARE = 8 / 256


def seconds(load):
    """Reading the experts that the tokens reach, computing them, attending, choosing."""
    reached = 1.0 - (1.0 - SHARE) ** load.tokens
    return 0.01 + 0.2 * reached + 0.002 * load.tokens + 1e-7 * load.pairs + 0.001 * load.chosen


def learned(noise=0.0, steps=400):
    rng, cost = random.Random(0), StepCost(SHARE)
    for _ in range(steps):
        decodes, prompt = rng.randint(0, 16), rng.choice((0, 20, 100, 400, 1500))
        context = rng.randint(0, 8000)
        load = StepLoad(decodes + prompt, (decodes + prompt) * context, decodes)
        if load.tokens:
            cost.observe(load, seconds(load) * rng.uniform(1 - noise, 1 + noise))
    return cost


def test_before_anything_ran_a_token_costs_what_it_does_on_a_small_machine():
    assert StepCost(SHARE).seconds(StepLoad(100, 0, 1)) == pytest.approx(100 * START_S_PER_TOKEN)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_times_of_unseen_steps_are_foreseen(noise):
    cost = learned(noise)
    for load in (StepLoad(60, 60 * 2000, 4), StepLoad(700, 700 * 500, 0), StepLoad(8, 8000, 8)):
        assert cost.seconds(load) == pytest.approx(seconds(load), rel=0.35)


def test_as_many_tokens_as_fit_into_a_time():
    cost = learned()
    for limit_s, context in ((0.1, 0), (0.1, 30_000), (1.0, 5000)):
        n = cost.prompt_tokens(limit_s, context)
        assert cost.prompt_seconds(n, context) <= limit_s * 1.0001
        assert cost.prompt_seconds(n + 1, context) > limit_s
    assert cost.prompt_tokens(math.inf, 0) == MANY
    assert cost.prompt_tokens(-1.0, 0) == 0
    assert cost.prompt_tokens(0.1, 0) > cost.prompt_tokens(0.1, 30_000)


def test_a_machine_that_becomes_slower_is_noticed_in_some_steps():
    cost = learned()
    load = StepLoad(100, 100 * 1000, 4)
    for _ in range(40):
        cost.observe(load, 2 * seconds(load))
    assert cost.seconds(load) > 1.5 * seconds(load)
