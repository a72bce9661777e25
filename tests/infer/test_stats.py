from __future__ import annotations

import pytest
from small_engine import finished, small_engine

from ling.infer.request import SamplingParams
from ling.infer.stats import Stats


def test_rates_are_quotients_of_the_totals():
    stats = Stats(generated=30, seconds=1.5, drafted=8, accepted=6)
    assert stats.tokens_per_s == 20
    assert stats.acceptance == 0.75


def test_nothing_measured_is_no_division_by_zero():
    assert Stats().tokens_per_s == 0
    assert Stats().acceptance is None
    assert Stats(drafted=3).acceptance == 0


def test_a_request_is_counted_with_its_times():
    engine = small_engine()
    request = finished(engine, list(range(70)), n=5)
    stats = engine.stats
    assert (stats.prompt_tokens, stats.generated, stats.finished) == (70, 5, {"length": 1})
    assert (stats.time_to_first_token.count, stats.inter_token.count) == (1, 4)
    assert stats.step_tokens.sum == 70 + 4
    assert stats.request_prompt_tokens.sum == 70
    assert stats.request_output_tokens.sum == 5
    spent = stats.queue_time.sum + stats.prefill_time.sum + stats.decode_time.sum
    assert stats.end_to_end.sum == pytest.approx(spent)
    assert stats.time_to_first_token.sum + stats.inter_token.sum == pytest.approx(
        request.timeline.last_token - request.timeline.arrived
    )


def test_prefix_hits_are_counted_once_a_request():
    engine = small_engine()
    finished(engine, list(range(70)))
    finished(engine, list(range(70)))
    assert (engine.stats.prefix_queries, engine.stats.prefix_hits) == (140, 64)
    finished(engine, list(range(70)), prompt_logprobs=0)  # computes all of it
    assert (engine.stats.prefix_queries, engine.stats.prefix_hits) == (140, 64)


def test_ends_are_counted_by_their_reason_and_aborted_ones_have_no_times():
    engine = small_engine()
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    left, found = engine.add([1, 2], params), engine.add([1, 2, 3], params)
    engine.step()
    engine.abort(left)
    engine.abort(found, "stop")
    engine.abort(found, "stop")  # nothing is counted twice
    assert engine.stats.finished == {"abort": 1, "stop": 1}
    assert engine.stats.end_to_end.count == 1


def test_preemptions_are_counted():
    engine = small_engine(num_pages=3)
    for _ in range(2):
        engine.add(list(range(60)), SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))
    while engine.has_work:
        engine.step()
    assert engine.stats.preemptions == 1
    assert engine.stats.queue_time.count == 2


class Free:
    """A constraint that allows everything."""

    is_done = False

    def mask(self, drafts):
        return None

    def accept(self, token_id):
        """Anything."""

    def forced(self):
        return []


def test_masks_of_constrained_choices_are_timed():
    engine = small_engine()
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    engine.add([1, 2], params, constraint=Free())
    engine.add([1, 2], params)
    while engine.has_work:
        engine.step()
    assert engine.stats.grammar_mask.count == 3
    assert 0 < engine.stats.grammar_mask.sum < 1
