"""The search of layouts on cases that can be checked one by one."""

from __future__ import annotations

import dataclasses

import pytest

from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.errors import UsageError
from ling.plan import estimate as estimate_file
from ling.plan.constants import ASSUMED
from ling.plan.gpus import GPUS
from ling.plan.layouts import check_layout
from ling.plan.search import candidates, search
from ling.presets import preset

TINY = preset("ling-tiny")
H100 = GPUS["h100-80g"]


def recipe(rows=8, micro=2):
    return PretrainConfig(
        model="ling-tiny",
        data=DataConfig(prefix=["x"], seq_length=128),
        train=TrainConfig(global_batch_size=rows, micro_batch_size=micro),
    )


def test_all_layouts_of_two_ranks_are_tried():
    tried = {c.parallel for c in candidates(recipe(), TINY, 2, [1])}
    degrees = [{"dp_shard": 2}, {"dp_shard": 2, "ep": 2}, {"dp_replicate": 2}]
    degrees += [{"pp": 2, "pp_stages_per_rank": n} for n in (1, 2, 4)]
    wanted = [ParallelConfig(**d, recompute=r) for d in degrees for r in ("none", "moe", "full")]
    assert tried == set(wanted)


def test_what_is_found_can_exist_and_the_fastest_is_first():
    found = search(TINY, recipe(), H100, ASSUMED, 4)
    for e in found:
        check_layout(e.recipe.parallel, e.recipe.train, TINY, 4)
    rates = [float(f"{e.tokens_per_s:.3g}") for e in found]
    assert rates == sorted(rates, reverse=True)
    assert found[0].recipe.parallel.recompute == "none"


def test_without_room_the_smallest_comes_first():
    small = dataclasses.replace(H100, usable_bytes=1000)
    found = search(TINY, recipe(), small, ASSUMED, 2)
    assert not found[0].fits
    assert found[0].peak == min(e.peak for e in found)


def test_memory_decides_between_layouts():
    found = search(TINY, recipe(), H100, ASSUMED, 2)
    least = min(e.peak for e in found)
    tight = dataclasses.replace(H100, usable_bytes=1.05 * least)
    few = search(TINY, recipe(), tight, ASSUMED, 2)
    assert 0 < len(few) < len(found)
    assert all(e.peak <= 1.05 * least for e in few)


def test_times_are_simulated_only_of_layouts_that_fit(monkeypatch):
    every = search(TINY, recipe(), H100, ASSUMED, 2)
    limit = sorted(e.peak for e in every)[1]
    timed = []
    simulate = estimate_file.simulate
    monkeypatch.setattr(estimate_file, "simulate", lambda *a: timed.append(a) or simulate(*a))
    found = search(TINY, recipe(), dataclasses.replace(H100, usable_bytes=limit), ASSUMED, 2)
    assert len(timed) == len(found) < len(every)
    assert [e.recipe for e in found] == [e.recipe for e in every if e.peak <= limit]


def test_fp8_where_there_is_none_is_told_as_that():
    made = recipe()
    made = dataclasses.replace(made, train=dataclasses.replace(made.train, fp8="blockwise"))
    with pytest.raises(UsageError, match="FP8 products, which a100-80g does not have"):
        search(TINY, made, GPUS["a100-80g"], ASSUMED, 2)
