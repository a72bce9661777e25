"""Log-probabilities of prompts, whatever chunks they come in, and the likeliest beside a token."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ling.config.engine import EngineConfig
from ling.infer import logprobs
from ling.infer.engine import Engine
from ling.infer.logprobs import score_prompt, top_logprobs
from ling.infer.open import open_runner
from ling.infer.request import Request, SamplingParams
from ling.infer.scheduler import ScheduledRequest

pytestmark = pytest.mark.usefixtures("one_thread")


def test_top_logprobs_have_the_token_first_and_rank_equal_ones_by_id():
    row = torch.tensor([-1.0, -3.0, -1.0, -2.0])
    assert top_logprobs(row, 3, 2) == [(3, -2.0, 3), (0, -1.0, 1), (2, -1.0, 2)]
    assert top_logprobs(row, 2, 0) == [(2, -1.0, 1)]
    assert [t.token_id for t in top_logprobs(row, 1, -1)] == [1, 0, 2, 3]


def test_top_logprobs_of_a_token_among_the_likeliest_are_not_one_more():
    row = torch.tensor([0.0, 4.0, 3.0, 2.0]).log_softmax(-1)
    got = top_logprobs(row, 2, 2)
    assert [(t.token_id, t.rank) for t in got] == [(2, 2), (1, 1)]
    assert [t.logprob for t in got] == [float(row[2]), float(row[1])]


# ---- prompts -----------------------------------------------------------------------------------


class FakeRunner:
    """Hidden states are the scores themselves."""

    def __init__(self):
        self.rows = []

    def logits(self, hidden):
        self.rows.append(len(hidden))
        return hidden, []


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
    monkeypatch.setattr(logprobs, "SCORE_ROWS", 4)
    r, runner, rows = scored(chunks)
    assert len(r.prompt_logprobs) == 9  # the first token has none, and the last row is the answer's
    assert torch.equal(torch.stack(r.prompt_logprobs), rows[:9].log_softmax(-1))
    assert max(runner.rows) <= 4
    assert sum(runner.rows) == 9


def test_nothing_is_scored_unasked():
    r, runner, _ = scored([10], asked=None)
    assert (r.prompt_logprobs, runner.rows) == ([], [])


def test_a_request_that_is_computed_again_is_not_scored_twice():
    r, runner, rows = scored([6])
    have = list(r.prompt_logprobs)
    assert len(have) == 6
    again = ScheduledRequest(r, [1] * 10, 0, 0, True, start=0)  # preempted, then whole
    score_prompt(runner, again, rows[:10])
    assert all(a is b for a, b in zip(r.prompt_logprobs, have, strict=False))
    assert torch.equal(torch.stack(r.prompt_logprobs), rows[:9].log_softmax(-1))


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
