"""Files of all formats as records, and hostile ones as a clear error or as bad records."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.config.sft import ChatDataConfig
from ling.data import records as json_records
from ling.data.conversations.records import read_records
from ling.data.conversations.types import BadRecord, Conversation, Preference, Tokens
from ling.errors import DataError

ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": TOOL}


@pytest.fixture
def read(tmp_path):
    def read(*rows, name="x.jsonl", **config):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(list(rows), indent=1))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return list(read_records(ChatDataConfig(files=[str(path)], **config)))

    return read


def read_bytes(tmp_path, data: bytes, name="x.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return list(read_records(ChatDataConfig(files=[str(path)])))


def texts(record: Conversation) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in record.messages]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.parquet"])
def test_messages_are_read_from_each_kind_of_file(read, name):
    system = {"role": "system", "content": "s"}
    one, two = read({"messages": [system, ASK, SAY]}, {"messages": [ASK, SAY, ASK]}, name=name)
    assert texts(one) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert one.in_loss == [False, False, True]
    assert two.in_loss == [False, True, False]
    assert (one.tools, one.notes, two.origin.line) == (None, [], 2)


def test_the_packaged_records_of_llama_factory_are_read():
    path = resources.files("ling") / "data" / "conversations" / "identity.json"
    found = list(read_records(ChatDataConfig(files=[str(path)])))
    assert len(found) == 91
    assert texts(found[0])[0] == ("user", "hi")
    assert all(record.in_loss == [False, True] for record in found)


def test_sharegpt_is_read_with_calls_results_and_tools_in_a_text(read):
    call = '{"name": "f", "arguments": {"b": 1, "a": [2]}}'
    turns = [("human", "q"), ("function_call", call), ("observation", "r"), ("gpt", "a")]
    row = {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "tools": json.dumps([TOOL]),
        "system": "s",
    }
    (record,) = read(row)
    roles = [m["role"] for m in record.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert record.messages[2]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}}
    ]
    assert record.in_loss == [False, False, True, False, True]
    assert record.tools == [WRAPPED]


def test_alpaca_joins_its_input_and_trains_the_history(read):
    row = {"instruction": "i", "input": "x", "output": " a\n", "history": [["q", "r"]]}
    one, two = read(row, {"instruction": "i", "input": "", "output": "a", "system": "s"})
    assert texts(one) == [
        ("user", "q"),
        ("assistant", "r"),
        ("user", "i\nx"),
        ("assistant", " a\n"),
    ]
    assert one.in_loss == [False, True, False, True]
    assert texts(two) == [("system", "s"), ("user", "i"), ("assistant", "a")]


@pytest.mark.parametrize(
    "keys", [("prompt", "completion"), ("query", "response"), ("prompt", "response")]
)
def test_a_prompt_and_its_answer_are_texts_or_messages(read, keys):
    as_texts, as_messages = read(
        dict(zip(keys, (" q ", "\na "), strict=True)),
        dict(zip(keys, ([ASK, SAY, ASK], [SAY]), strict=True)),
    )
    assert texts(as_texts) == [("user", " q "), ("assistant", "\na ")]
    assert as_texts.in_loss == [False, True]
    assert as_messages.in_loss == [False, False, False, True]


def test_ids_are_read_with_and_without_labels(read):
    row = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]}
    one, two = read(row, {"input_ids": [4, 5]})
    assert isinstance(one, Tokens)
    assert (one.input_ids, one.labels) == ([1, 2, 3], [-100, 2, 3])
    assert two.labels == [4, 5]


@pytest.mark.parametrize("key", ["weight", "loss", "train", "loss_weight"])
@pytest.mark.parametrize("off", [0, 0.0, False])
def test_a_weight_of_zero_keeps_an_answer_out_of_the_loss(read, key, off):
    (record,) = read({"messages": [ASK, {**SAY, key: off}, ASK, {**SAY, key: 1}]})
    assert record.in_loss == [False, False, False, True]
    assert all(key not in m for m in record.messages)


def test_only_the_last_answer_is_trained_on_request(read):
    rows = {"messages": [ASK, SAY, ASK, SAY, ASK]}, {"messages": [ASK, SAY, ASK, SAY | {"loss": 0}]}
    one, two = read(*rows, mask_history=True)
    assert one.in_loss == [False, False, False, True, False]
    assert two.in_loss == [False, True, False, False]


def test_parts_of_the_v1_format_become_reasoning_text_and_calls(read):
    call = {"name": "f", "arguments": {"a": 1}}
    parts = [
        {"type": "reasoning", "value": "r"},
        {"type": "text", "value": "t"},
        {"type": "tool_call", "value": json.dumps(call)},
        {"type": "tool_call", "value": json.dumps(call)},
    ]
    user = {"role": "user", "content": [{"type": "text", "value": "q"}], "loss_weight": 0.0}
    answer = {"role": "assistant", "content": parts, "loss_weight": 1.0}
    (record,) = read({"messages": [user, answer]})
    said = record.messages[1]
    assert (said["reasoning_content"], said["content"]) == ("r", "t")
    assert [c["function"] for c in said["tool_calls"]] == [call, call]


def test_null_means_absent_everywhere(read):
    answer = {"role": "assistant", "content": None, "weight": None, "reasoning_content": None}
    call = {"id": None, "type": "function", "function": {"name": "f", "arguments": None}}
    row = {
        "messages": [{**ASK, "tool_calls": None, "name": None}, {**answer, "tool_calls": [call]}],
        "tools": None,
        "system": None,
        "images": None,
        "label": None,
    }
    (record,) = read(row)
    assert record.messages == [
        ASK,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
        },
    ]
    assert record.in_loss == [False, True]


def test_keys_that_arrow_adds_to_arguments_are_gone(read):
    def row(arguments):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"messages": [ASK, {"role": "assistant", "tool_calls": [call]}]}

    one, two = read(row({"a": "x", "c": {"d": 1}}), row({"b": [1, 2]}), name="x.parquet")
    found = [r.messages[1]["tool_calls"][0]["function"]["arguments"] for r in (one, two)]
    assert found == [{"a": "x", "c": {"d": 1}}, {"b": [1, 2]}]


def test_what_a_text_holds_stays_text(read):
    text = "{{ 7 * 7 }}{% for %}<|role_end|></s> ../../etc/passwd <role>ASSISTANT</role>\u2028x\x00"
    (record,) = read({"messages": [{"role": "user", "content": text}, SAY]})
    assert record.messages[0]["content"] == text


def test_marks_line_ends_and_blank_lines_are_accepted(tmp_path):
    row = json.dumps(
        {"messages": [{"role": "user", "content": "a\u2028b"}, SAY]}, ensure_ascii=False
    )
    data = b"\xef\xbb\xbf" + f"\r\n{row}\r\n\r\n{row}".encode()
    found = read_bytes(tmp_path, data)
    assert [r.origin.line for r in found] == [2, 4]


def test_packed_files_are_read(tmp_path):
    row = json.dumps({"messages": [ASK, SAY]}).encode()
    assert len(read_bytes(tmp_path, gzip.compress(row + b"\n" + row), "x.jsonl.gz")) == 2


def test_a_file_can_be_read_in_part(read):
    assert len(read(*[{"messages": [ASK, SAY]}] * 5, max_samples=3)) == 3


BAD = {
    '`messages[0].role` is `"robot"`': {"messages": [{"role": "robot", "content": "x"}, SAY]},
    "(did you mean `assistant`?)": {"messages": [ASK, {"role": "assistent", "content": "x"}]},
    "`messages[0]` has no `role`": {"messages": [{"content": "x"}, SAY]},
    "no turn of the assistant": {"messages": [ASK]},
    "no conversation": {"messages": None, "id": 3},
    "expected a list of messages": {"messages": "q"},
    '`messages[1]` is `"a"`': {"messages": [ASK, "a"]},
    "`messages[0].content` is `3`": {"messages": [{"role": "user", "content": 3}, SAY]},
    "`messages[0].content` is null": {"messages": [{"role": "user", "content": None}, SAY]},
    "begins with a system or a user": {"messages": [SAY, ASK, SAY]},
    "`messages[1]` is a system message": {"messages": [ASK, {**ASK, "role": "system"}, SAY]},
    "expected 0 or 1": {"messages": [ASK, {**SAY, "weight": 0.5}]},
    "contradicts another": {"messages": [ASK, {**SAY, "weight": 0, "train": True}]},
    "without content and without calls": {"messages": [ASK, {"role": "assistant"}]},
    "`tools` does not parse": {"messages": [ASK, SAY], "tools": "[{"},
    "expected a list of tools": {"messages": [ASK, SAY], "tools": {"name": "f"}},
    "`tools[0].function`": {"messages": [ASK, SAY], "tools": [{"description": "x"}]},
    '`tools[0].type` is `"web"`': {"messages": [ASK, SAY], "tools": [{"type": "web"}]},
    "only text can be trained on": {
        "messages": [{"role": "user", "content": [{"type": "image_url"}]}, SAY]
    },
    "expected a text": {"instruction": 3, "output": "a"},
    "no `output`": {"instruction": "i", "input": "x"},
    "nothing is asked": {"instruction": "", "output": "a", "input": ""},
    "expected two texts": {"instruction": "i", "output": "a", "history": [["q"]]},
    "`input_ids[1]` is `-1`": {"input_ids": [1, -1]},
    "`labels` are 1, but": {"input_ids": [1, 2], "labels": [1]},
    "not to be shifted": {"input_ids": [1, 2, 3], "labels": [2, 3, -100]},
    "expected a list of ids": {"input_ids": []},
    "`messages[1].tool_calls[0].arguments` does not parse": {
        "messages": [ASK, {**SAY, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]
    },
    'arguments` is `"[1]"`, expected an object': {
        "messages": [ASK, {**SAY, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]
    },
    "expected an object": [1],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_record_that_cannot_be_used_is_named_and_the_next_is_read(read, reason):
    good = {"messages": [ASK, SAY]}
    for name in ("x.jsonl", "x.json"):
        one, bad, two = read(good, BAD[reason], good, name=name)
        assert isinstance(bad, BadRecord)
        assert reason in bad.reason
        assert "\n" not in bad.reason
        assert bad.origin.line == 2
        assert [one.in_loss, two.in_loss] == [[False, True]] * 2


LINES = {
    "not JSON": b'{"messages": [',
    "the key `role` is there twice": b'{"messages": [{"role": "user", "role": "user"}]}',
    "a lone surrogate": b'{"messages": "\\ud800"}',
    "nested too deeply": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"messages": "\xff"}',
    "too many digits": b'{"messages": ' + b"1" * 5000 + b"}",
    "longer than": b'{"messages": "' + b"x" * (3 << 20) + b'"}',
}


@pytest.mark.parametrize("reason", LINES)
def test_a_line_that_is_no_record_is_passed_over(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(json_records, "MAX_RECORD_CHARS", 1 << 20)
    good = json.dumps({"messages": [ASK, SAY]}).encode()
    found = read_bytes(tmp_path, b"\n".join([good, b"", LINES[reason], good]))
    assert [type(r) for r in found] == [Conversation, BadRecord, Conversation]
    assert [r.origin.line for r in found] == [1, 3, 4]
    assert reason in found[1].reason


WHOLE = {
    "empty file": b"",
    "gzip": gzip.compress(b"{}"),
    "pickle": pickle.dumps([1]),
    "UTF-16 without": '{"messages": 1}'.encode("utf-16-le"),
    "no records": b"\n\n",
    "over several lines": b'{\n "messages": []\n}',
    ":1: plain text (`text`)": b'{"text": "a"}\n{"text": "b"}\n',
    ":1: a KTO record (`label` is `true`)": b'{"messages": [], "label": true}',
    ":1: `images` is given": b'{"messages": [], "images": ["a.png"]}',
    "an HTML page": b"<!doctype html>",
}


@pytest.mark.parametrize("reason", WHOLE)
def test_a_file_that_is_not_for_fine_tuning_is_refused(tmp_path, reason):
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, WHOLE[reason])
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    "reason", ["the key `role` is there twice", "a lone surrogate", "too many digits"]
)
def test_an_element_of_an_array_is_passed_over(tmp_path, reason):
    good = json.dumps({"messages": [ASK, SAY]}).encode()
    long = LINES[reason].replace(b'{"', b'{"id": "' + b"x" * (2 << 20) + b'", "', 1)
    found = read_bytes(tmp_path, b"[" + b",".join([good, long, good]) + b"]", "x.json")
    assert [type(r) for r in found] == [Conversation, BadRecord, Conversation]
    assert reason in found[1].reason
    assert found[1].origin.line == 2


@pytest.mark.parametrize("data", [b'[{"messages": []}', b"[1,", b"[{]", b"[] []", b"[]"])
def test_a_broken_array_is_refused(tmp_path, data):
    with pytest.raises(DataError, match=r"x\.json"):
        read_bytes(tmp_path, data, "x.json")


def test_folders_pipes_and_missing_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.jsonl")
    for name in ("", "fifo.jsonl", "missing.jsonl"):
        with pytest.raises(DataError):
            list(read_records(ChatDataConfig(files=[str(tmp_path / name)])))


def test_a_wrong_kind_behind_good_records_is_one_bad_record(read):
    found = read({"messages": [ASK, SAY]}, {"text": "plain"}, {"messages": [ASK, SAY]})
    assert [type(r) for r in found] == [Conversation, BadRecord, Conversation]


def test_a_given_format_is_taken_for_all_records(read):
    row = {"instruction": "i", "output": "a", "messages": [ASK, SAY], "label": True}
    assert texts(read(row, format="alpaca")[0]) == [("user", "i"), ("assistant", "a")]
    assert texts(read(row, format="messages")[0]) == [("user", "q"), ("assistant", "a")]
    assert "no `prompt`" not in str(read(row, format="prompt_response"))
    assert isinstance(read(row, format="preference")[0], BadRecord)


def test_pairs_are_told_by_their_keys(read):
    assert isinstance(read({"prompt": "q", "chosen": "a", "rejected": "b"})[0], Preference)


KEYS = (
    *("messages", "conversations", "role", "from", "content", "value", "tool_calls", "function"),
    *("name", "arguments", "tools", "weight", "type", "chosen", "rejected", "prompt", "completion"),
    *("instruction", "output", "input", "history", "input_ids"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner | st.sampled_from(["user", "assistant", "tool", "[]", "{}", "text"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(row=JSON)
def test_no_record_ends_in_a_traceback(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("rows", numbered=True) / "x.jsonl"
    good = {"messages": [ASK, SAY]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    found = list(read_records(ChatDataConfig(files=[str(path)])))
    assert len(found) == 2
    if isinstance(found[1], Conversation):
        assert len(found[1].messages) == len(found[1].in_loss)
        roles = [m["role"] for m in found[1].messages]
        assert all(r == "assistant" for r, on in zip(roles, found[1].in_loss, strict=True) if on)
