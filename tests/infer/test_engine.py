from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ling.config.engine import EngineConfig
from ling.errors import RequestError, UsageError
from ling.infer.engine import Engine
from ling.infer.open import open_runner, runner_for
from ling.infer.request import SamplingParams
from ling.infer.sampler import choose
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

random.seed(7)
PROMPTS = [[random.randrange(384) for _ in range(random.randint(1, 90))] for _ in range(50)]


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


@pytest.mark.parametrize("folder", ["tiny_fp32", "tiny_yarn_fp32"])
def test_prompt_logprobs_equal_upstream(fixtures, folder):
    path = fixtures / "model" / folder
    io = load_file(path / "io.safetensors")
    e = Engine(open_runner(path, EngineConfig(dtype="float32")))
    ids = io["input_ids"][0].tolist()[:30]
    request = e.add(ids, SamplingParams(max_tokens=1, prompt_logprobs=-1, temperature=0))
    while e.has_work:
        e.step()
    want = io["logits"][0, : len(ids) - 1].log_softmax(-1)
    assert torch.allclose(torch.stack(request.prompt_logprobs), want, atol=2e-4)


def test_paged_attention_equals_dense_attention():
    e = engine()
    ids = PROMPTS[3] + PROMPTS[4] + PROMPTS[5]
    request = e.add(ids, SamplingParams(max_tokens=1, prompt_logprobs=-1, temperature=0))
    while e.has_work:
        e.step()
    with torch.no_grad():
        hidden = e.runner.model(
            torch.tensor(ids), torch.arange(len(ids)), DenseAttend([0, len(ids)])
        )
        want = e.runner.model.logits(hidden)[:-1].log_softmax(-1)
    assert torch.allclose(torch.stack(request.prompt_logprobs), want, atol=1e-3)


def test_sampling_has_the_softmax_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
    params = SamplingParams(temperature=1.0)
    draws = np.bincount([choose(logits, params, s, [0] * 5, 5) for s in range(8000)], minlength=5)
    want = logits.softmax(-1).numpy() * 8000
    assert draws[4] == 0
    assert ((draws[:4] - want[:4]) ** 2 / want[:4]).sum() < 20  # chi-square, 3 degrees of freedom


def test_filters_keep_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    for params, allowed in (
        (SamplingParams(top_p=0.5), {0}),
        (SamplingParams(top_p=0.7), {0, 1}),
        (SamplingParams(top_k=3), {0, 1, 2}),
        (SamplingParams(min_p=0.25), {0, 1, 2}),
    ):
        assert {choose(logits, params, s, [0], 1) for s in range(400)} == allowed


def test_repetition_penalty_follows_the_rule():
    logits = torch.tensor([2.0, 1.5, -1.0])
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert choose(logits, params, 0, [0], 1) == 1
    assert choose(torch.tensor([-1.0, -1.5]), params, 0, [0], 1) == 1


@pytest.mark.parametrize(
    "bad",
    [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"top_k": -2}, {"n": 0},
     {"max_tokens": 0}, {"stop": [""]}, {"repetition_penalty": 0}, {"logprobs": -2}],
)  # fmt: skip
def test_bad_parameters_are_named(bad):
    with pytest.raises(RequestError) as err:
        SamplingParams(**bad)
    assert err.value.param == next(iter(bad))


def test_bad_prompts_are_refused():
    e = engine(max_model_len=64)
    for prompt, word in (([], "empty"), ([384], "vocabulary"), ([-1], "vocabulary")):
        with pytest.raises(RequestError, match=word):
            e.add(prompt, SamplingParams())
    with pytest.raises(RequestError, match=r"64") as err:
        e.add([1] * 64, SamplingParams())
    assert err.value.code == "context_length_exceeded"
    with pytest.raises(UsageError, match="max_model_len"):
        engine(max_model_len=100_000)


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


def test_equal_prefixes_share_pages_and_salts_do_not():
    e = engine()
    prompt = [i % 384 for i in range(200)]
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)

    def run(salt):
        request = e.add(prompt, params, cache_salt=salt)
        while e.has_work:
            e.step()
        return request

    first, second, other = run("a"), run("a"), run("b")
    assert (first.num_cached_tokens, second.num_cached_tokens, other.num_cached_tokens) == (
        0,
        192,
        0,
    )
    assert first.output == second.output == other.output
    assert e.pool.available == e.pool.num_pages
