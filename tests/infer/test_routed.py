"""The experts of each token: those of the reference router, whatever shares the steps."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from ling.config.engine import EngineConfig
from ling.errors import RequestError
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import SamplingParams
from ling.infer.routed import RoutedExperts, StepRouting
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")
FMTS = [None]
if native.library():
    FMTS += ["bf16", "int8", "int4"]
formats = pytest.mark.parametrize("fmt", FMTS, ids=lambda f: f or "reference")
CFG = preset("ling-tiny").replace(num_experts_per_tok=3, num_nextn_predict_layers=1)
LAYERS = CFG.num_hidden_layers - CFG.first_k_dense_replace
# Share of rows with the same experts in the same order (1 in 336 by chance), and how far their
# weights are off: rounded activations turn close choices, and int4 weights are other weights.
AGREE = {None: (1.0, 1e-6), "bf16": (0.97, 0.005), "int8": (0.88, 0.02), "int4": (0.35, 0.12)}
rng = random.Random(3)
PROMPTS = [[rng.randrange(384) for _ in range(n)] for n in (150, 1, 40, 65)]


def model():
    made = from_config(CFG, seed=0)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
            p.copy_(p.bfloat16().float())
        for name, b in made.named_buffers():
            if name.endswith("expert_bias"):
                b.copy_(torch.linspace(-0.05, 0.05, len(b)))
    return made


def engine(fmt, **options):
    config = EngineConfig(format=fmt, **options)
    return Engine(runner_for(model(), config), config, adaptive=False)


def add(e, prompt, n=9, asks=True):
    params = SamplingParams(
        max_tokens=n, temperature=0.7, seed=1, ignore_eos=True, return_routed_experts=asks
    )
    return e.add(prompt, params)


def finish(e):
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages


def traced(request):
    return request.routed_experts.arrays(request.num_output_tokens)


def alone(fmt, prompt):
    e = engine(fmt)
    request = add(e, prompt)
    finish(e)
    return request


def reference(tokens):
    """Experts of all tokens but the last, by the module itself over the whole text."""
    module, n, routing = model(), len(tokens) - 1, StepRouting(CFG)
    routing.begin(n)
    with torch.no_grad():
        module(torch.tensor(tokens[:n]), torch.arange(n), DenseAttend([0, n]), routing)
    return routing.ids.swapaxes(0, 1), routing.weights.swapaxes(0, 1)


def test_a_step_keeps_what_the_router_chose():
    """The buffers against the router's own output."""
    module, x = model(), torch.randn(5, CFG.hidden_size)
    routing, first = StepRouting(CFG), CFG.first_k_dense_replace
    routing.begin(5)
    gate = module.model.layers[first].mlp.gate
    with torch.no_grad():
        logits, ids, weights = gate(x)
        routing.record(first, logits, ids)
    assert np.array_equal(routing.ids[0], ids)
    assert np.array_equal(routing.weights[0], weights)


@formats
def test_experts_are_those_of_the_reference(fmt):
    request = alone(fmt, PROMPTS[0])
    ids, weights = traced(request)
    want_ids, want_weights = reference(request.tokens)
    assert ids.shape == weights.shape == want_ids.shape == (158, LAYERS, 3)
    assert (ids.dtype, weights.dtype) == (np.int32, np.float32)
    same = (ids == want_ids).all(-1)
    least, bound = AGREE[fmt]
    assert same.mean() >= least
    assert np.abs(weights[same] - want_weights[same]).mean() < bound
    assert np.allclose(weights.sum(-1), CFG.routed_scaling_factor, rtol=1e-5)


@pytest.mark.parametrize("fmt", FMTS[1:])
def test_the_core_says_what_it_counts(fmt):
    """Every expert that was computed, and no other."""
    e = engine(fmt)
    e.runner.expert_counts()
    request = add(e, PROMPTS[0])
    finish(e)
    ids, counts = traced(request)[0], e.runner.expert_counts()
    for i in range(LAYERS):
        layer = counts[CFG.first_k_dense_replace + i]
        assert np.bincount(ids[:, i].ravel(), minlength=CFG.num_experts).tolist() == layer.tolist()


@formats
@pytest.mark.parametrize("how", ["batch", "drafts", "preempted", "chunked"])
def test_experts_do_not_depend_on_what_shares_a_step(fmt, how):
    options = {"drafts": {"speculative": "mtp"}, "preempted": {"num_pages": 6}}.get(how, {})
    e = engine(fmt, **options)
    if how == "chunked":
        e.scheduler.max_step_tokens = 17
    others = [add(e, p, asks=how == "drafts") for p in PROMPTS[1:]]
    request = add(e, PROMPTS[0])
    if how == "preempted":
        preempted = []
        preempt = e.scheduler.preempt
        e.scheduler.preempt = lambda r: (preempted.append(r), preempt(r))
        while request.num_output_tokens < 4:
            e.step()
        e.scheduler.preempt(request)
    finish(e)
    expected = alone(fmt, PROMPTS[0])
    assert request.output == expected.output
    for got, want in zip(traced(request), traced(expected), strict=True):
        assert np.array_equal(got, want)
    assert [r.routed_experts is not None for r in others] == [how == "drafts"] * 3


def test_all_of_a_prompt_is_computed_for_it():
    e = engine(None)
    add(e, PROMPTS[0])
    finish(e)
    again, plain = add(e, PROMPTS[0]), add(e, PROMPTS[0], asks=False)
    finish(e)
    assert len(again.routed_experts) == 158
    assert (again.num_cached_tokens, plain.num_cached_tokens) == (0, 128)


@pytest.mark.parametrize(
    ("start_len", "first", "cached"), [(-1, 149, 128), (70, 70, 64), (1, 1, 0)]
)
def test_experts_of_a_part_leave_the_rest_to_cached_pages(start_len, first, cached):
    e = engine(None)
    whole = add(e, PROMPTS[0])
    finish(e)
    params = dataclasses.replace(whole.params, routed_experts_start_len=start_len)
    part = e.add(PROMPTS[0], params)
    while part.num_output_tokens < 4:
        e.step()
    e.scheduler.preempt(part)
    finish(e)
    assert part.output == whole.output
    assert part.num_cached_tokens == cached
    for found, wanted in zip(traced(part), traced(whole), strict=True):
        assert np.array_equal(found, wanted[first:])


def test_rows_that_are_computed_again_are_not_counted_twice():
    routed, shape = RoutedExperts(CFG, 2, 9), (4, LAYERS, 3)
    ids = np.broadcast_to(np.arange(4)[:, None, None], shape)
    weights = np.zeros(shape)
    routed.add(ids, weights, 0)
    routed.add(ids[:1], weights[:1], 2)
    routed.add(ids[1:], weights[1:], 3)
    assert routed.arrays(9)[0][:, 0, 0].tolist() == [0, 1, 2, 3, 2, 3]
    assert len(routed.arrays(2)[0]) == 3


def test_bad_requests_are_refused():
    with pytest.raises(RequestError, match="expected true or false"):
        SamplingParams(return_routed_experts=1)
    dense = CFG.replace(num_experts=0, num_nextn_predict_layers=0)
    e = Engine(runner_for(from_config(dense, seed=0)))
    with pytest.raises(RequestError, match="no experts"):
        add(e, [1, 2])
    assert add(e, [1, 2], asks=False)
    for start_len in (2, -3):
        asks = SamplingParams(return_routed_experts=True, routed_experts_start_len=start_len)
        with pytest.raises(RequestError, match="the prompt has 2 tokens"):
            engine(None).add([1, 2], asks)
