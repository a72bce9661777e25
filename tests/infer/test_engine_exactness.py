"""A request's tokens are its own: whatever shares its batch, steps, pages and threads."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import ling.infer.drafting as drafting_module
from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.mtp_rows import MAX_BACKLOG, waiting_rows
from ling.infer.open import runner_for
from ling.infer.pages import pages_for
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

FMTS = [None]
if native.library():
    FMTS += ["bf16", "int8", "int4", "fp8", "int4, int8 KV", "fp8, int8 KV"]
    FMTS += ["int4, int4 KV", "fp8, int4 KV"]
formats = pytest.mark.parametrize("fmt", FMTS, ids=lambda f: f or "reference")
needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")
temperatures = pytest.mark.parametrize("temperature", [0.0, 0.8])
rng = random.Random(11)
STEM = [rng.randrange(384) for _ in range(128)]
# Short and long, around the borders of pages, and some that share a prefix.
PROMPTS = [[rng.randrange(384) for _ in range(n)] for n in (1, 2, 17, 55, 58, 61, 64, 65, 120)]
PROMPTS += [STEM + [rng.randrange(384) for _ in range(n)] for n in (1, 5, 30)]


def chosen(fmt):
    """The reference is a hundred times slower, so it runs half of them."""
    return range(1 if fmt is None else 0, len(PROMPTS), 2 if fmt is None else 1)


def engine(fmt, mtp_layers=1, has_id=None, adaptive=True, **options):
    cfg = preset("ling-tiny").replace(num_nextn_predict_layers=mtp_layers)
    model = from_config(cfg, seed=0)
    with torch.no_grad():  # larger weights than at the start of training: varied continuations
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    weights, _, cache = (fmt or "").removesuffix(" KV").partition(", ")
    config = EngineConfig(format=weights or None, kv_cache_dtype=cache or "bf16", **options)
    return Engine(runner_for(model, config), config, has_id=has_id, adaptive=adaptive)


def add(e, i, temperature, n=14):
    params = SamplingParams(max_tokens=n, temperature=temperature, seed=i, ignore_eos=True)
    return e.add(PROMPTS[i], params)


def finish(e):
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages


@functools.cache
def alone(fmt, temperature, mtp_layers=1):
    """Each request in a fresh cache, one after the other."""
    torch.set_num_threads(2)
    out = []
    for i in chosen(fmt):
        e = engine(fmt, mtp_layers)
        request = add(e, i, temperature)
        finish(e)
        out.append(request.output)
    return out


def together(e, fmt, temperature):
    requests = [add(e, i, temperature) for i in chosen(fmt)]
    finish(e)
    return [r.output for r in requests]


@formats
@temperatures
def test_requests_in_one_batch(fmt, temperature):
    assert len({tuple(o) for o in alone(fmt, temperature)}) == len(chosen(fmt))
    assert together(engine(fmt), fmt, temperature) == alone(fmt, temperature)


@formats
@temperatures
@pytest.mark.parametrize("step_tokens", [1, 7, 50])
def test_prompts_in_chunks(fmt, temperature, step_tokens):
    if fmt is None and step_tokens < 50:
        pytest.skip("the reference takes minutes")
    e = engine(fmt)
    e.runner.max_step_tokens = step_tokens
    assert together(e, fmt, temperature) == alone(fmt, temperature)


@formats
@temperatures
def test_requests_that_come_while_others_run(fmt, temperature):
    e, requests = engine(fmt), []
    for i in chosen(fmt):
        requests.append(add(e, i, temperature))
        for _ in range(i % 4):
            e.step()
    finish(e)
    assert [r.output for r in requests] == alone(fmt, temperature)


@formats
@temperatures
@pytest.mark.parametrize("drafts", [0, 2])
def test_pre_empted_requests(fmt, temperature, drafts):
    mode = {"speculative": "mtp", "num_drafts": drafts} if drafts else {}
    e, preempted = engine(fmt, num_pages=5, max_model_len=200, **mode), []
    take_back = e.scheduler.preempt
    e.scheduler.preempt = lambda request: preempted.append(request.id) or take_back(request)
    assert together(e, fmt, temperature) == alone(fmt, temperature)
    assert preempted


@formats
@temperatures
@pytest.mark.parametrize("drafts", [1, 3])
@pytest.mark.parametrize("adaptive", [True, False])
def test_speculated_tokens(fmt, temperature, drafts, adaptive):
    e = engine(fmt, speculative="mtp", num_drafts=drafts, adaptive=adaptive)
    assert together(e, fmt, temperature) == alone(fmt, temperature)
    assert adaptive or e.stats.drafted > 0


@formats
@pytest.mark.parametrize("adaptive", [True, False])
def test_drafts_of_two_mtp_layers(fmt, adaptive):
    e = engine(fmt, 2, speculative="mtp", num_drafts=3, adaptive=adaptive)
    assert together(e, fmt, 0.8) == alone(fmt, 0.8, 2)
    assert adaptive or e.stats.drafted > 0


def text_that_repeats(fmt, temperature):
    """Stands in for the index of n-grams: what comes next, every fourth token of it wrong."""
    outputs = dict(zip(chosen(fmt), alone(fmt, temperature), strict=True))
    answers = [(PROMPTS[i], PROMPTS[i] + output) for i, output in outputs.items()]

    class Index:
        def extend(self, tokens, stop):
            pass

        def draft(self, tokens, most):
            whole = next(
                w for p, w in answers if tokens == w[: len(tokens)] and len(p) < len(tokens)
            )
            ahead = range(len(tokens), min(len(tokens) + most, len(whole)))
            return [(whole[i] + (i % 4 == 0)) % 384 for i in ahead], 5

    return Index


@formats
@temperatures
@pytest.mark.parametrize("speculative", ["ngram", "auto"])
def test_tokens_drafted_from_the_text(fmt, temperature, speculative, monkeypatch):
    want = alone(fmt, temperature)
    monkeypatch.setattr(drafting_module, "NgramIndex", text_that_repeats(fmt, temperature))
    mode = {"speculative": speculative, "num_drafts": 3}
    for adaptive in (True, False):
        e = engine(fmt, adaptive=adaptive, **mode)
        assert together(e, fmt, temperature) == want
    assert 0 < e.stats.accepted < e.stats.drafted
    e = engine(fmt, num_pages=5, max_model_len=200, **mode)  # requests are pre-empted
    assert together(e, fmt, temperature) == want


@formats
@pytest.mark.parametrize("speculative", ["ngram", "auto"])
def test_prefixes_are_shared_with_drafts_from_the_text(fmt, speculative):
    e = engine(fmt, speculative=speculative)
    for _ in range(2):
        request = add(e, len(PROMPTS) - 1, 0.8)
        finish(e)
        assert request.output == alone(fmt, 0.8)[-1]
    assert request.num_cached_tokens == 128


@formats
@temperatures
def test_one_thread(fmt, temperature):
    want = alone(fmt, temperature)
    torch.set_num_threads(1)
    assert together(engine(fmt, speculative="mtp"), fmt, temperature) == want


@formats
@temperatures
def test_prefixes_that_are_cached(fmt, temperature):
    e = engine(fmt, speculative="mtp")
    for _ in range(2):
        assert together(e, fmt, temperature) == alone(fmt, temperature)
    request = add(e, len(PROMPTS) - 1, temperature)
    finish(e)
    assert request.num_cached_tokens == 128
    assert request.output == alone(fmt, temperature)[-1]


@formats
@pytest.mark.parametrize("mtp_layers", [1, 2])
def test_drafts_behind_positions_that_the_layer_never_read(fmt, mtp_layers):
    """Drafting pauses for longer than rows are kept; pages are offered to others all the same."""
    plain = engine(fmt, mtp_layers)
    want = add(plain, 4, 0.8, n=200)
    finish(plain)
    e = engine(fmt, mtp_layers, speculative="mtp", num_drafts=2, adaptive=False)
    always, r = e.drafter.policy.plan(1), add(e, 4, 0.8, n=200)

    def plan(batch):
        return replace(always, runs_mtp=not 20 < r.num_output_tokens < 180)

    e.drafter.policy.plan, drafted = plan, {}
    while e.has_work:
        e.step()
        assert waiting_rows(r) < MAX_BACKLOG + 3
        drafted[r.num_output_tokens // 100] = r.num_drafted
    assert r.output == want.output
    assert 0 < drafted[0] < r.num_drafted
    both = []
    for other in (e, engine(fmt, mtp_layers)):
        params = SamplingParams(max_tokens=8, temperature=0.8, seed=1, ignore_eos=True)
        both.append(other.add(r.tokens, params))
        finish(other)
    assert both[0].num_cached_tokens == (len(r.tokens) - 1) // 64 * 64
    assert both[0].output == both[1].output


@formats
def test_rows_that_the_layer_never_read_are_nobodys(fmt):
    """They are zero, not what an earlier request of other tokens left in the page."""
    e = engine(fmt, speculative="mtp", num_drafts=1, adaptive=False, num_pages=4, max_model_len=230)
    always, first = e.drafter.policy.plan(1), e.config.num_hidden_layers
    add(e, 4, 0.8, n=160)
    finish(e)
    e.drafter.policy.plan = lambda batch: replace(always, runs_mtp=False)
    r = e.add([1], SamplingParams(max_tokens=100, temperature=0.8, seed=1, ignore_eos=True))
    while r.num_output_tokens < 90:
        e.step()
    for page in r.block_table.pages:
        for layers in e.runner.page(page):
            assert not layers[first:].any()
            assert layers[:first].any()
    finish(e)


@formats
def test_abort_frees_pages_at_once_and_leaves_others_alone(fmt):
    e = engine(fmt, speculative="mtp")
    requests = [add(e, i, 0.8) for i in chosen(fmt)]
    victim = requests[4]
    while not victim.output:  # how many steps that takes depends on how fast they are
        e.step()
    pages = list(victim.block_table.pages)
    before = e.pool.available
    assert len(pages) >= pages_for(victim.num_prompt_tokens)
    e.abort(victim)
    assert e.pool.available == before + len(pages)
    assert victim.finish_reason == "abort"
    e.abort(victim)  # twice is once
    assert e.pool.available == before + len(pages)
    finish(e)
    want = alone(fmt, 0.8)
    assert [r.output for r in requests if r is not victim] == [
        w for i, w in enumerate(want) if i != 4
    ]


@formats
def test_ids_without_a_token_are_neither_chosen_nor_drafted(fmt):
    mode = {"speculative": "mtp", "num_drafts": 2, "adaptive": False}
    e, drafted = engine(fmt, has_id=lambda i: i % 3 == 0, **mode), set()
    requests = [add(e, i, 1.5 * (i % 4 > 1)) for i in chosen(fmt)]
    while e.has_work:
        e.step()
        drafted.update(d for r in requests for d in r.drafts)
    assert all(t % 3 == 0 for r in requests for t in r.output)
    assert drafted
    assert all(t % 3 == 0 for t in drafted)


@formats
def test_log_probabilities_do_not_depend_on_the_batch(fmt):
    def scores(e, which):
        requests = [
            e.add(
                PROMPTS[i],
                SamplingParams(
                    max_tokens=5, temperature=0, logprobs=0, prompt_logprobs=0, ignore_eos=True
                ),
            )
            for i in which
        ]
        finish(e)
        return [[*r.logprobs, *r.prompt_logprobs] for r in requests]

    for got, i in zip(scores(engine(fmt), [3, 5, 7]), [3, 5, 7], strict=True):
        assert got == scores(engine(fmt), [i])[0]


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_small_kv_cache_in_the_reference(kv):
    """Chunks, pages that are shared and drafts, on the oracle that the kernels are held to."""

    def tokens(**options):
        model = from_config(preset("ling-tiny"), seed=0)
        config = EngineConfig(kv_cache_dtype=kv, **options)
        e = Engine(runner_for(model, config), config)
        return e, together(e, None, 0.8)

    _, want = tokens()
    e, got = tokens(speculative="mtp", num_drafts=2)
    assert got == want
    e.runner.max_step_tokens = 50
    assert together(e, None, 0.8) == want


# ---- every way of choosing ---------------------------------------------------------------------

WAYS = (
    {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05},
    {"temperature": 1.0, "top_k": 20, "min_p": 0.02, "presence_penalty": 1.5},
    {"temperature": 0.0, "frequency_penalty": 1.0, "logit_bias": {5: 3.0, 300: -100}},
    {"temperature": 1.2, "top_p": 0.95, "min_tokens": 8, "stop_token_ids": [*range(100)]},
    {"temperature": 0.6, "repetition_penalty": 1.3, "logprobs": 3},
)


class OddIds:
    """A constraint that changes with every token: odd ids, then even ones."""

    is_done, forced = False, tuple

    def __init__(self):
        self.count = 0

    def mask(self, drafts):
        word = 0x55555555 if (self.count + len(drafts)) % 2 else 0xAAAAAAAA
        return np.full(384 // 32, word, np.uint32)

    def accept(self, token_id):
        self.count += 1


def add_ways(e, copies=1):
    """A request for each way, and one with a mask."""
    requests = []
    for k in range(copies * (len(WAYS) + 1)):
        way = ({"temperature": 0.9}, *WAYS)[k % (len(WAYS) + 1)]
        params = SamplingParams(max_tokens=16, seed=k, ignore_eos=True, **way)
        r = e.add(PROMPTS[k % len(PROMPTS)], params)
        if not k % (len(WAYS) + 1):
            r.constraint = OddIds()
        requests.append(r)
    return requests


@pytest.mark.parametrize("fmt", [None, pytest.param("int8", marks=needs_library)])
def test_every_way_of_choosing_alone_in_32_and_with_drafts(fmt):
    lone = []
    for k in range(len(WAYS) + 1):
        e = engine(fmt)
        request = add_ways(e)[k]
        for other in list(e.scheduler.waiting):
            if other is not request:
                e.abort(other)
        finish(e)
        lone.append(request)
    for options in ({}, {"speculative": "mtp", "num_drafts": 2}):
        busy = engine(fmt, adaptive=False, **options)
        requests = add_ways(busy, copies=5 if fmt else 1) + [
            add(busy, k % len(PROMPTS), 0.8) for k in range(2)
        ]
        finish(busy)
        for got, want in zip(requests, lone, strict=False):
            assert (got.output, list(got.logprobs)) == (want.output, list(want.logprobs))
        masked = requests[0]
        assert all((i + k) % 2 for k, i in enumerate(masked.output))
        assert not {300} & set(requests[3].output)
        early = requests[4].output[:8]
        assert not set(early) & set(range(100))
    assert busy.stats.drafted > 0
