"""What the names of a recipe's files mean."""

from __future__ import annotations

import json

import pytest

from ling.config.sft import ChatDataConfig
from ling.data.conversations.files import sources
from ling.data.conversations.records import read_records
from ling.errors import DataError, UsageError

ROW = json.dumps({"instruction": "q", "output": "a"}) + "\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set on the hub, of which a copy is on this machine."""
    folder = tmp_path / "copy"
    for name in ("data/train-00000.jsonl", "data/train-00001.jsonl", "data/test.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(ROW)
    asked = []
    monkeypatch.setattr(
        "ling.data.conversations.files.dataset_folder", lambda name: asked.append(name) or folder
    )
    return asked


def test_a_data_set_of_the_hub_is_fetched_by_name(hub):
    data = ChatDataConfig(files=["hf://datasets/org/name"])
    assert len(list(read_records(data))) == 2
    assert hub == ["hf://datasets/org/name"]


def test_an_entry_of_dataset_info_is_fetched_from_the_hub(hub, tmp_path):
    entries = {"a": {"hf_hub_url": "org/name", "split": "test"}, "b": {"hf_hub_url": "org/name"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    data = ChatDataConfig(files=["a", "b"], dataset_info=str(tmp_path / "dataset_info.json"))
    assert [len(s.files) for s in sources(data, ["a", "b"])] == [1, 2]
    assert hub == ["hf://datasets/org/name"] * 2


def test_a_split_that_is_not_there_is_told(hub, tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"a": {"hf_hub_url": "o/n", "split": "x"}}')
    data = ChatDataConfig(files=["a"], dataset_info=str(tmp_path))
    with pytest.raises(DataError, match=r"no files of records of the split `x`.*train-00000"):
        sources(data, ["a"])


def test_a_path_beside_dataset_info_is_a_file(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "x.jsonl").write_text(ROW)
    data = ChatDataConfig(files=[str(tmp_path / "x.jsonl")], dataset_info=str(tmp_path))
    assert len(list(read_records(data))) == 1


def test_a_name_that_is_nothing_gets_the_closest(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"identity": {}}')
    data = ChatDataConfig(files=["identitty"], dataset_info=str(tmp_path))
    with pytest.raises(UsageError, match=r"did you mean `identity`\?"):
        list(read_records(data))


@pytest.mark.parametrize(
    ("name", "reason"), [("a.txt", "ling pretrain"), ("a.csv", "table"), ("a.py", "not run")]
)
def test_files_that_have_no_records_are_refused_by_their_name(tmp_path, name, reason):
    (tmp_path / name).write_text("text")
    with pytest.raises(DataError, match=reason):
        list(read_records(ChatDataConfig(files=[str(tmp_path / name)])))
