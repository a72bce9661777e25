"""Server-Sent Events: what is sent when, and how a stream ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from ling.data.assistant import AssistantParser
from ling.errors import RequestError
from ling.outputs import Logprob, StreamChunk
from ling.serve.chat_shape import ChatShape
from ling.serve.completion_shape import CompletionShape, Echo
from ling.serve.schema.common import StreamOptions
from ling.serve.schema.replies import Delta
from ling.serve.stream import (
    DONE,
    KEEP_ALIVE,
    EventStream,
    collect,
    events,
    sse_data,
    usage_of,
)
from ling.serve.turn import Turn


def chunk(text="", token_ids=(), finish_reason=None, num_cached_tokens=0):
    """New text, each token with a mark of its own."""
    logprobs = [{i: Logprob(-0.5, 1, chr(i))} for i in token_ids]
    return StreamChunk(
        text=text,
        token_ids=list(token_ids),
        logprobs=logprobs,
        text_offsets=list(range(len(token_ids))),
        finish_reason=finish_reason,
        num_cached_tokens=num_cached_tokens,
    )


def plain_turn():
    """All of its text is content."""
    return Turn(AssistantParser(parse_tools=False, reasoning="none"))


def chat_shape(top_logprobs=None, num_choices=1, options=None):
    return ChatShape("m", [plain_turn() for _ in range(num_choices)], top_logprobs, options)


class Pieces:
    """A generation whose pieces are known: each (choice, chunk), or what came for several choices
    at once; None is silence, and an exception among them is raised in its turn."""

    def __init__(self, *items):
        self.items = [dict([item]) if isinstance(item, tuple) else item or {} for item in items]
        self.num_open = max(1, sum(map(num_ended, self.items)))

    async def pieces(self, idle_s=None):
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            self.num_open -= num_ended(item)
            yield item


def num_ended(item):
    """Choices that end with this piece."""
    chunks = item.values() if isinstance(item, dict) else ()
    return sum(chunk.finish_reason is not None for chunk in chunks)


# ---- shapes ------------------------------------------------------------------------------------


def test_a_chat_step_is_text_and_then_the_reason_alone():
    shape = chat_shape(num_choices=2)
    (text,) = shape.step(1, chunk("ab", [97]))
    (delta,) = text.choices
    assert (delta.index, delta.delta, delta.logprobs) == (1, Delta(content="ab"), None)
    text, end = shape.step(0, chunk("c", [99], "stop"))
    assert [e.choices[0].finish_reason for e in (text, end)] == [None, "stop"]
    assert end.choices[0].delta == Delta()
    assert shape.step(0, chunk()) == []  # half a character: nothing to say yet
    assert text.id == end.id != chat_shape().step(0, chunk("x"))[0].id


def test_tokens_without_text_are_sent_where_their_scores_are_asked_for():
    (event,) = chat_shape(0).step(0, chunk("", [97]))
    assert [t.token for t in event.choices[0].logprobs.content] == ["a"]
    (event,) = CompletionShape("m", True, [Echo()]).step(0, chunk("", [97]))
    assert event.choices[0].logprobs.tokens == ["a"]
    assert CompletionShape("m", False, [Echo()]).step(0, chunk("", [97])) == []


def test_offsets_of_a_choice_go_on_from_its_echo_and_not_from_its_neighbour():
    shape = CompletionShape("m", True, [Echo(text="abc"), Echo()])
    assert shape.opening(0)[0].choices[0].text == "abc"
    assert shape.opening(1) == []
    offsets = [
        shape.step(index, chunk("xy", [120, 121]))[0].choices[0].logprobs.text_offset
        for index in (0, 1, 0)
    ]
    assert offsets == [[3, 4], [0, 1], [3, 4]]  # of each chunk, behind the echo


def test_a_whole_reply_is_what_the_pieces_add_up_to():
    parts = ((1, chunk("b", [98])), (0, chunk("a", [97], "stop")), (1, chunk("c", [99], "length")))
    answers = asyncio.run(collect(Pieces(*parts), 2))
    assert [(a.text, a.token_ids, a.finish_reason) for a in answers] == [
        ("a", [97], "stop"),
        ("bc", [98, 99], "length"),
    ]
    chat = chat_shape(1, 2).whole(answers, usage_of(4, 3))
    assert [(c.index, c.message.content, c.finish_reason) for c in chat.choices] == [
        (0, "a", "stop"),
        (1, "bc", "length"),
    ]
    assert chat.usage.model_dump() == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    shape = CompletionShape("m", True, [Echo(text="p"), Echo()])
    plain = shape.whole(answers, usage_of(4, 3)).choices
    assert [c.text for c in plain] == ["pa", "bc"]
    assert plain[0].logprobs.text_offset == [1]


def test_cached_tokens_are_those_that_no_choice_computed():
    counts = [64, 0, 128, 192]
    parts = [(i, chunk("a", [97], "stop", n)) for i, n in enumerate(counts)]
    answers, usage = asyncio.run(collect(Pieces(*parts), 4)), usage_of(4, 4)
    echoes = [Echo()] * 4

    def cached(reply):
        return reply.usage.prompt_tokens_details.cached_tokens

    assert cached(chat_shape(None, 4).whole(answers, usage)) == 0
    assert cached(CompletionShape("m", False, echoes, n=2).whole(answers, usage)) == 0 + 128
    assert cached(CompletionShape("m", False, echoes).whole(answers, usage)) == sum(counts)
    *_, last, _ = sent((0, chunk("a", [97], "stop", 64)), options=StreamOptions(include_usage=True))
    assert json.loads(last[6:])["usage"]["prompt_tokens_details"] == {"cached_tokens": 64}


# ---- events ------------------------------------------------------------------------------------


def written(*items, options=None, num_choices=1):
    """What is written at a time."""
    shape = chat_shape(num_choices=num_choices, options=options)

    async def run():
        stream = events(
            Pieces(*items),
            shape,
            num_choices=num_choices,
            prompt_tokens=4,
            keep_alive_s=1.0,
        )
        return [text async for text in stream]

    return asyncio.run(run())


def lines_of(texts):
    """The events of a reply, each with its empty line."""
    return [f"{event}\n\n" for event in "".join(texts).split("\n\n")[:-1]]


def sent(*items, **options):
    return lines_of(written(*items, **options))


def test_every_choice_opens_before_any_goes_on_and_silence_is_a_comment():
    first, second, silence, text, done = sent(None, (1, chunk("a", [97])), num_choices=2)
    assert [json.loads(e[6:])["choices"][0]["index"] for e in (first, second, text)] == [0, 1, 1]
    assert (silence, done) == (KEEP_ALIVE, DONE)


def test_all_that_is_new_at_a_time_is_one_write():
    both = {0: chunk("a", [97]), 1: chunk("b", [98])}
    ends = {0: chunk("c", [99], "stop"), 1: chunk("d", [100], "stop")}
    usage = StreamOptions(include_usage=True)
    writes = written(None, both, ends, num_choices=2, options=usage)
    assert [len(lines_of([text])) for text in writes] == [2, 1, 2, 4 + 2]
    assert writes[-1].endswith(DONE)


def test_a_failure_on_the_way_is_an_event_and_the_stream_still_ends():
    for error, told in (
        (RequestError("given up", status=503), "given up"),
        (RuntimeError("secret"), "the server failed on this request"),
    ):
        *_, last, done = sent((0, chunk("a", [97])), error)
        assert json.loads(last[6:])["error"]["message"] == told
        assert done == DONE


def test_usage_is_written_only_where_it_is_asked_for():
    pieces = [(0, chunk("a", [97])), (0, chunk("bc", [98, 99], "stop"))]

    def usages(**options):
        lines = sent(*pieces, options=StreamOptions(**options))[:-1]
        return [json.loads(e[6:]).get("usage", "absent") for e in lines]

    assert usages() == ["absent"] * 4
    *before, last = usages(include_usage=True)
    assert (before, last["completion_tokens"]) == ([None] * 4, 3)
    running = [u["completion_tokens"] for u in usages(continuous_usage_stats=True)]
    assert running == [0, 1, 3, 3]


def test_one_line_holds_an_event_wherever_python_splits_lines():
    text = sse_data('{"a": "b\x85c\u2028d\u2029e"}')
    assert text.endswith("\n\n")
    assert len(text.strip().splitlines()) == 1
    assert json.loads(text[6:]) == {"a": "b\x85c\u2028d\u2029e"}


@pytest.mark.parametrize("fails", ["nowhere", "at the start", "in the middle"])
def test_a_stream_is_closed_however_it_ends(fails):
    closed, messages = [], []

    async def content():
        yield "a"

    async def send(message):
        messages.append(message["type"])
        if fails == "at the start" or (fails == "in the middle" and len(messages) > 1):
            raise OSError("gone")

    async def receive():
        await asyncio.sleep(60)

    reply = EventStream(content(), lambda: closed.append(True))
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    try:
        asyncio.run(reply(scope, receive, send))
    except Exception:
        assert fails != "nowhere"
    assert closed == [True]
    assert reply.headers["cache-control"] == "no-cache"


# ---- in the app --------------------------------------------------------------------------------
