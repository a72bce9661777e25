from __future__ import annotations

import pytest

from ling.data.assistant_events import (
    ContentDelta,
    EventWriter,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)


def write(*parts):
    """The content of a reply of these texts; None stands for a call."""
    out, events = EventWriter(), []
    for part in parts:
        if part is None:
            out.start("f")
            out.end(True)
        else:
            out.content(part)
        events += out.take()
    out.finish()
    return "".join(e.text for e in [*events, *out.take()] if isinstance(e, ContentDelta))


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        (["  \n"], "  \n"),
        ([" ", "\n", " a \n", "\n"], " \n a \n\n"),
        ([" \n", None], ""),
        ([" \n", None, "\n ", None, " \n"], ""),
        (["a\n", None], "a"),
        (["a\n", "\n", None], "a\n"),
        (["a \n", None, "\n"], "a "),
        (["a\n", None, "\n", " b", None], "a\n b"),
        ([None, "\n", " b\n"], "b\n"),
    ],
)
def test_white_space_is_content_only_beside_text(parts, content):
    assert write(*parts) == content
    letters = [c for part in parts for c in ([None] if part is None else part)]
    assert write(*letters) == content


def test_texts_of_one_kind_are_one_event_of_a_piece():
    out = EventWriter()
    out.content("a")
    out.content("b")
    out.start("f")
    out.arguments("{")
    out.arguments("}")
    out.end(True)
    out.start("g")
    out.arguments("")
    out.end(False)
    assert out.take() == [
        ContentDelta("ab"),
        ToolCallStart(0, "f"),
        ToolCallArguments(0, "{}"),
        ToolCallEnd(0, True),
        ToolCallStart(1, "g"),
        ToolCallEnd(1, False),
    ]
    assert out.take() == []
