"""One bad request of a batch fails alone; what fails for all is the engine's failure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_engine import small_engine

from ling.infer import failures
from ling.infer.request import SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")

PARAMS = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
PROMPTS = [[i + 1, 2 * i + 1, 7] for i in range(8)]
BAD = 4  # the request with this first token


def run(engine):
    while engine.has_work:
        engine.step()


def outputs(prompts):
    engine = small_engine()
    requests = [engine.add(p, PARAMS) for p in prompts]
    run(engine)
    return [r.output for r in requests]


def break_forward(engine, is_bad):
    forward = engine.runner.forward

    def broken(tokens, segments):
        if is_bad(tokens):
            raise RuntimeError("a bad row")
        return forward(tokens, segments)

    engine.runner.forward = broken


def test_a_row_for_which_the_model_raises_fails_alone_and_changes_no_token(caplog):
    engine = small_engine()
    break_forward(engine, lambda tokens: [BAD, 7, 7] in (list(tokens[:3]), list(tokens[9:12])))
    requests = [engine.add(p, PARAMS) for p in PROMPTS]
    run(engine)
    bad = requests.pop(BAD - 1)
    assert bad.finish_reason == "error"
    assert (bad.error.status, str(bad.error)) == (500, "the engine failed on this request")
    assert isinstance(bad.error.__cause__, RuntimeError)
    assert [r.output for r in requests] == [
        o for i, o in enumerate(outputs(PROMPTS)) if i + 1 != BAD
    ]
    assert engine.pool.available == engine.pool.num_pages
    assert "a bad row" in caplog.text


def test_experts_are_those_of_the_rows_that_ran():
    def traced(is_bad):
        engine = small_engine()
        break_forward(engine, is_bad)
        params = [dataclasses.replace(PARAMS, return_routed_experts=i % 2 == 1) for i in range(8)]
        requests = [engine.add(p, own) for p, own in zip(PROMPTS, params, strict=True)]
        run(engine)
        assert sum(r.error is not None for r in requests) <= 1
        return [r for r in requests if r.routed_experts and r.error is None]

    found = traced(lambda tokens: {tuple(tokens[9:12]), tuple(tokens[:3])} & {(BAD, 7, 7)})
    expected = [r for r in traced(lambda tokens: False) if r.tokens[0] != BAD]
    assert len(found) == len(expected) == 3
    for got, want in zip(found, expected, strict=True):
        for a, b in zip(got.routed_experts.arrays(6), want.routed_experts.arrays(6), strict=True):
            assert len(a) == len(got.tokens) - 1
            assert np.array_equal(a, b)


def test_what_the_model_raises_for_all_is_raised():
    engine = small_engine()
    break_forward(engine, lambda tokens: True)
    requests = [engine.add(p, PARAMS) for p in PROMPTS[:2]]
    with pytest.raises(RuntimeError, match="a bad row"):
        engine.step()
    assert [r.output for r in requests] == [[], []]


def test_choosing_a_token_fails_alone_whatever_is_raised():
    engine = small_engine()
    requests = [engine.add(p, PARAMS) for p in PROMPTS[:3]]

    def raises():
        raise ZeroDivisionError("in one row")

    engine.step()
    failures.alone(requests[1], raises)
    assert str(requests[1].error) == "the engine failed on this request"
    engine.scheduler.drop(requests[1])
    run(engine)
    assert [requests[0].output, requests[2].output] == [
        o for i, o in enumerate(outputs(PROMPTS[:3])) if i != 1
    ]


def test_an_engine_that_works_answers_and_keeps_nothing():
    engine = small_engine()
    assert failures.answers(engine)
    assert not engine.has_work
    assert engine.pool.available == engine.pool.num_pages
    break_forward(engine, lambda tokens: True)
    with pytest.raises(RuntimeError, match="a bad row"):
        failures.answers(engine)
    assert not engine.has_work
    assert engine.pool.available == engine.pool.num_pages
