from __future__ import annotations

import json

import pytest

from ling.eval.serving.replies import SHORT, Reply, message_of, read_stream


def event(value) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text(word: str) -> bytes:
    return event({"choices": [{"text": word}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"


def read(*pieces: tuple[float, bytes], asked: int = 3, stop_at_eos: bool = False) -> Reply:
    reply = Reply(asked=asked, sent_s=10.0)
    read_stream(reply, pieces, stop_at_eos)
    return reply


def test_times_are_those_of_the_pieces_that_complete_an_event():
    reply = read(
        (10.5, text("a") + text("b")[:9]),
        (11.0, text("b")[9:]),
        (13.0, text("c") + USAGE + DONE),
    )
    assert reply.fault is None
    assert (reply.text, reply.events_s) == ("abc", [10.5, 11.0, 13.0])
    assert reply.first_token_s == 0.5
    assert reply.gaps_s == [0.5, 2.0]
    assert reply.per_token_s == 1.25
    assert (reply.prompt_tokens, reply.tokens) == (9, 3)


def test_every_cut_of_the_stream_reads_the_same():
    stream = (text("ä") + b": keep-alive\n\n" + text("b") + text("世") + USAGE + DONE).replace(
        b"\n", b"\r\n"
    )
    for cut in range(len(stream)):
        reply = read((11.0, stream[:cut]), (12.0, stream[cut:]))
        assert (reply.text, reply.tokens, reply.fault) == ("äb世", 3, None), cut


def test_tokens_that_wait_for_a_whole_character_are_counted_by_usage():
    reply = read((10.5, text("a")), (11.5, text("é") + USAGE + DONE))
    assert (reply.fault, reply.tokens, len(reply.events_s)) == (None, 3, 2)
    assert reply.per_token_s == 0.5


def test_a_chats_opening_is_no_token():
    opening = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    thinking = event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    words = event({"choices": [{"delta": {"content": "a"}}]})
    end = event({"choices": [{"delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens": 2}
    last = event({"choices": [], "usage": usage})
    reply = read((10.1, opening), (10.2, thinking), (10.4, words + end + last + DONE), asked=2)
    assert reply.events_s == [10.2, 10.4]
    assert (reply.fault, reply.cached_tokens) == (None, 64)


@pytest.mark.parametrize(
    ("pieces", "fault", "detail"),
    [
        (text("a") + USAGE.replace(b"3}", b"2}") + DONE, SHORT, "2 of 3"),
        (text("a") + USAGE.replace(b"3}", b"4}") + DONE, "more tokens than asked", "4 of 3"),
        (text("a") + text("b") + DONE, SHORT, "2 of 3"),
        (text("a") + USAGE, "the stream ended before [DONE]", ""),
        (b"", "the stream ended before [DONE]", ""),
        (USAGE + DONE, "an answer without text", ""),
        (
            text("a") + event({"error": {"message": "not\nfinite"}}) + DONE,
            "error event",
            "not finite",
        ),
        (text("a") + b'error: {"error": {"message": "slot"}}\n\n', "error event", "slot"),
        (text("a") + b"data: {oops\n\n" + DONE, "an event that is no JSON object", "{oops"),
        (text("a") + b"data: [1]\n\n" + DONE, "an event that is no JSON object", "[1]"),
    ],
)
def test_wrong_answers_have_a_name(pieces, fault, detail):
    reply = read((11.0, pieces))
    assert (reply.fault, reply.detail) == (fault, detail)


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": {"0": {"text": "b"}}},
        {"choices": ["b"]},
        {"choices": [{"text": ["b"]}]},
        {"choices": [{"delta": "b"}]},
        {"choices": [{"delta": {"content": {"text": "b"}}}]},
        {"choices": [{"text": "b", "delta": {"content": 1}}]},
        {"usage": [3]},
        {"usage": {"completion_tokens": "3"}},
        {"usage": {"completion_tokens": 3.5}},
        {"usage": {"completion_tokens": -1}},
        {"usage": {"prompt_tokens": True}},
        {"usage": {"prompt_tokens": 10**400}},
        {"usage": {"prompt_tokens_details": 7}},
        {"usage": {"prompt_tokens_details": {"cached_tokens": {}}}},
    ],
)
def test_an_event_in_another_form_is_a_fault_and_nothing_else(odd):
    reply = read((11.0, text("a") + event(odd) + USAGE + DONE))
    assert reply.fault == "an event not in OpenAI's form"
    assert reply.detail == json.dumps(odd)[:200]


def test_what_an_event_does_not_have_may_be_null():
    nothing = {"text": None, "delta": {"content": None, "reasoning_content": None}}
    first = event({"choices": [nothing], "usage": None})
    last = event({"choices": None, "usage": {"prompt_tokens": None, "prompt_tokens_details": None}})
    reply = read((11.0, first + text("a") + USAGE + last + DONE))
    assert (reply.fault, reply.text, reply.prompt_tokens) == (None, "a", 9)


def test_an_answer_that_may_stop_early_is_not_short():
    stream = text("a") + USAGE.replace(b"3}", b"1}") + DONE
    assert read((11.0, stream), stop_at_eos=True).fault is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": {"message": "a\nb"}}, "a b"),
        ({"error": "plain"}, "plain"),
        ({"message": "m"}, "m"),
        ({"detail": 1}, "{'detail': 1}"),
        ([1], "[1]"),
    ],
)
def test_errors_of_all_shapes_have_words(answer, words):
    assert message_of(answer) == words
