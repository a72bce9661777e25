"""What counts in each turn: form, choice, arguments, words."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ling.eval.turns import SHARES, measure_turns

LIST = {"type": "object", "properties": {"room": {"enum": ["hall", "office"]}}}
FREE = {"type": "object", "properties": {"minutes": {"type": "integer"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": form}}
    for name, form in (("set_light", LIST), ("set_timer", FREE))
]


def record(name, arguments):
    call = {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {
        "kind": name,
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "Now."},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "{}"},
            {"role": "assistant", "content": "Done."},
        ],
    }


LIGHT, TIMER = record("set_light", {"room": "hall"}), record("set_timer", {"minutes": 3})


def call(name="set_light", arguments='{"room": "hall"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Scripted:
    """Says `first` to a question and `second` to a result."""

    def __init__(self, first, second="Done.", end="stop"):
        self.says, self.end = {1: first, 3: second}, end

    def chat(self, conversations, params, tools):
        assert params.temperature == 0
        texts = [self.says[len(messages)] for messages in conversations]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=t, finish_reason=self.end)])
            for t in texts
        ]


@pytest.mark.parametrize(
    ("model", "want"),
    [
        (Scripted(call()), [1, 1, 1, 1, 1, 1]),
        (Scripted(call(), end="length"), [0, 1, 1, 1, 1, 1]),
        (Scripted(call(arguments='{"room": "office"}')), [1, 1, 1, 0, 1, 1]),
        (Scripted(call("set_timer", '{"minutes": 1}')), [1, 1, 0, 0, 1, 1]),
        (Scripted(call(arguments="[1]")), [1, 0.5, 0, 0, 1, 1]),
        (Scripted(call()[:-14]), [1, 0.5, 0, 0, 1, 1]),
        (Scripted(f"Well.\n{call()}"), [1, 0.5, 0, 0, 1, 1]),
        (Scripted(f"{call()}\n{call()}"), [1, 1, 0, 0, 1, 1]),
        (Scripted("I cannot."), [1, 1, 0, 0, 1, 1]),
        (Scripted(call(), "Done!"), [1, 1, 1, 1, 1, 0]),
        (Scripted(call(), call()), [1, 1, 1, 1, 0, 0]),
        (Scripted(call(), ""), [1, 0.5, 1, 1, 0, 0]),
    ],
)
def test_what_counts(model, want):
    found = measure_turns(model, [LIGHT])
    names = [name for name in SHARES if name not in ("formed_and_stopped", "exact_free")]
    assert [found.share(name) for name in names] == want
    assert found.share("exact_free") is None, "no argument of the record is free"
    assert found.share("formed_and_stopped") == min(want[0], want[1])


def test_a_call_where_no_tool_is_offered_is_not_in_form():
    greeting = {"messages": [{"role": "user", "content": "Hi"}, LIGHT["messages"][3]]}
    found = measure_turns(Scripted(call()), [greeting])
    assert (found.share("formed"), found.share("words_without_call")) == (0, 0)
    assert measure_turns(Scripted("Done."), [greeting]).share("formed") == 1


def test_kinds_and_free_arguments_are_counted_apart():
    found = measure_turns(Scripted(call("set_timer", '{"minutes": 3}')), [LIGHT, TIMER])
    assert (found.share("exact_free"), found.share("exact_listed")) == (1, 0)
    kinds = found.by_kind()
    assert [kinds[k]["right_tool"] for k in ("set_light", "set_timer")] == [0, 1]
    assert found.shares()["turns"] == 4
    (missed,) = found.missed(5)
    assert missed["kind"] == "set_light"
    assert json.loads(missed["wanted"])[0]["name"] == "set_light"


def test_words_that_a_record_counts_as_right_are_right_at_its_end_only():
    record = {**LIGHT, "answers": ["Done.", "It is done."], "is_new": [True]}
    found = measure_turns(Scripted(call(), "It is done."), [record, TIMER])
    assert [turn.exact for turn in found.turns if not turn.calls] == [True, False]
    assert len(found.of_new().turns) == 2
    said = measure_turns(Scripted("It is done."), [record])
    assert not said.turns[0].exact, "a call was due there"


def test_strict_keeps_calls_to_the_tools_that_are_offered_and_words_free():
    model = Scripted(call())
    asked = []
    says = model.chat
    model.chat = lambda talks, params, tools: asked.append(params) or says(talks, params, tools)
    plain = {**LIGHT, "tools": None, "messages": LIGHT["messages"][:1] + LIGHT["messages"][3:]}
    measure_turns(model, [LIGHT, plain], strict=True)
    grammar, nothing = (params.structured_outputs for params in asked)
    assert [tool.name for tool in grammar.tools.tools] == ["set_light", "set_timer"]
    assert grammar.tools.tools[0].parameters == LIST
    assert not grammar.tools.required
    assert nothing is None
