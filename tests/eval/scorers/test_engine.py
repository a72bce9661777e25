"""Our engine's scores are those of the whole text at once, however they share pages."""

from __future__ import annotations

import pytest
import torch
from random_llm import random_llm

from ling import SamplingParams
from ling.errors import RequestError
from ling.eval.scorer import Ask, Row
from ling.eval.scorers import engine
from ling.eval.scorers.engine import EngineScorer, waves


@pytest.fixture(scope="module")
def llm():
    with random_llm(context=512) as llm:
        yield llm


def tokens(seed, count):
    drawn = torch.randint(5, 250, (count,), generator=torch.Generator().manual_seed(seed))
    return drawn.tolist()


def test_scores_are_those_of_the_prompt_whole(llm, monkeypatch):
    monkeypatch.setattr(engine, "GROUP", 5)
    contexts = [tokens(0, 130), tokens(1, 70), tokens(2, 3)]
    rows = [Row(c, tokens(9 + k, 1 + 2 * k)) for c in contexts for k in range(3)]
    found = EngineScorer(llm).score(rows)
    for row, one in zip(rows, found, strict=True):
        ids = row.context + row.continuation
        (output,) = llm.generate([ids], SamplingParams(max_tokens=1, prompt_logprobs=0))
        own = [
            output.prompt_logprobs[len(row.context) + k][i] for k, i in enumerate(row.continuation)
        ]
        assert one.logprob == pytest.approx(sum(t.logprob for t in own), abs=1e-5)
        assert one.is_greedy == all(t.rank == 1 for t in own)


def test_the_most_likely_continuation_is_greedy(llm):
    context = tokens(3, 20)
    (output,) = llm.generate(
        [context], SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    )
    said = output.outputs[0].token_ids
    other = [*said[:2], said[2] - 1]
    greedy, not_greedy = EngineScorer(llm).score([Row(context, said), Row(context, other)])
    assert (greedy.is_greedy, not_greedy.is_greedy) == (True, False)
    assert greedy.logprob > not_greedy.logprob


def test_choices_run_behind_the_first_of_their_question():
    shots, a, b = tokens(0, 64), tokens(1, 64), tokens(2, 64)
    rows = [Row([*shots, *end, 7], [c]) for end in (a, b) for c in (1, 2)]
    assert waves(rows) == [[0], [2], [1, 3]]
    assert waves([Row([1], [2]), Row([1], [3])]) == [[0, 1]], "no page is full"


def test_prefixes_are_computed_once(llm):
    context = tokens(5, 200)
    before = llm.stats.prefix_hits
    EngineScorer(llm).score([Row(context, [i]) for i in (7, 8, 9)])
    assert llm.stats.prefix_hits - before == 2 * 192


def test_answers_continue_texts_and_answer_messages(llm):
    scorer = EngineScorer(llm)
    messages = [{"role": "user", "content": "The weather?"}]
    rendered = scorer.render(messages)
    said = scorer.generate([Ask(messages, 8), Ask(rendered, 8), Ask("The", 8)])
    assert said[0] == said[1]
    assert said[2] != said[0]
    cut_off = scorer.generate([Ask("The", 8, stop=(said[2][2:4],))])[0]
    assert cut_off == said[2][: said[2].find(said[2][2:4])]


def test_a_long_prompt_loses_its_beginning(llm):
    scorer = EngineScorer(llm)
    text = "weather in Paris " * 400
    assert len(scorer.encode(text)) > 512
    assert isinstance(scorer.generate([Ask(text, 4)])[0], str)


def test_a_model_without_a_tokenizer_is_refused():
    class Bare:
        tokenizer = None

    with pytest.raises(RequestError, match="needs a model with a tokenizer"):
        EngineScorer(Bare())


def test_an_adapter_is_asked_also_where_it_has_a_name(llm, monkeypatch):
    seen, generate = [], llm.generate
    monkeypatch.setattr(
        llm, "generate", lambda *a, lora: seen.append(lora) or generate(*a, lora=None)
    )
    scorer = EngineScorer(llm, "mine")
    scorer.score([Row([5], [6])])
    scorer.generate([Ask("The", 2)])
    assert seen == ["mine", "mine"]
