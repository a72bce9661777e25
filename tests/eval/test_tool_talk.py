"""What counts as a right call, an end, and an answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ling.data.conversations.home import NAME, training_and_held_out
from ling.eval.tool_talk import SHARES, measure

RECORD = next(
    r
    for r in training_and_held_out()[1]
    if "set_light" in json.dumps(r["messages"][1])
)  # fmt: skip
INTRODUCTION = next(r for r in training_and_held_out()[1] if "tools" not in r)
WANTED = RECORD["messages"][1]["tool_calls"][0]["function"]
ANSWER = RECORD["messages"][3]["content"]


def call(name=WANTED["name"], arguments=WANTED["arguments"]):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Scripted:
    """Says `first` to a question and `second` to a result."""

    def __init__(self, first, second=ANSWER, ends=("stop", "stop")):
        self.says = dict(zip((1, 3), zip((first, second), ends, strict=True), strict=True))

    def chat(self, conversations, params, tools):
        assert tools in (RECORD["tools"], None)
        assert params.temperature == 0
        said = [self.says[len(messages)] for messages in conversations]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=text, finish_reason=end)])
            for text, end in said
        ]


@pytest.mark.parametrize(
    ("model", "holds"),
    [
        (Scripted(call()), {"stopped", "right_tool", "exact", "answered", "right_answer"}),
        (Scripted(call(), "Done."), {"stopped", "right_tool", "exact", "answered"}),
        (Scripted(call(), call()), {"stopped", "right_tool", "exact"}),
        (Scripted(call(), ends=("stop", "length")), {"right_tool", "exact", "right_answer"}),
        (Scripted(call(), ends=("length", "stop")), {"right_tool", "exact"}),
        (Scripted(call(arguments='{"room": "moon"}')), {"stopped", "right_tool"}),
        (Scripted(call("get_time", "{}")), {"stopped"}),
        (Scripted(call(arguments="[1]")), {"stopped"}),
        (Scripted(f"{call()}\n{call()}"), {"stopped"}),
        (Scripted(f"Well.\n{call()}"), {"stopped"}),
        (Scripted(call()[:-14]), {"stopped"}),
        (Scripted("I cannot."), {"stopped"}),
    ],
)
def test_what_counts(model, holds):
    score = measure(model, [RECORD], NAME)
    assert {name for name in SHARES if score.share(name)} == holds


@pytest.mark.parametrize(
    ("said", "end", "named"),
    [
        (f"I am {NAME}.", "stop", True),
        (f"I am {NAME}.", "length", False),
        ("I am another.", "stop", False),
        (f"I am {NAME}.\n{call()}", "stop", False),
    ],
)
def test_who_is_asked_gives_its_name(said, end, named):
    score = measure(Scripted(said, ends=(end, "stop")), [INTRODUCTION, RECORD], NAME)
    assert score.share("named") == named
    assert (len(score.talks), len(score.introductions)) == (1, 1)
    shown = score.as_dict()
    assert shown["introductions"][0]["said"] == said
    assert shown["named"] == named


def test_free_arguments_are_counted_by_themselves():
    timer = next(r for r in training_and_held_out()[1] if "minutes" in r["messages"][0]["content"])
    wanted = timer["messages"][1]["tool_calls"][0]["function"]
    right = Scripted(call(wanted["name"], wanted["arguments"]))
    score = measure(right, [timer, RECORD], NAME)
    shares = {name: score.share(name) for name in SHARES}
    assert shares.pop("free_exact") == shares.pop("stopped") == 1
    assert shares.pop("right_tool") == 0.5, "the other record wants another tool"
    assert not any(shares.values())
