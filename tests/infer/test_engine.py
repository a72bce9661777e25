from __future__ import annotations

import json
import random

import pytest
import torch

from ling.config.engine import EngineConfig
from ling.errors import UsageError
from ling.infer.engine import Engine
from ling.infer.open import open_runner, runner_for
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


def engine(fmt=None, **options):
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():  # larger weights than at the start of training: varied continuations
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    config = EngineConfig(format=fmt, **options)
    return Engine(runner_for(model, config), config)


def test_greedy_equals_upstream(fixtures):
    path = fixtures / "model" / "tiny_nomtp_fp32"
    want = json.loads((path / "expected.json").read_text())["greedy"]
    e = Engine(open_runner(path, EngineConfig(dtype="float32")))
    n = len(want["output"]) - len(want["prompt"])
    request = e.add(want["prompt"], SamplingParams(temperature=0, max_tokens=n, ignore_eos=True))
    while e.has_work:
        e.step()
    assert request.tokens == want["output"]


@pytest.mark.parametrize("length", [0, -1, 513, 100_000])
def test_a_context_that_the_model_does_not_have_is_refused(length):
    with pytest.raises(UsageError, match=f"`max_model_len` is {length}, the model allows 1 to 512"):
        engine(max_model_len=length)


def test_memory_of_the_cache_gives_its_pages():
    page = engine().runner.page_bytes()
    assert engine(kv_cache_memory=f"{3 * page + 1}B").pool.num_pages == 3
    with pytest.raises(UsageError, match="`kv_cache_memory` is 10 B, and a page of 64 positions"):
        engine(kv_cache_memory="10B")


def test_more_requests_than_a_small_cache_has_pages_for_give_lone_tokens():
    prompts = [[i, 2 * i, 7] * 20 for i in range(1, 7)]
    params = SamplingParams(temperature=0, max_tokens=90, ignore_eos=True)
    small, preempted = engine(num_pages=7, max_num_seqs=4, max_step_ms=1e6), []
    preempt = small.scheduler.preempt
    small.scheduler.preempt = lambda r: (preempted.append(r), preempt(r))
    together = [small.add(p, params) for p in prompts]
    while small.has_work:
        small.step()
        assert len(small.scheduler.running) <= 4
    assert preempted
    assert small.pool.available == 7
    alone = engine()
    for prompt, request in zip(prompts, together, strict=True):
        again = alone.add(prompt, params)
        while alone.has_work:
            alone.step()
        assert again.output == request.output


def test_requests_without_a_seed_have_seeds_of_their_own():
    e = engine(seed=3)
    free = [e.add([1], SamplingParams()) for _ in range(2)]
    given = [e.add([1], SamplingParams(seed=7), seed_offset=i) for i in range(2)]
    assert len({r.seed for r in free}) == 2
    assert [r.seed for r in given] == [7, 8]
    again = engine(seed=3)
    assert [again.add([1], SamplingParams()).seed for _ in range(2)] == [r.seed for r in free]
    assert engine(seed=4).add([1], SamplingParams()).seed not in {r.seed for r in free}


def test_a_stop_token_ends_a_request_unless_it_is_to_be_ignored():
    def finished(**options):
        e = engine()
        e.stop_token_ids = e.drafter.stop_token_ids = frozenset(stops)
        request = e.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=12, **options))
        while e.has_work:
            e.step()
        return request

    stops = []
    whole = finished()
    assert (whole.finish_reason, whole.stop_reason, len(whole.output)) == ("length", None, 12)
    stop = whole.output[4]
    first = whole.output.index(stop) + 1
    stops = [stop]
    for request in (finished(), finished(ignore_eos=True, stop_token_ids=[stop])):
        assert (request.finish_reason, request.stop_reason) == ("stop", stop)
        assert request.output == whole.output[:first]
    assert finished(ignore_eos=True).output == whole.output
    late = finished(min_tokens=first + 2)
    assert stop not in late.output[: first + 1]


def test_speculation_needs_an_mtp_layer():
    model = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=0), seed=0)
    with pytest.raises(UsageError, match="num_nextn_predict_layers"):
        Engine(runner_for(model), EngineConfig(speculative="mtp"))


# ---- the native runner -------------------------------------------------------------------------


@pytest.mark.skipif(native.library() is None, reason="no kernel library")
def test_thousand_random_requests_give_lone_tokens_and_all_pages_back():
    rng = random.Random(3)
    stems = [[rng.randrange(384) for _ in range(130)] for _ in range(3)]
    asked = [
        (
            rng.choice(stems)[: rng.choice((0, 64, 100, 130))]
            + [rng.randrange(384) for _ in range(rng.randint(1, 30))],
            SamplingParams(
                max_tokens=rng.randint(1, 12),
                temperature=rng.choice((0.0, 0.8)),
                seed=i,
                ignore_eos=True,
            ),
        )
        for i in range(1000)
    ]
    busy = engine("int8", num_pages=40, max_model_len=256, speculative="mtp")
    waiting, live, kept = list(asked), [], []
    while waiting or busy.has_work:
        for _ in range(min(rng.randint(0, 6), len(waiting))):
            prompt, params = waiting.pop()
            live.append((busy.add(prompt, params), prompt, params))
        if live and rng.random() < 0.1:
            busy.abort(live.pop(rng.randrange(len(live)))[0])
        busy.step()
        kept += [entry for entry in live if entry[0].finish_reason == "length"]
        live = [entry for entry in live if entry[0].finish_reason is None]
    assert busy.pool.available == busy.pool.num_pages
    assert len(kept) > 600
    alone = engine("int8", max_model_len=256)
    for request, prompt, params in kept:
        again = alone.add(prompt, params)
        while alone.has_work:
            alone.step()
        assert again.output == request.output
