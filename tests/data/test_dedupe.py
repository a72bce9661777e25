"""Duplicates: the first stays, the others are counted, whatever does the work."""

from __future__ import annotations

import json
import sys

import pytest

from ling.data.prepare import prepare
from ling.data.tokenizer import train_tokenizer
from ling.errors import UsageError

WORDS = [f"word{i}" for i in range(120)]


@pytest.fixture
def prepared(tmp_path):
    """Prepares texts and gives the result with all names that were held out or left out."""
    train_tokenizer(["the quick brown fox"] * 9, 300).save(tmp_path / "tok")

    def run(rows, out="out", **options):
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
        options = {"tokenizer": tmp_path / "tok", "log": lambda line: None, **options}
        ready = prepare([path], tmp_path / out, **options)
        return ready, json.loads((ready.folder / "prepared.json").read_text())["left_out"]

    return run


def test_the_same_text_is_kept_once(prepared):
    rows = [f"text number {i % 40} of some" for i in range(100)]
    ready, left_out = prepared(rows, dedupe="exact")
    names = [f"x.jsonl#{i}" for i in range(41, 51)]
    assert left_out == {"exact duplicate": {"count": 60, "names": names}}
    assert ready.stats["documents"] == 40
    once, _ = prepared(rows[:40], "once")
    for ours, theirs in zip(ready.files, once.files, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_units_do_not_matter(prepared, monkeypatch):
    rows = [f"text number {i * i % 70} of some" for i in range(300)]
    whole, before = prepared(rows, "whole", dedupe="exact")
    monkeypatch.setattr("ling.data.units.MIN_UNIT_BYTES", 1000)
    monkeypatch.setattr("ling.data.pool._WORTH_BYTES", 1)
    parts, after = prepared(rows, "parts", dedupe="exact")
    assert before == after
    assert whole.stats == parts.stats
    assert whole.train_prefix.with_suffix(".bin").read_bytes() == (
        parts.train_prefix.with_suffix(".bin").read_bytes()
    )


def test_nearly_the_same_text_is_kept_once(prepared):
    pytest.importorskip("rensa")
    rows = [" ".join(f"{k}{w}" for w in WORDS) for k in range(20)]
    near = [row.replace("word60", "other", 1) for row in rows[:5]]
    other = [" ".join(row.split()[:60] + WORDS[60:]) for row in rows[5:8]]
    _, left_out = prepared([*rows, *near, rows[0], *other], dedupe="near")
    assert {k: v["count"] for k, v in left_out.items()} == {
        "near duplicate": 5,
        "exact duplicate": 1,
    }
    _, left_out = prepared([*rows, *near], "exact", dedupe="exact")
    assert not left_out


def test_a_missing_package_is_named(prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UsageError, match=r"pip install 'ling\[dedupe\]'"):
        prepared(["one text", "another text"], dedupe="near")


def test_data_with_duplicates_is_other_data(prepared):
    prepared(["one text", "another text"])
    with pytest.raises(UsageError, match="`dedupe`"):
        prepared(["one text", "another text"], dedupe="exact")
    prepared(["one text", "another text"], "clean", dedupe="exact")
    with pytest.raises(UsageError, match="`dedupe`"):
        prepared(["one text", "another text"], "clean")
