"""An engine under a grammar: the same tokens however it drafts, batches, cuts and preempts."""

from __future__ import annotations

import functools
import json
import random

import jsonschema
import numpy as np
import pytest
import torch
from answer_specs import SPECS, WEATHER

from ling.config.engine import EngineConfig
from ling.errors import RequestError
from ling.grammar.compile import GrammarCompiler
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

VOCAB = 384
rng = random.Random(4)
PROMPTS = [[rng.randrange(250) for _ in range(n)] for n in (1, 3, 17, 40, 61, 64, 65, 90)]
KINDS = list(SPECS)
WAYS = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "logprobs": 2},
)


@functools.cache
def model():
    made = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=1), seed=0)
    with torch.no_grad():  # larger weights than at the start of training: varied continuations
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return made


@pytest.fixture(scope="session")
def engines(tokenizers):
    compilers = {
        sort: GrammarCompiler(tok, VOCAB, tok.stop_token_ids) for sort, tok in tokenizers.items()
    }

    def make(sort, adaptive=False, **options):
        tok = tokenizers[sort]
        config = EngineConfig(format="int8" if native.library() else None, **options)
        engine = Engine(
            runner_for(model(), config),
            config,
            stop_token_ids=tok.stop_token_ids,
            has_id=tok.has_id,
            adaptive=adaptive,
        )
        engine.compiler = compilers[sort]
        return engine

    yield make
    for compiler in compilers.values():
        compiler.close()


def add(engine, k, **more):
    """Request k: its prompt, its way of choosing, its grammar."""
    params = SamplingParams(**{"max_tokens": 70, "seed": k, **WAYS[k % len(WAYS)], **more})
    grammar = engine.compiler.compile(SPECS[KINDS[k % len(KINDS)]])
    return engine.add(PROMPTS[k % len(PROMPTS)], params, constraint=grammar.matcher())


def finish(engine):
    while engine.has_work:
        engine.step()
    assert engine.pool.available == engine.pool.num_pages


def results(requests):
    return [(r.output, r.finish_reason, list(r.logprobs)) for r in requests]


COUNT = 24


@pytest.fixture(scope="session")
def alone(engines):
    """What each request gets alone, without drafts other than forced ones."""

    @functools.cache
    def of(sort):
        found = []
        for k in range(COUNT):
            engine = engines(sort)
            request = add(engine, k)
            finish(engine)
            found += results([request])
        return found

    return of


def test_the_requests_differ_and_end(alone, sort):
    found = alone(sort)
    assert len({tuple(output) for output, *_ in found}) > COUNT // 2
    assert sum(reason == "stop" for _, reason, _ in found) > COUNT // 2
    assert {reason for _, reason, _ in found} <= {"stop", "length"}


DRAFTING = [
    {},
    {"speculative": "mtp", "num_drafts": 1},
    {"speculative": "mtp", "num_drafts": 3},
    {"speculative": "ngram"},
    {"speculative": "auto"},
]


@pytest.mark.parametrize("options", DRAFTING, ids=str)
def test_tokens_are_the_same_among_32_with_any_drafts(engines, alone, sort, options):
    engine = engines(sort, **options)
    others = [
        engine.add(PROMPTS[k % 8], SamplingParams(max_tokens=30, seed=k, temperature=0.9))
        for k in range(8)
    ]
    assert results([add(engine, k) for k in range(COUNT)]) == [([], None, [])] * COUNT
    requests = [r for r in engine.scheduler.waiting if r.constraint is not None]
    finish(engine)
    assert results(requests) == alone(sort)
    assert engine.stats.forced > 0
    assert all(r.finish_reason for r in others)
    assert not options or engine.stats.drafted > 0


@pytest.mark.parametrize(
    ("options", "step_tokens"),
    [({}, 7), ({"num_pages": 7, "max_model_len": 220}, 512),
     ({"num_pages": 7, "max_model_len": 220, "speculative": "mtp", "num_drafts": 2}, 64)],
)  # fmt: skip
def test_tokens_are_the_same_in_chunks_and_preempted(engines, alone, sort, options, step_tokens):
    engine, preempted = engines(sort, **options), []
    engine.runner.max_step_tokens = step_tokens
    plain = engine.scheduler.preempt
    engine.scheduler.preempt = lambda r: (preempted.append(r), plain(r))
    requests = [add(engine, k) for k in range(COUNT)]
    finish(engine)
    assert results(requests) == alone(sort)
    assert bool(preempted) is bool(options)


def test_tokens_are_the_same_with_and_without_forced_drafts(engines, alone, sort, monkeypatch):
    from ling.infer import constraint

    monkeypatch.setattr(constraint, "MAX_FORCED", 0)
    engine = engines(sort)
    requests = [add(engine, k) for k in range(COUNT)]
    finish(engine)
    assert engine.stats.forced == 0
    assert results(requests) == alone(sort)


def test_forced_tokens_are_no_drafts_of_the_policy(engines, sort):
    engine = engines(sort, adaptive=True, speculative="mtp", num_drafts=2)
    request = add(engine, KINDS.index("named"), temperature=0.0)
    finish(engine)
    assert engine.stats.forced > 10
    assert request.num_drafted == engine.stats.drafted
    learned = engine.drafter.policy.mtp._depths
    assert sum(aged.weight for aged in learned.values()) < request.num_output_tokens


# ---- together with other parameters ------------------------------------------------------------


def run(engine, kind, **params):
    grammar = engine.compiler.compile(SPECS[kind])
    given = SamplingParams(**{"max_tokens": 200, "seed": 1, **params})
    request = engine.add([5, 6], given, constraint=grammar.matcher())
    finish(engine)
    return request


def text(engine, tokenizer, request):
    return tokenizer.decode(request.output)


def test_a_complete_answer_ends_whatever_else_is_asked_for(engines, tokenizer, sort):
    engine = engines(sort)
    for more in ({"min_tokens": 150}, {"ignore_eos": True}, {"min_tokens": 9, "ignore_eos": True}):
        request = run(engine, "json", **more)
        assert request.finish_reason == "stop"
        jsonschema.validate(json.loads(text(engine, tokenizer, request)), WEATHER)


def test_an_answer_that_can_go_on_does_so_until_min_tokens(engines, tokenizer, sort):
    engine = engines(sort)
    lengths = [run(engine, "grammar", seed=s, min_tokens=30).num_output_tokens for s in range(4)]
    assert min(lengths) >= 30
    assert run(engine, "grammar", max_tokens=5, min_tokens=5).finish_reason in ("length", "stop")


def test_stop_token_ids_end_the_answer_early_where_the_grammar_has_them(engines, tokenizer, sort):
    engine, token = engines(sort), tokenizer.encode("e")[0]
    request = run(engine, "grammar", stop_token_ids=[token, 383], min_tokens=1, seed=3)
    assert request.finish_reason == "stop"
    assert request.stop_reason in {token, *tokenizer.stop_token_ids}


def test_a_bias_cannot_leave_the_grammar(engines, tokenizer, sort):
    engine, z = engines(sort), tokenizer.encode("z")[0]
    stops = dict.fromkeys(tokenizer.stop_token_ids, -100.0)
    request = run(engine, "choice", logit_bias={z: 100.0, **stops}, min_p=0.5)
    assert request.finish_reason == "stop"
    assert text(engine, tokenizer, request) in SPECS["choice"].choice


# ---- faults ------------------------------------------------------------------------------------


class Broken:
    """A constraint that fails after some tokens, at one of its methods."""

    is_done = False

    def __init__(self, method, error, after=3):
        self.method, self.error, self.left = method, error, after

    def _at(self, method):
        if self.left <= 0 and method == self.method:
            raise self.error

    def mask(self, drafts):
        self._at("mask")
        return np.full(VOCAB // 32, 0xFFFFFFFF, np.uint32)

    def accept(self, token):
        self._at("accept")
        self.left -= 1

    def forced(self):
        self._at("forced")
        return []


@pytest.mark.parametrize("options", DRAFTING[:3], ids=str)
@pytest.mark.parametrize("method", ["mask", "accept", "forced"])
def test_a_constraint_that_fails_fails_its_request_alone(engines, alone, method, options):
    sort = "tags are text"
    engine = engines(sort, **options)
    requests = [add(engine, k) for k in range(3)]
    known, unknown = RequestError("too complex", code="grammar_failed"), ZeroDivisionError()
    failing = [
        engine.add([1, 2], SamplingParams(max_tokens=20, seed=k), constraint=Broken(method, error))
        for k, error in enumerate((known, unknown))
    ]
    finish(engine)
    assert [r.finish_reason for r in failing] == ["error", "error"]
    assert [r.error.code for r in failing] == ["grammar_failed", None]
    assert [r.error.status for r in failing] == [400, 500]
    assert all(r.num_output_tokens >= 3 for r in failing)
    assert results(requests) == alone(sort)[:3]


def test_a_mask_that_leaves_nothing_is_an_error_of_the_request(engines):
    class Nothing(Broken):
        def mask(self, drafts):
            return np.zeros(VOCAB // 32, np.uint32)

    engine = engines("tags are text")
    request = engine.add([1], SamplingParams(), constraint=Nothing("", None))
    finish(engine)
    assert request.finish_reason == "error"
    assert "outside of the grammar" in str(request.error)
