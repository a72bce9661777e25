"""A seed decides the records, what is held out is new, and each fits its tools and the template."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from ling.data.chat import CHAT_TEMPLATE, ChatTemplate
from ling.data.conversations.fields import Row
from ling.data.conversations.formats import read_record
from ling.data.conversations.messages import Tags
from ling.data.conversations.supervise import supervise
from ling.data.conversations.types import Origin
from ling.data.tokenizer import train_tokenizer
from ling.nano.dialogues import KINDS, records
from ling.nano.dialogues.arithmetic import sum_key
from ling.nano.dialogues.offered import HELD_OUT_NAMES, TALKS
from ling.nano.dialogues.turns import Turn, is_held_out, plain

GLOSSES = [
    ("dog", "n", "a tame animal that barks (or howls); known to all"),
    ("cup", "n", "a small open container used for drinking"),
    ("run", "v", "move fast by using one's feet"),
    ("red", "a", "of the colour of blood"),
    ("hammer", "n", "a tool that hits"),
]


@pytest.fixture(scope="module")
def trained():
    return list(records("train", 0, 3000, GLOSSES))


@pytest.fixture(scope="module")
def held_out():
    return list(records("held_out", 0, 400, GLOSSES))


def questions(record):
    return [m["content"] for m in record["messages"] if m["role"] == "user"]


def calls_of(record):
    """(call, result, answer) of each call."""
    messages = record["messages"]
    for n, message in enumerate(messages):
        if "tool_calls" in message:
            assert [m["role"] for m in messages[n - 1 : n + 3]] == [
                "user", "assistant", "tool", "assistant",
            ]  # fmt: skip
            yield (
                message["tool_calls"][0]["function"],
                *(m["content"] for m in messages[n + 1 : n + 3]),
            )


def test_a_seed_decides_all_of_it_and_a_longer_count_only_adds():
    assert [*records("train", 1, 20)] == [*records("train", 1, 40)][:20]
    assert [*records("train", 1, 20)] != [*records("train", 2, 20)]
    assert [*records("held_out", 1, 20)] == [*records("held_out", 1, 40)][:20]
    assert len([*itertools.islice(records("train", 1), 30)]) == 30


def test_what_is_held_out_is_never_trained_on(trained, held_out):
    old = {plain(text) for record in trained for text in questions(record)}
    old_talks = {json.dumps(questions(record)) for record in trained}
    for record in held_out:
        if record["kind"] == "persona":  # its system text has the name, which is held out
            continue
        if record["kind"] in ("memory", "tool-asked-back", "tool-again"):
            assert json.dumps(questions(record)) not in old_talks
        else:
            assert plain(*questions(record)) not in old
    personas = [
        {r["messages"][0]["content"] for r in part if r["messages"][0]["role"] == "system"}
        for part in ([r for r in held_out if r["kind"] == "persona"], trained)
    ]
    assert personas[0]
    assert not personas[0] & personas[1]


def test_no_question_of_a_talk_about_a_tool_is_one_that_is_held_out_alone():
    talks = [r for r in records("train", 0, 20_000) if r["kind"] in TALKS]
    # The first of a talk that asks back has no value: "set a timer" is always trained on.
    asked = [q for t in talks for q in questions(t)[t["kind"] == "tool-asked-back" :]]
    assert len(asked) > 100
    assert not [text for text in asked if is_held_out(Turn(text, ()))]


def test_a_sum_that_is_held_out_is_in_no_call_of_a_calculator():
    made = [r for r in records("train", 0, 20_000) if "tools" in r]
    sums = [call["arguments"] for r in made for call, *_ in calls_of(r)]
    found = [re.search(r'"(\d+)([+-])(\d+)"', text) for text in sums]
    keys = [sum_key(int(a), op, int(b)) for a, op, b in (m.groups() for m in found if m)]
    assert len([key for key in keys if key]) > 100
    assert not [key for key in keys if key and is_held_out(Turn("", (), key=key))]


def test_what_names_a_thing_and_asks_for_nothing_has_no_opening(trained):
    asked = [q.lower() for record in trained for q in questions(record)]
    assert [q for q in asked if q.startswith("new message to ")]
    opened = re.compile(r"(can|want) you (to )?(a |new |for my |message to)")
    assert not [q for q in asked if opened.search(q)]


def test_the_last_question_of_a_talk_about_a_tool_is_new_only_by_the_name_of_the_tool(held_out):
    assert all(len(r["is_new"]) == len(questions(r)) for r in held_out)
    talks = [r for r in held_out if r["kind"] in TALKS]
    assert len(talks) > 10
    for record in talks:
        names = {call["name"] for call, *_ in calls_of(record)}
        assert record["is_new"][-1] == bool(names & HELD_OUT_NAMES)


def test_every_kind_is_in_both_and_new_wordings_only_in_one(trained, held_out):
    assert {r["kind"] for r in held_out} == set(KINDS)
    assert {r["kind"] for r in trained} <= {*KINDS, "mixed"}
    assert Counter("tools" in r for r in trained)[True] > 0.3 * len(trained)
    new = Counter(r["is_new"][-1] for r in held_out)
    assert min(new[True], new[False]) > 100
    names = {t["function"]["name"] for r in trained for t in r.get("tools", [])}
    assert {"fetch_weather", "toggle_light", "set_thermostat", "new_timer"} <= HELD_OUT_NAMES
    assert not names & HELD_OUT_NAMES


def test_every_call_has_arguments_of_its_tool_and_an_answer_that_says_what_it_returned(
    trained, held_out
):
    count = 0
    for record in [*trained, *held_out]:
        tools = {t["function"]["name"]: t["function"] for t in record.get("tools", [])}
        assert len(tools) == len(record.get("tools", []))
        for call, result, answer in calls_of(record):
            count += 1
            jsonschema.validate(json.loads(call["arguments"]), tools[call["name"]]["parameters"])
            if "error" in result:
                assert answer.startswith("Sorry, that did not work: ")
            if "weekday" not in result:
                assert numbers_of(result) <= numbers_of(answer) | numbers_of(call["arguments"])
    assert count > 2000


def numbers_of(text):
    return {word for word in plain(text).split() if word.isdigit()}


def test_arguments_are_in_what_the_user_said(trained):
    for record in trained:
        asked = ""
        for message in record["messages"]:
            if message["role"] == "user":
                asked += " " + message["content"]
            for call in message.get("tool_calls", []):
                for value in json.loads(call["function"]["arguments"]).values():
                    if not set(str(value)) & set("+*/-("):  # a formula is written in another way
                        assert str(value).lower() in asked.lower()


def test_each_is_read_as_a_conversation_whose_answers_are_trained(trained, held_out):
    template, tokenizer = (
        ChatTemplate(CHAT_TEMPLATE),
        train_tokenizer([json.dumps(r) for r in trained[:200]], 512),
    )
    for n, record in enumerate([*trained[:150], *held_out]):
        conversation = read_record(Row(record), "auto", Tags(), Origin(Path("made"), n))
        (sample,) = supervise(conversation, template, tokenizer)
        said = [m for m in record["messages"] if m["role"] == "assistant"]
        assert len(sample.spans) == len(said)
        for (start, end), message in zip(sample.spans, said, strict=True):
            text = sample.text[start:end]
            assert text.endswith("<|role_end|>")
            assert "tool_calls" in message or text == message["content"] + "<|role_end|>"
