"""What counts as a right call, an end, and an answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ling.data.conversations.home import training_and_held_out
from ling.eval.tool_talk import measure, read_talks

RECORD = next(
    r
    for r in training_and_held_out()[1]
    if "set_light" in json.dumps(r["messages"][1])
)  # fmt: skip
WANTED = RECORD["messages"][1]["tool_calls"][0]["function"]
ANSWER = RECORD["messages"][3]["content"]


def call(name=WANTED["name"], arguments=WANTED["arguments"]):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Scripted:
    """Says `first` to a question and `second` to a result."""

    def __init__(self, first, second=ANSWER, ends=("stop", "stop")):
        self.says = dict(zip((1, 3), zip((first, second), ends, strict=True), strict=True))

    def chat(self, conversations, params, tools):
        assert tools == RECORD["tools"]
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
    score = measure(model, [RECORD])
    shares = {k: v for k, v in score.as_dict().items() if k not in ("prompts", "talks")}
    assert {name for name, share in shares.items() if share} == holds


def test_requests_for_tools_are_read_in_order(tmp_path):
    trained, held_out = training_and_held_out()
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*trained[:40], *held_out]))
    found = read_talks(path, 20)
    assert len(found) == 20
    assert all(r["messages"][1]["tool_calls"] for r in found)
    assert measure(Scripted("no"), [RECORD, RECORD]).share("stopped") == 1
