"""LLaMA-Factory's `dataset_info.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ling.config.sft import ChatDataConfig
from ling.data.conversations.dataset_info import DataSet, DatasetInfo, Layout, chosen_files
from ling.data.conversations.records import read_records
from ling.data.conversations.types import Preference
from ling.errors import UsageError

TAGS = {
    "role_tag": "who",
    "content_tag": "says",
    "user_tag": "Q",
    "assistant_tag": "A",
    "observation_tag": "result",
    "function_tag": "call",
    "system_tag": "rules",
}


@pytest.fixture
def read(tmp_path):
    """Records of an entry of `dataset_info.json` whose file has these rows."""

    def read(entry, *rows, max_samples=None):
        (tmp_path / "dataset_info.json").write_text(
            json.dumps({"mine": {"file_name": "rows.json", **entry}})
        )
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        data = ChatDataConfig(files=["mine"], dataset_info=str(tmp_path), max_samples=max_samples)
        return list(read_records(data))

    return read


def test_columns_of_alpaca_have_other_names(read):
    columns = {
        "prompt": "question",
        "query": "more",
        "response": "answer",
        "system": "rules",
        "history": "past",
        "tools": "can",
    }
    row = {"question": "q", "more": "m", "answer": "a", "rules": "s", "past": [["x", "y"]]}
    (record,) = read({"columns": columns}, {**row, "can": '[{"name": "f"}]', "output": "other"})
    assert [m["content"] for m in record.messages] == ["s", "x", "y", "q\nm", "a"]
    assert record.tools == [{"type": "function", "function": {"name": "f"}}]


def test_columns_that_are_not_named_are_not_read(read):
    columns = {"prompt": "question", "response": "output"}
    (record,) = read({"columns": columns}, {"question": "q", "input": "x", "output": "a"})
    assert record.messages[0]["content"] == "q"


def test_an_error_names_the_column_as_the_file_does(read):
    columns = {"prompt": "question", "response": "answer"}
    (record,) = read({"columns": columns}, {"question": "q", "answer": 3})
    assert record.reason == "`answer` is `3`, expected a text"


def test_tags_name_keys_and_roles(read):
    said = [("rules", "s"), ("Q", "q"), ("call", '{"name": "f"}'), ("result", "r"), ("A", "a")]
    row = {"talk": [{"who": who, "says": text} for who, text in said]}
    entry = {"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS}
    (record,) = read(entry, row)
    roles = [m["role"] for m in record.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("formatting", ["sharegpt", "openai"])
def test_messages_are_found_under_their_usual_name(read, formatting):
    name = "messages" if formatting == "openai" else "conversations"
    row = {name: [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert len(read({"formatting": formatting}, row)[0].messages) == 2


def test_ranking_reads_pairs(read):
    columns = {"messages": "talk", "chosen": "good", "rejected": "bad"}
    entry = {"formatting": "sharegpt", "ranking": True, "columns": columns}
    row = {
        "talk": [{"from": "human", "value": "q"}],
        "good": {"from": "gpt", "value": "a"},
        "bad": {"from": "gpt", "value": "b"},
    }
    (record,) = read(entry, row)
    assert isinstance(record, Preference)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    entry = {"ranking": True, "columns": columns}
    assert isinstance(read(entry, {"q": "q", "good": "a", "bad": "b"})[0], Preference)


def test_the_smaller_number_of_samples_counts(read):
    rows = [{"instruction": "q", "output": "a"}] * 5
    assert len(read({"num_samples": 3}, *rows)) == 3
    assert len(read({"num_samples": 3}, *rows, max_samples=2)) == 2


REFUSED = {
    "`script_url`": {"script_url": "x.py"},
    "`cloud_file_name`": {"cloud_file_name": "s3://x"},
    "`images`": {"columns": {"images": "images"}},
    "`videos`": {"columns": {"videos": "v"}},
    "`audios`": {"columns": {"audios": "a"}},
    "`kto_tag`": {"columns": {"kto_tag": "label"}},
    "ling pretrain": {"columns": {"prompt": "text"}},
    '`formatting` is `"csv"`': {"formatting": "csv"},
    "(did you mean `formatting`?)": {"formating": "alpaca"},
    "(did you mean `messages`?)": {"columns": {"mesages": "x"}},
    "(did you mean `user_tag`?)": {"tags": {"usr_tag": "x"}},
    "`num_samples`": {"num_samples": -1},
    "`ranking`": {"ranking": "yes"},
    "`columns`": {"columns": [1]},
    "`prompt` is `3`": {"columns": {"prompt": 3}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_supported_is_refused_by_name(read, tmp_path, reason):
    with pytest.raises(UsageError) as caught:
        read(REFUSED[reason], {"instruction": "q", "output": "a"})
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'dataset_info.json'}: `mine`")


def test_an_entry_of_another_hub_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"a": {"ms_hub_url": "x/y"}, "b": {}}')
    info = DatasetInfo(tmp_path)
    with pytest.raises(UsageError, match="only `ms_hub_url`"):
        info.data_set("a")
    with pytest.raises(UsageError, match="neither `file_name`"):
        info.data_set("b")


def test_an_entry_of_the_hub_is_one_source(tmp_path):
    entry = {"hf_hub_url": "x/y", "folder": "python", "revision": "v1", "split": "s", "subset": "t"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}))
    found = DatasetInfo(tmp_path).data_set("a")
    assert found.source == "hf://datasets/x/y@v1/python/*"
    assert (found.split, found.subset) == ("s", "t")


def test_a_file_that_is_not_there_is_said_once(tmp_path):
    path = tmp_path / "data" / "dataset_info.json"
    with pytest.raises(UsageError) as raised:
        DatasetInfo(path)
    said = "No such file or directory; `data.dataset_info` names it or its folder"
    assert str(raised.value) == f"{path}: {said}"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "null"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(UsageError, match=r"dataset_info\.json: "):
        DatasetInfo(tmp_path)


@pytest.mark.parametrize(
    ("split", "subset", "expected"),
    [
        (None, None, ["en/train-00000-of-00002.jsonl", "zh/train.jsonl"]),
        (None, "en", ["en/train-00000-of-00002.jsonl"]),
        ("validation", "zh", ["zh/validation.jsonl"]),
        ("train_sft", None, []),
    ],
)
def test_files_are_chosen_by_split_and_subset(split, subset, expected):
    root = Path("/data")
    names = ["en/train-00000-of-00002.jsonl", "zh/train.jsonl", "zh/validation.jsonl"]
    data_set = DataSet("x", Layout(), None, split, subset)
    found = chosen_files([root / n for n in names], root, data_set)
    assert [f.relative_to(root).as_posix() for f in found] == expected


def test_files_that_name_no_split_are_all_of_train():
    root = Path("/data")
    files = [root / "a.jsonl", root / "test.jsonl"]
    assert chosen_files(files, root, DataSet("x", Layout())) == files[:1]
