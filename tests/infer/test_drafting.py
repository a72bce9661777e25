"""Drafting: what is drafted and verified, what is learned from it, and when it is left out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fake_mtp import FakeMtp, hidden_of, request, scheduled

import ling.infer.drafting as drafting_module
import ling.infer.engine as engine_module
from ling.config.engine import EngineConfig
from ling.infer.drafting import Drafter
from ling.infer.engine import Engine
from ling.infer.mtp_rows import waiting_rows
from ling.infer.open import runner_for
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.speculative import Plan
from ling.model.ling import from_config
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


def drafter(num_drafts=1, adaptive=False, **uses):
    return Drafter(num_drafts, adaptive, frozenset(), **uses)


def always(most, **changes):
    """Every draft pays, except for what the changes say."""
    free = [0.0] * most
    return replace(Plan(math.inf, free, free, 0), **changes)


def test_finished_requests_are_left_out():
    done, live, runner = request([1, 2]), request([3, 4], pages=[1]), FakeMtp()
    done.finish_reason = "stop"
    d = drafter()
    d.draft(runner, [scheduled(done, 0, 1), scheduled(live, 0, 1, 1)], [1, 1], hidden_of(2))
    assert runner.calls == [(0, [4], [1], [Segment([1], 0, 0, 1)])]
    live.finish_reason = "length"
    d.draft(runner, [scheduled(live, 0, 1)], [1], hidden_of(1))
    assert len(runner.calls) == 1


def test_what_the_layer_missed_goes_first_when_drafting_resumes():
    r, runner, d = request([1, 2], output=1), FakeMtp(), drafter()
    d.policy.plan = lambda batch: always(1, runs_mtp=False)
    for position in range(2):
        d.draft(runner, [scheduled(r, position, 1)], [1], torch.full((1, 2), 70.0 + position))
        r.tokens.append(3 + position)
    assert runner.calls == []
    assert waiting_rows(r) == 2
    d.policy.plan = lambda batch: always(1)
    d.draft(runner, [scheduled(r, 2, 1)], [1], torch.full((1, 2), 72.0))
    assert runner.calls == [(0, [2, 3, 4], [70, 71, 72], [Segment([0], 0, 0, 3)])]
    assert (waiting_rows(r), r.drafts) == (0, [104])


def test_a_batch_that_drafts_again_catches_up_over_several_steps(monkeypatch):
    monkeypatch.setattr(drafting_module, "LATE_ROWS", 5)
    requests, d, runner = [request([1, 2], pages=[i]) for i in range(3)], drafter(), FakeMtp()

    def step(position, runs_mtp):
        d.policy.plan = lambda batch: always(1, runs_mtp=runs_mtp)
        rows = [scheduled(r, position, 1, start=i) for i, r in enumerate(requests)]
        d.draft(runner, rows, [1] * 3, hidden_of(3))
        drafted = [len(r.drafts) for r in requests]
        for r in requests:
            r.tokens, r.drafts = [*r.tokens, 3], []
        return drafted

    for position in range(2):
        assert step(position, runs_mtp=False) == [0, 0, 0]
    assert step(2, runs_mtp=True) == [1, 1, 0]
    assert step(3, runs_mtp=True) == [1, 1, 1]
    assert [len(call[1]) for call in runner.calls] == [6, 6]
    assert [waiting_rows(r) for r in requests] == [0, 0, 0]


def test_prompts_are_seen_while_drafting_pauses():
    r, runner, d = request([1, 2, 3, 9]), FakeMtp(), drafter()
    d.policy.plan = lambda batch: always(1, runs_mtp=False)
    d.draft(runner, [scheduled(r, 0, 3)], [3], hidden_of(3))
    assert [c[1] for c in runner.calls] == [[2, 3, 9]]
    assert r.drafts == []


def test_further_drafts_feed_the_layer_its_own_output():
    a, b, runner = request([1, 2]), request([3, 4, 5], pages=[7]), FakeMtp()
    step = [scheduled(a, 0, 1), scheduled(b, 0, 2, start=1)]
    drafter(3).draft(runner, step, [1, 2], hidden_of(3))
    # A draft at position t is fed at position t - 1, where the layer has not been.
    assert [call[3] for call in runner.calls[1:]] == [
        [Segment([0], 1, 0, 1), Segment([7], 2, 1, 2)],
        [Segment([0], 2, 0, 1), Segment([7], 3, 1, 2)],
    ]
    assert (a.drafts, b.drafts) == ([102, 202, 302], [105, 205, 305])


@pytest.mark.parametrize(("max_tokens", "drafts"), [(1, 0), (2, 0), (3, 1), (4, 2), (9, 3)])
@pytest.mark.parametrize("uses_ngrams", [False, True])
def test_drafts_end_before_the_last_token(max_tokens, drafts, uses_ngrams):
    """One token is there, and the next step gives one more than it has drafts."""
    prompt = [1, 2, 3, 1, 2, 3, 1] if uses_ngrams else [1, 2]
    r = request(prompt, max_tokens=max_tokens)
    d = drafter(3, uses_mtp=not uses_ngrams, uses_ngrams=uses_ngrams)
    d.draft(FakeMtp(), [scheduled(r, 0, len(prompt) - 1)], [len(prompt) - 1], hidden_of(6))
    assert len(r.drafts) == drafts


def test_a_draft_that_does_not_pay_is_not_verified_but_judged():
    r, runner, d = request([1, 2]), FakeMtp(), drafter(3)
    d.policy.plan = lambda batch: Plan(1.0, [0.2, 9.0, 9.0], [0.0] * 3, 0)
    d.policy.goes_deeper = lambda plan, depth, reach: depth < 3
    d.draft(runner, [scheduled(r, 0, 1)], [1], hidden_of(1))
    assert r.drafts == [102]
    assert [(g.position, g.token, g.depth) for g in r.guesses] == [(2, 102, 1), (3, 202, 2)]
    assert runner.calls[-1][1] == [102]
    before = d.policy.mtp.mean(1), d.policy.mtp.mean(2)
    r.tokens, r.drafts = [1, 2, 102, 7], []
    d.draft(runner, [scheduled(r, 1, 2, num_drafts=1)], [2], hidden_of(2))
    assert d.policy.mtp.mean(1) > before[0]
    assert d.policy.mtp.mean(2) < before[1]


def test_drafts_behind_a_wrong_one_are_not_judged():
    r, runner, d = request([1, 2]), FakeMtp(), drafter(3)
    d.draft(runner, [scheduled(r, 0, 1)], [1], hidden_of(1))
    r.tokens, r.drafts = [1, 2, 7], []
    learned = []
    d.policy.mtp.learn = lambda depth, bin, right, step: learned.append((depth, right))
    d.draft(runner, [scheduled(r, 1, 4, num_drafts=3)], [1], hidden_of(4))
    assert learned == [(1, False)]


def test_what_follows_an_earlier_occurrence_is_drafted():
    r, d = request([5, 6, 7, 8, 9, 1, 5, 6, 7]), drafter(3, uses_mtp=False, uses_ngrams=True)
    d.draft(None, [scheduled(r, 0, 8)], [8], hidden_of(8))
    assert r.drafts == [8, 9, 1]
    other = request([5, 6, 7, 8, 9, 1, 6, 5, 7])
    d.draft(None, [scheduled(other, 0, 8)], [8], hidden_of(8))
    assert other.drafts == []


def test_text_and_layer_share_the_requests_of_a_batch():
    text, other, runner = request([5, 6, 7, 8, 5, 6, 7]), request([1, 2], pages=[1]), FakeMtp()
    d = drafter(2, uses_ngrams=True)
    step = [scheduled(text, 5, 1), scheduled(other, 0, 1, start=1)]
    d.draft(runner, step, [1, 1], hidden_of(2))
    assert (text.drafts, other.drafts) == ([8, 5], [102, 202])
    assert waiting_rows(text) == 1  # the layer reads that when it drafts for this request
    assert [call[1] for call in runner.calls] == [[2], [102]]


def test_the_layer_drafts_where_it_promises_more():
    r, runner, d = request([5, 6, 7, 8, 5, 6, 7]), FakeMtp(), drafter(2, uses_ngrams=True)
    d.policy.plan = lambda batch: Plan(1.0, [0.1, 0.1], [0.0, 0.0], 0, gain=5.0)
    d.draft(runner, [scheduled(r, 5, 1)], [1], hidden_of(1))
    assert r.drafts[0] == 107
    assert {g.acceptance for g in r.guesses} == {d.policy.ngram, d.policy.mtp}  # both are judged


def test_only_steps_of_decodes_are_measured():
    d, seen = drafter(2, adaptive=True), []
    d.policy.observe = lambda *args: seen.append(args)
    r = request([1, 2])
    prompt, decode = scheduled(r, 0, 5), scheduled(r, 5, 3, num_drafts=2)
    d.observe([prompt], [5], 1.0)
    d.observe([decode, prompt], [3, 5], 1.0)
    d.observe([decode, scheduled(r, 0, 1, reaches_end=False)], [3, 1], 1.0)
    assert seen == []
    d.seconds = 0.1
    d.observe([decode, scheduled(r, 5, 1)], [2, 1], 0.5)
    assert seen == [(2, 4, 3, 0.5, 0.1)]


# ---- in the engine -----------------------------------------------------------------------------


class Clock:
    """Stands in for the module `time`; a runner that charges for its rows moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


def charged(runner, clock, row, draft):
    """A forward pass costs 1 and `row` for each further row of a request, a draft `draft`."""
    forward, mtp = runner.forward, runner.mtp

    def slow_forward(tokens, segments):
        clock.now += 1 + row * (len(tokens) - len(segments))
        return forward(tokens, segments)

    def slow_mtp(*args):
        clock.now += draft
        return mtp(*args)

    runner.forward, runner.mtp = slow_forward, slow_mtp
    return runner


def generate(monkeypatch, row, draft, model, n=160, adaptive=True, **options):
    """The output, how many drafts each step verified, and the time that the clock shows."""
    clock = Clock()
    monkeypatch.setattr(engine_module, "time", clock)
    monkeypatch.setattr(drafting_module, "time", clock)
    runner = charged(runner_for(model), clock, row, draft)
    e = Engine(runner, EngineConfig(**options), adaptive=adaptive)
    request = e.add([1, 2, 3], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    verified = []
    while e.has_work:
        verified.append(len(request.drafts))
        e.step()
    assert e.pool.available == e.pool.num_pages
    return request.output, verified, e.stats, clock.now


def same_token_model():
    """Every token is the same, so a draft is always right."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def test_engine_stops_drafting_where_it_loses_and_keeps_its_tokens(monkeypatch):
    model = from_config(preset("ling-tiny"), seed=0)
    want, *_, plain = generate(monkeypatch, 0, 0, model, n=500)
    got, verified, _, seconds = generate(
        monkeypatch, 0.9, 0.9, model, n=500, speculative="mtp", num_drafts=2
    )
    assert got == want
    assert sum(verified[40:]) == 0
    assert seconds < plain / 0.98


@pytest.mark.parametrize("speculative", ["mtp", "ngram", "auto"])
def test_engine_goes_on_drafting_where_it_pays(monkeypatch, speculative):
    model = same_token_model()
    want, *_, plain = generate(monkeypatch, 0, 0, model)
    mode = {"speculative": speculative, "num_drafts": 3}
    got, verified, stats, seconds = generate(monkeypatch, 0.1, 0.1, model, **mode)
    assert got == want == [0] * 160
    assert stats.acceptance == 1
    assert verified.count(3) > 0.7 * len(verified)
    assert seconds < plain / 2


def test_without_an_mtp_layer_auto_drafts_from_the_text(monkeypatch):
    model = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=0), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    got, _, stats, _ = generate(monkeypatch, 0.1, 0.1, model, speculative="auto")
    assert got == [0] * 160
    assert stats.accepted > 80


def test_drafts_never_reach_beyond_the_last_token(monkeypatch):
    for n in (1, 2, 3, 4):
        mode = {"speculative": "mtp", "num_drafts": 3, "adaptive": False}
        got, _, stats, _ = generate(monkeypatch, 0, 0, same_token_model(), n=n, **mode)
        assert len(got) == n
        assert stats.drafted == stats.accepted == max(n - 2, 0)


def test_the_probability_of_a_draft_is_the_layers_own():
    row = torch.tensor([0.0, 2.0, -1.0, 5.0])
    runner, r, d = FakeMtp(), request([1, 2]), drafter()
    runner.logits = lambda hidden, vocab: row[None]
    seen = []
    d.policy.mtp.bin = lambda probability: seen.append(probability) or 0
    d.draft(runner, [scheduled(r, 0, 1)], [1], hidden_of(1))
    assert r.drafts == [3]
    assert seen == [pytest.approx(float(row.softmax(-1)[3]))]
