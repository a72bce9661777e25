"""Fetched texts on the disk."""

from __future__ import annotations

import json

import pytest

from ling.data.packages import records, require
from ling.data.packages.catalogue import PACKAGES
from ling.data.packages.store import LAYOUT
from ling.errors import DataError, UsageError


def put(folder, lines, name="brown"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text(lines)
    about = {"source": PACKAGES[name].source, "layout": LAYOUT, "bytes": len(lines.encode())}
    (folder / f"{name}.json").write_text(json.dumps(about))


def test_records_come_in_the_order_of_the_file(tmp_path):
    put(tmp_path, '{"text": "a"}\n{"text": "é"}\n')
    require(["brown"], tmp_path)
    assert [r["text"] for r in records("brown", tmp_path)] == ["a", "é"]


def test_a_missing_package_names_the_command(tmp_path):
    put(tmp_path / "my texts", '{"text": "a"}\n')
    with pytest.raises(UsageError) as info:
        require(["brown", "wordnet", "bible"], tmp_path / "my texts")
    assert f"run `ling data fetch wordnet bible --out '{tmp_path}/my texts'`" in str(info.value)


def test_the_command_for_the_usual_folder_is_short(tmp_path, monkeypatch):
    monkeypatch.setenv("LING_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"run `ling data fetch brown`$"):
        list(records("brown"))


@pytest.mark.parametrize("about", ["{", "[]", '{"source": 3}', '{"layout": 0}'])
def test_what_is_not_stated_to_be_whole_is_not_used(tmp_path, about):
    put(tmp_path, '{"text": "a"}\n')
    (tmp_path / "brown.json").write_text(about)
    with pytest.raises(UsageError, match="no text of brown"):
        require(["brown"], tmp_path)


def test_a_file_that_was_cut_is_not_used(tmp_path):
    put(tmp_path, '{"text": "a"}\n')
    (tmp_path / "brown.jsonl").write_text("")
    with pytest.raises(UsageError, match="no text of brown"):
        require(["brown"], tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    put(tmp_path, '{"text": "a"}\n3\n')
    with pytest.raises(DataError, match=r"brown.jsonl:2: expected a JSON object"):
        list(records("brown", tmp_path))
