from __future__ import annotations

import itertools
import math
import statistics

import pytest

from ling.errors import UsageError
from ling.eval.serving.requests import (
    LoadOptions,
    Point,
    Turn,
    Words,
    arrivals,
    conversations,
    request_body,
)

WORDS = Words(fixed=5.0, each=3.0)


def test_a_seed_and_a_label_decide_all_requests():
    options = LoadOptions(random_range_ratio=0.5, random_prefix_len=8)
    first = conversations(options, "point 0, pair 1", WORDS)
    assert first == conversations(options, "point 0, pair 1", WORDS)
    assert first != conversations(options, "point 0, pair 0", WORDS)
    assert first != conversations(LoadOptions(random_range_ratio=0.5, seed=1), "x", WORDS)
    assert len({c.seed for c in first}) == len(first) == 32


def test_token_ids_have_exact_lengths_and_fit_the_vocabulary():
    options = LoadOptions(random_vocab_size=50, random_input_len=300, random_prefix_len=4)
    prompts = [c.turns[0].content for c in conversations(options, "x", WORDS)]
    assert {len(p) for p in prompts} == {304}
    assert all(0 <= i < 50 for p in prompts for i in p)
    assert len({tuple(p[:4]) for p in prompts}) == 1
    assert len({tuple(p[4:]) for p in prompts}) == len(prompts)


def test_lengths_vary_by_the_asked_share():
    options = LoadOptions(random_range_ratio=0.5, random_vocab_size=9, num_prompts=400)
    turns = [c.turns[0] for c in conversations(options, "x", WORDS)]
    for lengths, mean in (
        ([len(t.content) for t in turns], 300),
        ([t.output_len for t in turns], 100),
    ):
        assert 0.5 * mean <= min(lengths) < 0.6 * mean
        assert 1.4 * mean < max(lengths) <= 1.5 * mean
        assert statistics.fmean(lengths) == pytest.approx(mean, rel=0.05)


def test_text_has_the_words_that_make_the_asked_tokens():
    (chat,) = conversations(LoadOptions(num_prompts=1, random_input_len=305), "x", WORDS)
    assert len(chat.turns[0].content.split()) == 100
    assert WORDS.count(1) == 1


def test_chats_have_turns():
    options = LoadOptions(dataset_name="multi-turn", backend="openai-chat", num_turns=3)
    assert {len(c.turns) for c in conversations(options, "x", WORDS)} == {3}


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 50.0])
def test_requests_arrive_at_the_asked_rate(burstiness):
    times = arrivals(LoadOptions(burstiness=burstiness), 4.0, 4000, "x")
    assert times == arrivals(LoadOptions(burstiness=burstiness), 4.0, 4000, "x")
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.1)
    # A gamma distribution of shape b has the deviation mean / sqrt(b); a Poisson process has b = 1.
    assert statistics.stdev(gaps) == pytest.approx(0.25 / burstiness**0.5, rel=0.1)
    assert arrivals(LoadOptions(), math.inf, 3, "x") == [0.0, 0.0, 0.0]


def test_a_greedy_request_has_no_seed_and_a_sampled_one_its_own():
    turn = Turn([1, 2, 3], 100)
    body = request_body(LoadOptions(), "m", turn, 5)
    assert body == {
        "model": "m", "prompt": [1, 2, 3], "max_tokens": 100, "temperature": 0.0, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    sampled = LoadOptions(
        sampling={"temperature": 0.7, "top_p": 0.8}, stop_at_eos=True, extra_body={"logprobs": 20}
    )
    body = request_body(sampled, "m", turn, 5)
    assert (body["seed"], body["top_p"], body["logprobs"]) == (5, 0.8, 20)
    assert "ignore_eos" not in body


def test_a_chat_has_its_history_before_the_new_message():
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = request_body(LoadOptions(backend="openai-chat"), "m", Turn("c", 1), 0, history)
    assert body["messages"] == [*history, {"role": "user", "content": "c"}]
    assert "prompt" not in body


def test_a_sweep_has_every_combination():
    options = LoadOptions(request_rate=[2.0, math.inf], max_concurrency=[1, 8])
    assert options.points == [Point(2.0, 1), Point(2.0, 8), Point(math.inf, 1), Point(math.inf, 8)]
    words = [p.words for p in options.points]
    assert words == ["1 stream, 2 requests/s", "8 streams, 2 requests/s", "1 stream", "8 streams"]
    assert Point(math.inf, None).words == "all at once"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "grpc"}, "`backend` is `grpc`, expected openai or openai-chat"),
        ({"dataset_name": "sharegpt"}, "`dataset_name`"),
        ({"num_prompts": 0}, "`num_prompts` is 0, expected at least 1"),
        ({"max_concurrency": [8, 0]}, "`max_concurrency` is 0"),
        ({"request_rate": [math.nan]}, "`request_rate` is nan"),
        ({"request_rate": [-1.0]}, "`request_rate` is -1.0, expected more than 0"),
        ({"timeout_s": 0.0}, "`timeout_s`"),
        ({"random_range_ratio": 1.0}, "`random_range_ratio` is 1.0"),
        ({"random_vocab_size": 1}, "`random_vocab_size` is 1, expected at least 2"),
        ({"dataset_name": "multi-turn"}, "needs `backend` openai-chat"),
        ({"backend": "openai-chat", "random_vocab_size": 9}, "a chat takes no token ids"),
    ],
)
def test_impossible_loads_are_refused_by_name(options, message):
    with pytest.raises(UsageError) as found:
        LoadOptions(**options)
    assert message in str(found.value)
