"""Drafting: which rows the MTP layers see, what comes of them, and when it is left out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import ling.infer.engine as engine_module
from ling.config.engine import EngineConfig
from ling.infer.drafting import Drafter
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.pages import BlockTable, Segment
from ling.infer.request import Request, SamplingParams
from ling.infer.sampler import choose
from ling.infer.scheduler import ScheduledRequest
from ling.model.ling import from_config
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


class FakeRunner:
    """Keeps what the MTP layers are asked for. Layer j answers a row with its token and j, and the
    best id after that is token + 100 · (j + 1)."""

    draft_vocab = 0

    def __init__(self, layers=1):
        self.config, self.calls = SimpleNamespace(num_nextn_predict_layers=layers), []

    def mtp(self, j, tokens, hidden, segments):
        self.calls.append((j, list(tokens), hidden[:, 0].tolist(), segments))
        return torch.tensor([[float(t), float(j)] for t in tokens])

    def logits(self, hidden, vocab):
        best = (hidden[:, 0] + 100 * (hidden[:, 1] + 1)).long()
        return torch.nn.functional.one_hot(best, 1000).float()

    def choose(self, scores, choices):
        return [choose(row, c) for row, c in zip(scores.numpy(), choices, strict=True)]


def hidden_of(rows):
    """Rows that can be told apart: row i is i."""
    return torch.arange(rows).float()[:, None].expand(-1, 2)


def request(tokens, output=1, max_tokens=50, pages=(0,)):
    """A request whose last `output` tokens are generated."""
    made = Request(0, tokens[: len(tokens) - output], SamplingParams(temperature=0), 0, max_tokens)
    made.tokens = list(tokens)
    made.block_table = BlockTable(list(pages))
    return made


def scheduled(r, first, rows, start=0, num_drafts=0, reaches_end=True):
    return ScheduledRequest(r, [0] * rows, first, num_drafts, reaches_end, start)


def test_a_row_gets_the_token_after_it_and_the_last_one_drafts():
    r, runner = request([1, 2, 3, 9], pages=[5]), FakeRunner()
    drafter = Drafter(1, adaptive=False, stop_token_ids=frozenset())
    drafter.draft(runner, [scheduled(r, 0, 3)], [3], hidden_of(3))
    assert runner.calls == [(0, [2, 3, 9], [0, 1, 2], [Segment([5], 0, 0, 3)])]
    assert r.drafts == [109]
    assert r.num_mtp_computed_tokens == 3


def test_a_prompt_that_goes_on_is_seen_but_does_not_draft():
    """One request in the middle of its prompt, one whose second draft was not accepted."""
    prompt, decode = request([1, 2, 3, 4, 5], output=0), request([6, 7, 8, 9], output=2, pages=[1])
    step = [
        scheduled(prompt, 1, 2, start=0, reaches_end=False),
        scheduled(decode, 1, 3, start=2, num_drafts=2),
    ]
    runner = FakeRunner()
    Drafter(1, adaptive=False, stop_token_ids=frozenset()).draft(runner, step, [2, 2], hidden_of(5))
    segments = [Segment([0], 1, 0, 2), Segment([1], 1, 2, 4)]
    assert runner.calls == [(0, [3, 4, 8, 9], [0, 1, 2, 3], segments)]
    assert (prompt.drafts, decode.drafts) == ([], [109])


def test_finished_requests_are_left_out():
    done, live, runner = request([1, 2]), request([3, 4], pages=[1]), FakeRunner()
    done.finish_reason = "stop"
    drafter = Drafter(1, adaptive=False, stop_token_ids=frozenset())
    drafter.draft(runner, [scheduled(done, 0, 1), scheduled(live, 0, 1, 1)], [1, 1], hidden_of(2))
    assert runner.calls == [(0, [4], [1], [Segment([1], 0, 0, 1)])]
    live.finish_reason = "length"
    drafter.draft(runner, [scheduled(live, 0, 1)], [1], hidden_of(1))
    assert len(runner.calls) == 1


def test_what_the_layer_missed_goes_first_when_drafting_resumes():
    r, runner = request([1, 2], output=1), FakeRunner()
    drafter = Drafter(1, adaptive=False, stop_token_ids=frozenset())
    drafter.policy.num_drafts = lambda batch: 0
    for position in range(2):
        drafter.draft(runner, [scheduled(r, position, 1)], [1], torch.full((1, 2), 70.0 + position))
        r.tokens.append(3 + position)
    assert runner.calls == []
    assert len(r.backlog) == 2
    assert r.num_mtp_computed_tokens == 0
    drafter.policy.num_drafts = lambda batch: 1
    drafter.draft(runner, [scheduled(r, 2, 1)], [1], torch.full((1, 2), 72.0))
    assert runner.calls == [(0, [2, 3, 4], [70, 71, 72], [Segment([0], 0, 0, 3)])]
    assert (r.backlog, r.num_mtp_computed_tokens, r.drafts) == ([], 3, [104])


@pytest.mark.parametrize("layers", [1, 2])
def test_further_drafts_feed_the_layers_their_own_output(layers):
    """With fewer layers than drafts the last one goes again."""
    a, b, runner = request([1, 2]), request([3, 4, 5], pages=[7]), FakeRunner(layers)
    step = [scheduled(a, 0, 1), scheduled(b, 0, 2, start=1)]
    Drafter(3, adaptive=False, stop_token_ids=frozenset()).draft(runner, step, [1, 2], hidden_of(3))
    _, *later = runner.calls
    js = [min(k, layers - 1) for k in (1, 2)]
    assert [call[0] for call in later] == js
    # A draft at position t is fed at position t - 1, where the layer has not been.
    assert [call[3] for call in later] == [
        [Segment([0], 1, 0, 1), Segment([7], 2, 1, 2)],
        [Segment([0], 2, 0, 1), Segment([7], 3, 1, 2)],
    ]
    assert later[0][1] == [102, 105]
    assert later[0][2] == [2, 5]  # the rows that the first layer gave
    for r, last in ((a, 2), (b, 5)):
        second = last + 100 + 100 * (js[0] + 1)
        assert r.drafts == [last + 100, second, second + 100 * (js[1] + 1)]


@pytest.mark.parametrize(("max_tokens", "drafts"), [(1, 0), (2, 0), (3, 1), (4, 2), (9, 3)])
def test_drafts_end_before_the_last_token(max_tokens, drafts):
    """One token is there, and the next step gives one more than it has drafts."""
    r, runner = request([1, 2], max_tokens=max_tokens), FakeRunner()
    Drafter(3, adaptive=False, stop_token_ids=frozenset()).draft(
        runner, [scheduled(r, 0, 1)], [1], hidden_of(1)
    )
    assert len(r.drafts) == drafts


def test_only_steps_of_decodes_are_measured():
    drafter, seen = Drafter(2, adaptive=True, stop_token_ids=frozenset()), []
    drafter.policy.observe = lambda *args: seen.append(args)
    r = request([1, 2])
    prompt, decode = scheduled(r, 0, 5), scheduled(r, 5, 3, num_drafts=2)
    drafter.observe([prompt], [5], 1.0)
    drafter.observe([decode, prompt], [3, 5], 1.0)
    drafter.observe([decode, scheduled(r, 0, 1, reaches_end=False)], [3, 1], 1.0)
    assert seen == []
    drafter.observe([decode, scheduled(r, 5, 1)], [2, 1], 0.5)
    assert seen == [(2, 2, 1.5, 0.5)]


# ---- in the engine -----------------------------------------------------------------------------


class Clock:
    """Stands in for the module `time`; a runner that charges for its rows moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now


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
    clock = Clock()
    monkeypatch.setattr(engine_module, "time", clock)
    runner = charged(runner_for(model), clock, row, draft)
    e, wanted = Engine(runner, EngineConfig(**options), adaptive=adaptive), []
    choose = e.drafter.policy.num_drafts
    e.drafter.policy.num_drafts = lambda batch: wanted.append(choose(batch)) or wanted[-1]
    request = e.add([1, 2, 3], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages
    return request.output, wanted, e.stats


def test_engine_stops_drafting_where_it_loses_and_keeps_its_tokens(monkeypatch):
    model = from_config(preset("ling-tiny"), seed=0)
    want, *_ = generate(monkeypatch, 0, 0, model)
    got, wanted, stats = generate(monkeypatch, 0.9, 0.9, model, speculative="mtp", num_drafts=2)
    assert got == want
    assert wanted[40:].count(0) > 0.8 * len(wanted[40:])
    assert stats.acceptance is not None


def test_engine_goes_on_drafting_where_it_pays(monkeypatch):
    """Every token is the same, so a draft is always right."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    want, *_ = generate(monkeypatch, 0, 0, model)
    got, wanted, stats = generate(monkeypatch, 0.1, 0.1, model, speculative="mtp", num_drafts=3)
    assert got == want == [0] * 160
    assert stats.acceptance == 1
    assert wanted[40:].count(3) > 0.8 * len(wanted[40:])


def test_drafts_never_reach_beyond_the_last_token(monkeypatch):
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for n in (1, 2, 3, 4):
        got, _, stats = generate(
            monkeypatch, 0, 0, model, n=n, speculative="mtp", num_drafts=3, adaptive=False
        )
        assert len(got) == n
        assert stats.drafted == stats.accepted == max(n - 2, 0)
