"""Experts in replies: readable as arrays, and only where they were asked for."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest

from ling.data.assistant import AssistantParser
from ling.errors import RequestError
from ling.outputs import StreamChunk
from ling.serve.chat_shape import ChatShape
from ling.serve.completion_shape import CompletionShape, Echo
from ling.serve.routed import Traced, traced
from ling.serve.schema.chat import ChatRequest
from ling.serve.schema.replies import ChatChoice
from ling.serve.stream import collect, usage_of
from ling.serve.turn import Turn

IDS = np.arange(24, dtype=np.int32).reshape(4, 3, 2)
WEIGHTS = IDS.astype(np.float32) / 8


def last(ids=IDS, weights=WEIGHTS):
    return StreamChunk("a", [97], None, "stop", routed_experts=ids, routed_expert_weights=weights)


def plain_turn():
    """All of its text is content."""
    return Turn(AssistantParser(parse_tools=False, reasoning="none"))


class Pieces:
    async def pieces(self):
        yield {0: StreamChunk("b", [98])}
        yield {0: last()}


def check(choice):
    """The fields of a choice in JSON are the arrays."""
    assert choice["routed_experts_shape"] == [4, 3, 2]
    for name, values, dtype in (
        ("routed_experts", IDS, np.int32),
        ("routed_expert_weights", WEIGHTS, np.float32),
    ):
        found = np.frombuffer(base64.b64decode(choice[name]), dtype).reshape(4, 3, 2)
        assert np.array_equal(found, values)


@pytest.mark.parametrize(
    "shape_of",
    [lambda: ChatShape("m", [plain_turn()], None), lambda: CompletionShape("m", False, [Echo()])],
    ids=["chat", "plain"],
)
def test_the_end_of_a_choice_has_its_experts(shape_of):
    shape = shape_of()
    answers = asyncio.run(collect(Pieces(), 1))
    check(json.loads(shape.whole(answers, usage_of(1, 2)).model_dump_json())["choices"][0])
    shape = shape_of()
    *before, end = [
        json.loads(event.model_dump_json())["choices"][0]
        for chunk in (StreamChunk("b", [98]), last())
        for event in shape.step(0, chunk)
    ]
    check(end)
    shape = shape_of()
    assert all("routed_experts" not in choice for choice in before)
    plain = shape.whole([StreamChunk("a", finish_reason="stop")], usage_of(1, 1))
    assert not {n for n in plain.model_dump()["choices"][0] if n.startswith("routed")}


@pytest.mark.parametrize(
    "shape_of",
    [lambda: ChatShape("m", [plain_turn()], None), lambda: CompletionShape("m", False, [Echo()])],
    ids=["chat", "plain"],
)
def test_events_have_the_experts_that_are_new(shape_of):
    """Also where nothing is shown yet, as within a character."""
    shape = shape_of()
    chunks = [
        StreamChunk("", [1], routed_experts=IDS[:3], routed_expert_weights=WEIGHTS[:3]),
        StreamChunk("é", [2], routed_experts=IDS[3:], routed_expert_weights=WEIGHTS[3:]),
        StreamChunk(
            "",
            [],
            finish_reason="length",
            routed_experts=IDS[4:],
            routed_expert_weights=WEIGHTS[4:],
        ),
    ]
    choices = [
        json.loads(event.model_dump_json())["choices"][0]
        for chunk in chunks
        for event in shape.step(0, chunk)
    ]
    assert [c.get("routed_experts_shape") for c in choices] == [[3, 3, 2], [1, 3, 2], None]
    rows = [np.frombuffer(base64.b64decode(c["routed_experts"]), np.int32) for c in choices[:2]]
    assert np.array_equal(np.concatenate(rows), IDS.ravel())


def test_a_chunk_without_a_trace_has_no_fields():
    assert traced(StreamChunk("a")) == {}
    assert traced(last(None, None)) == {}


def test_the_published_schema_has_the_fields():
    assert Traced.model_fields.keys() <= ChatChoice.model_json_schema(mode="serialization")[
        "properties"
    ].keys()  # fmt: skip


def test_the_field_is_true_or_false():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert ChatRequest(**body, return_routed_experts=True).return_routed_experts
    with pytest.raises((RequestError, ValueError)):
        ChatRequest(**body, return_routed_experts="yes")
    with pytest.raises((RequestError, ValueError)):
        ChatRequest(**body, routed_experts_start_len=True)
