"""Log-probabilities of prompts, whatever chunks they come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_llm import random_llm
from safetensors.torch import load_file

from ling.config.engine import EngineConfig
from ling.errors import RequestError
from ling.infer import scoring
from ling.infer.engine import Engine
from ling.infer.open import open_runner
from ling.infer.request import Request, SamplingParams
from ling.infer.sampler import choose
from ling.infer.scheduler import ScheduledRequest
from ling.infer.scoring import score_prompt

pytestmark = pytest.mark.usefixtures("one_thread")


class FakeRunner:
    """Hidden states are the scores themselves."""

    def __init__(self):
        self.rows = []

    def logits(self, hidden):
        self.rows.append(len(hidden))
        return hidden

    def choose(self, scores, choices):
        return [choose(row, c) for row, c in zip(scores.numpy(), choices, strict=True)]


def scored(chunks, asked=0, length=10, offset=3):
    """The request and the runner after steps of these many rows, `offset` rows of others before."""
    r = Request(0, [1] * length, SamplingParams(prompt_logprobs=asked), 0, 5)
    runner, rows, at = FakeRunner(), torch.randn(length + 2, 7), 0
    for n in chunks:
        step = ScheduledRequest(r, [1] * n, at, 0, at + n >= length, start=offset)
        others = torch.full((offset, 7), float("nan"))
        score_prompt(runner, step, torch.cat((others, rows[at : at + n])))
        at += n
    return r, runner, rows


@pytest.mark.parametrize("chunks", [[10], [1, 9], [4, 5, 1], [10, 1, 1]], ids=str)
def test_each_row_scores_the_token_after_it_whatever_the_chunks(chunks, monkeypatch):
    monkeypatch.setattr(scoring, "SCORE_ROWS", 4)
    r, runner, rows = scored(chunks)
    assert len(r.prompt_logprobs) == 9  # the first token has none, and the last row is the answer's
    np.testing.assert_allclose(r.prompt_logprobs.own(), rows[:9].log_softmax(-1)[:, 1], atol=1e-6)
    assert max(runner.rows) <= 4
    assert sum(runner.rows) == 9


def test_nothing_is_scored_unasked():
    r, runner, _ = scored([10], asked=None)
    assert (len(r.prompt_logprobs), runner.rows) == (0, [])


def test_a_request_that_is_computed_again_is_not_scored_twice():
    r, runner, rows = scored([6])
    have = list(r.prompt_logprobs)
    assert len(have) == 6
    again = ScheduledRequest(r, [1] * 10, 0, 0, True, start=0)  # preempted, then whole
    score_prompt(runner, again, rows[:10])
    assert have == list(r.prompt_logprobs)[:6]
    np.testing.assert_allclose(r.prompt_logprobs.own(), rows[:9].log_softmax(-1)[:, 1], atol=1e-6)


def test_a_request_that_was_aborted_is_not_scored_further(monkeypatch):
    monkeypatch.setattr(scoring, "SCORE_ROWS", 2)
    r, runner, _ = scored([4])
    r.finish_reason = "abort"
    score_prompt(runner, ScheduledRequest(r, [1] * 6, 4, 0, True), torch.randn(6, 7))
    assert (len(r.prompt_logprobs), sum(runner.rows)) == (4, 4)


def test_scores_that_are_not_finite_are_an_error_of_their_token():
    r = Request(0, [1] * 4, SamplingParams(prompt_logprobs=0), 0, 5)
    rows = torch.zeros(4, 7)
    rows[1, 3] = float("nan")
    with pytest.raises(RequestError, match="scores for token 2 are not finite"):
        score_prompt(FakeRunner(), ScheduledRequest(r, [1] * 4, 0, 0, True), rows)


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
    got = torch.tensor([[t.logprob for t in sorted(row)] for row in request.prompt_logprobs])
    assert torch.allclose(got, want, atol=2e-4)


def test_scores_from_a_position_on_use_cached_pages_and_are_the_same():
    ids = torch.randint(5, 250, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    with random_llm() as llm:

        def ask(tokens, **more):
            params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0, **more)
            (output,) = llm.generate([tokens], params)
            own = [
                row and row[i].logprob
                for row, i in zip(output.prompt_logprobs, tokens, strict=True)
            ]
            return output.num_cached_tokens, own

        cached, whole = ask(ids)
        assert cached == 0
        assert whole[0] is None
        assert None not in whole[1:]
        for start in (129, 140, 149):
            cached, tail = ask(ids, prompt_logprobs_start_len=start)
            assert cached == 128, "pages of 64, of which none has the row that scores the first"
            assert tail == [None] * start + whole[start:]
        assert ask(ids, prompt_logprobs_start_len=128) == (64, [None] * 128 + whole[128:])
        assert ask(ids, prompt_logprobs_start_len=500)[1] == [None] * 150
        _, other = ask([*ids[:140], *ids[:9]], prompt_logprobs_start_len=140)
        assert other[140] != whole[140]
