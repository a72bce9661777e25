"""Drafts never change a request, whatever it asks for: the same tokens, scores and end as alone."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.pages import PAGE
from ling.infer.request import Request, SamplingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(native.library() is None, reason="no kernel library"),
]
VOCAB = 384


@functools.cache
def model(mtp_layers):
    """Random weights, larger than at the start of training; ids come again, so that drafts hold."""
    made = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=mtp_layers), seed=0)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return made


@dataclass
class Case:
    """A batch of random requests, and the engine that runs them."""

    mtp_layers: int
    options: dict[str, Any]
    drafting: dict[str, Any]
    adaptive: bool
    step_tokens: int
    uses_folder: bool
    asked: list[tuple[list[int], SamplingParams, int, str]] = field(default_factory=list)

    def engine(self, folder, *, drafts):
        mode = self.drafting if drafts else {}
        config = EngineConfig(
            cache_dir=str(folder) if self.uses_folder and drafts else None, **self.options, **mode
        )
        runner = runner_for(model(self.mtp_layers), config)
        runner.weights_id = "w"
        e = Engine(
            runner, config, stop_token_ids=[3], has_id=lambda i: i % 50, adaptive=self.adaptive
        )
        if drafts:
            runner.max_step_tokens = self.step_tokens
        return e


def random_params(rng):
    def maybe(chance, value, otherwise):
        return value if rng.random() < chance else otherwise

    bias = {rng.randrange(VOCAB): rng.uniform(-5, 5) for _ in range(rng.randrange(1, 8))}
    max_tokens = rng.randrange(1, 40)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=maybe(0.3, rng.randrange(max_tokens + 1), 0),
        temperature=maybe(0.6, rng.uniform(0.1, 1.5), 0.0),
        top_p=maybe(0.4, rng.uniform(0.3, 0.99), 1.0),
        top_k=maybe(0.4, rng.randrange(1, 60), 0),
        min_p=maybe(0.2, rng.uniform(0, 0.3), 0.0),
        repetition_penalty=maybe(0.3, rng.uniform(0.8, 1.5), 1.0),
        presence_penalty=maybe(0.3, rng.uniform(-2, 2), 0.0),
        frequency_penalty=maybe(0.3, rng.uniform(-2, 2), 0.0),
        logit_bias=maybe(0.3, bias, None),
        logprobs=maybe(0.4, rng.choice((-1, 0, 1, 5)), None),
        prompt_logprobs=maybe(0.15, rng.choice((0, 2)), None),
        stop_token_ids=maybe(0.4, rng.sample(range(VOCAB), 20), None),
        ignore_eos=rng.random() < 0.3,
        seed=rng.randrange(-(2**63), 2**63),
        return_routed_experts=rng.random() < 0.25,
    )


def random_prompt(rng, stems):
    """A shared prefix, then ids of which some runs come again."""
    loop = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 9))]
    tail = loop * rng.randrange(1, 6) + [rng.randrange(VOCAB) for _ in range(rng.randrange(5))]
    return rng.choice(stems)[: rng.choice((0, 0, 63, PAGE, 100, 130))] + tail


def random_case(seed):
    rng = random.Random(seed)
    stems = [[rng.randrange(VOCAB) for _ in range(130)] for _ in range(2)]
    case = Case(
        mtp_layers=rng.choice((1, 1, 2)),
        options={
            "format": rng.choice(("int4", "int8", "bf16")),
            "kv_cache_dtype": rng.choice(("bf16", "int8", "int4")),
            # The longest request takes five; with few, requests are preempted.
            "num_pages": rng.choice((6, 8, 60)),
            "max_model_len": 5 * PAGE,
            "max_num_seqs": rng.choice((2, 5, 64)),
        },
        drafting={
            "speculative": rng.choice(("mtp", "ngram", "auto")),
            "num_drafts": rng.randrange(1, 6),
        },
        adaptive=rng.random() < 0.5,
        step_tokens=rng.choice((9, 64, 2048)),
        uses_folder=rng.random() < 0.3,
    )
    for _ in range(rng.randrange(1, 6)):
        prompt, params = random_prompt(rng, stems), random_params(rng)
        salt = rng.choice(("", "", "other"))
        choices = rng.choice((1, 1, 3))  # the choices of one `n`
        case.asked += [(prompt, params, i, salt) for i in range(choices)]
    return case, rng


def run(e, asked, rng=None):
    """All requests, which come while others run, after their last tokens."""
    waiting, requests = list(asked), []
    while waiting or e.has_work:
        for _ in range(rng.randrange(4) if rng and e.has_work else len(waiting)):
            if waiting:
                requests.append(e.add(*waiting.pop(0)))
        e.step()
    assert e.pool.available == e.pool.num_pages
    return requests


def result(r: Request):
    """All that the caller of a request gets."""
    routed = None
    if r.routed_experts is not None:
        experts, weights = r.routed_experts.arrays(r.num_output_tokens)
        routed = experts.tolist(), weights.tolist()
    end = r.finish_reason, r.stop_reason, str(r.error)
    return r.output, list(r.logprobs), list(r.prompt_logprobs), end, routed


def check(seed, folder):
    """Returns how many drafts were verified, and how many of them held."""
    case, rng = random_case(seed)
    lone = []
    for asked in case.asked:
        lone += run(case.engine(folder, drafts=False), [asked])
    rounds = 2 if case.uses_folder else 1
    drafted = accepted = 0
    for _ in range(rounds):  # the second engine finds the pages of the first
        e = case.engine(folder, drafts=True)
        for _ in range(2):  # the second time with cached prefixes
            for got, want in zip(run(e, case.asked, rng), lone, strict=True):
                assert result(got) == result(want), (seed, case, got.id)
        for _ in e.store.save() if e.store is not None else ():
            pass
        drafted, accepted = drafted + e.stats.drafted, accepted + e.stats.accepted
    return drafted, accepted


def check_all(seeds, folder):
    drafted = accepted = 0
    for seed in seeds:
        counts = check(seed, folder / str(seed))
        drafted, accepted = drafted + counts[0], accepted + counts[1]
    assert 0 < accepted < drafted


def test_random_requests_are_the_same_with_drafts(tmp_path):
    check_all(range(12), tmp_path)


@pytest.mark.slow
def test_many_random_requests_are_the_same_with_drafts(tmp_path):
    check_all(range(100, 300), tmp_path)
