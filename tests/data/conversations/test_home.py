"""The records that fine-tuning is shown with: what is held out is new, and all of it is sound."""

from __future__ import annotations

import json
from collections import Counter

import jsonschema

from ling.data.conversations.home import NAME, TOOLS, training_and_held_out

PARAMETERS = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}


def calls_of(record):
    return [m["tool_calls"][0]["function"] for m in record["messages"] if "tool_calls" in m]


def asked(record):
    return [m["content"] for m in record["messages"] if m["role"] == "user"]


def test_what_is_held_out_is_never_trained_on():
    trained, held_out = training_and_held_out(held_out=50)
    old = {text for record in trained for text in asked(record)}
    new = [text for record in held_out for text in asked(record)]
    requests = [text for text, r in zip(new, held_out, strict=True) if calls_of(r)]
    assert len(set(requests)) == len(requests) == 60
    numbers = [
        {call["arguments"] for r in part for call in calls_of(r) if call["name"] == "set_timer"}
        for part in (trained, held_out)
    ]
    assert not numbers[0] & numbers[1]
    assert not old & set(new)
    assert len(old) > 400


def test_a_quarter_asks_for_the_time_and_some_for_the_model():
    trained, held_out = training_and_held_out(requests=400, held_out=50)
    tools = Counter(call["name"] for r in trained for call in calls_of(r))
    assert tools == {"set_light": 250, "get_time": 100, "set_timer": 50}
    turns = Counter(len(asked(r)) for r in trained)
    assert set(turns) == {1, 2, 3, 4}
    # Tools are there also where none is to be called; without them each is there twice.
    introductions = Counter("tools" in r for r in trained for _ in asked(r))
    assert 2 * (introductions[True] - 400) == introductions[False] > 60
    tools = Counter(call["name"] for r in held_out for call in calls_of(r))
    assert tools == {"set_light": 42, "get_time": 8, "set_timer": 10}
    named = [r for r in held_out if not calls_of(r)]
    assert Counter("tools" in r for r in named) == {True: len(named) / 2, False: len(named) / 2}
    assert all(NAME in r["messages"][1]["content"] for r in named)


def test_every_call_has_arguments_of_its_tool_and_an_answer_that_says_its_result():
    trained, held_out = training_and_held_out()
    for record in [*trained, *held_out]:
        messages = record["messages"]
        assert "{{" not in json.dumps(messages[-1])
        for n, message in enumerate(messages):
            if "tool_calls" not in message:
                continue
            roles = [m["role"] for m in messages[n - 1 : n + 3]]
            assert roles == ["user", "assistant", "tool", "assistant"]
            call = message["tool_calls"][0]["function"]
            jsonschema.validate(json.loads(call["arguments"]), PARAMETERS[call["name"]])
            result = json.loads(messages[n + 1]["content"])
            assert all(str(value) in messages[n + 2]["content"] for value in result.values())


def test_a_seed_decides_all_of_it():
    assert training_and_held_out(seed=1) == training_and_held_out(seed=1)
    assert training_and_held_out(seed=1) != training_and_held_out(seed=2)
