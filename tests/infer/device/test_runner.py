"""The runner of a device, on the CPU: the reference's hidden states to rounding, its tokens in
float32, whatever shares a batch.
"""

from __future__ import annotations

import functools

import pytest
import torch
from on_device import CFG, PROMPTS, device_runner, model, tokens

from ling.config.engine import EngineConfig
from ling.infer.device.graphs import eager_capture
from ling.infer.engine import Engine
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = {"max_model_len": 256, "num_pages": 40}


@functools.cache
def reference(temperature):
    return tokens(TorchRunner(model(), EngineConfig(**POOL)), temperature, **POOL)


@pytest.mark.parametrize("capture", [None, eager_capture], ids=["direct", "programs"])
@pytest.mark.parametrize("speculative", ["off", "mtp", "ngram"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_are_those_of_the_reference_in_float32(temperature, speculative, capture):
    runner = device_runner(model(), capture, **POOL)
    got = tokens(runner, temperature, speculative=speculative, num_drafts=2, **POOL)
    assert got == reference(temperature)
    assert bool(runner.steps.programs) == (capture is not None)


@pytest.mark.parametrize("pages", [6, 9])
def test_preempted_and_computed_again(pages):
    options = POOL | {"num_pages": pages, "speculative": "mtp", "num_drafts": 2}
    assert tokens(device_runner(model(), eager_capture, **options), **options) == reference(0.0)


def test_prompts_in_parts():
    runner = device_runner(model(), **POOL)
    runner.max_step_tokens = 33
    assert tokens(runner, **POOL) == reference(0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_are_those_of_the_reference_to_rounding(dtype):
    runners = TorchRunner(model(dtype)), device_runner(model(dtype))
    outs = []
    for runner in runners:
        runner.allocate(8)
        # A prompt beside one, then rows of decoding beside the rest of a prompt.
        first = runner.forward(PROMPTS[4] + PROMPTS[1], segments((0, 120), (0, 17)))
        second = runner.forward([5, 6, *range(40)], segments((120, 2), (17, 40)))
        drafted = runner.mtp(0, [7, 8, *range(40)], second, segments((120, 2), (17, 40)))
        third = runner.forward([3, 4, 5], segments((122, 1), (57, 2)))
        outs.append((first, second, drafted, third, runner.logits(third, 100)))
    for got, want in zip(outs[1], outs[0], strict=True):
        assert got.dtype == want.dtype
        error = (got.float() - want.float()).norm(dim=1) / want.float().norm(dim=1)
        if dtype == torch.float32:
            assert error.max() < 1e-5
        else:  # where two experts are nearly as good, rounding may choose the other one
            assert error.median() < 0.05
            assert error.max() < 1


def segments(*parts):
    found, start, pages = [], 0, iter(([2, 0], [3, 1]))
    for first, count in parts:
        found.append(Segment(next(pages), first, start, start + count))
        start += count
    return found


def test_experts_of_tokens_and_log_probabilities():
    answers = []
    for runner in (TorchRunner(model()), device_runner(model(), eager_capture)):
        e = Engine(runner, EngineConfig(**POOL))
        params = SamplingParams(
            max_tokens=5, temperature=0, logprobs=2, prompt_logprobs=1, return_routed_experts=True
        )
        request = e.add(PROMPTS[1], params)
        while e.has_work:
            e.step()
        ids, weights = request.routed_experts.arrays(5)
        answers.append((request.output, ids.tolist(), weights, *logprobs(request)))
    (tokens, ids, weights, *scores), (tokens_, ids_, weights_, *scores_) = answers
    assert (tokens, ids) == (tokens_, ids_)
    assert abs(weights - weights_).max() < 1e-4
    for a, b in zip(scores, scores_, strict=True):
        assert [[t[0] for t in row] for row in a] == [[t[0] for t in row] for row in b]
        flat = [[t[1] for row in x for t in row] for x in (a, b)]
        torch.testing.assert_close(*map(torch.tensor, flat), atol=1e-4, rtol=1e-4)


def logprobs(request):
    return list(request.logprobs), list(request.prompt_logprobs)


def test_prefixes_outlive_the_process(tmp_path):
    outs = []
    for _ in range(2):
        runner = device_runner(model(), eager_capture)
        runner.weights_id = "these"
        e = Engine(runner, EngineConfig(cache_dir=str(tmp_path), **POOL))
        request = e.add(PROMPTS[4], SamplingParams(max_tokens=5, temperature=0))
        while e.has_work:
            e.step()
        outs.append((request.output, request.num_cached_tokens))
        for _ in e.store.save():
            pass
    assert outs[0][0] == outs[1][0]
    assert [cached for _, cached in outs] == [0, 64]


def test_a_page_holds_all_that_it_says():
    runner = device_runner(model())
    runner.allocate(3)
    assert sum(part.nbytes for part in runner.page(1)) == runner.page_bytes()
    runner.pages.values.fill_(1)
    runner.clear_mtp(1)
    (page,) = runner.page(1)
    assert page[: CFG.num_hidden_layers].min() == 1
    assert page[CFG.num_hidden_layers :].max() == 0
    assert runner.page(0)[0].min() == 1
    assert "torch" in runner.numerics()
    assert runner.described()["graphs"] == 0
