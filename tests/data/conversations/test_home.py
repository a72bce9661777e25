"""The records that fine-tuning is shown with: what is held out is new, and all of it is sound."""

from __future__ import annotations

import json
from collections import Counter

import jsonschema

from ling.data.conversations.home import TOOLS, training_and_held_out

PARAMETERS = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}


def call_of(record):
    calls = record["messages"][1].get("tool_calls")
    return calls[0]["function"] if calls else None


def test_what_is_held_out_is_never_trained_on():
    trained, held_out = training_and_held_out(held_out=60)
    asked, new = ({r["messages"][0]["content"] for r in part} for part in (trained, held_out))
    assert len(new) == len(held_out) == 60
    assert not asked & new
    assert len(asked) > 300
    texts = [json.dumps(r) for r in trained]
    assert len(set(texts)) == len(texts)


def test_a_quarter_asks_for_the_time_and_some_for_the_model():
    trained, held_out = training_and_held_out(requests=400, held_out=60)
    tools = Counter(call["name"] if (call := call_of(r)) else None for r in trained)
    assert tools == {"set_light": 300, "get_time": 100, None: 32}
    assert Counter(call_of(r)["name"] for r in held_out) == {"set_light": 50, "get_time": 10}
    # Tools are there also where none is to be called.
    assert Counter("tools" in r for r in trained if call_of(r) is None) == {True: 16, False: 16}


def test_every_call_has_arguments_of_its_tool_and_an_answer_that_says_its_result():
    trained, held_out = training_and_held_out()
    for record in [*trained, *held_out]:
        roles = [m["role"] for m in record["messages"]]
        call = call_of(record)
        if call is None:
            assert roles == ["user", "assistant"]
            assert "{{" not in record["messages"][1]["content"]
            continue
        assert roles == ["user", "assistant", "tool", "assistant"]
        jsonschema.validate(json.loads(call["arguments"]), PARAMETERS[call["name"]])
        result = json.loads(record["messages"][2]["content"])
        assert all(value in record["messages"][3]["content"] for value in result.values())


def test_a_seed_decides_all_of_it():
    assert training_and_held_out(seed=1) == training_and_held_out(seed=1)
    assert training_and_held_out(seed=1) != training_and_held_out(seed=2)
