"""Files that `ling data prepare` cannot read: named with the likely cause, without a hang."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import sys

import pytest

from ling.cli.main import main
from ling.data import plaintext

ROWS = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(20))
TEXT, RECORDS = ("jsonl", "json", "txt"), ("jsonl", "json")
WRONG = {
    "empty file": b"",
    "gzip": gzip.compress(ROWS.encode()),
    "zip archive": b"PK\x03\x04" + bytes(100),
    "parquet": b"PAR1" + bytes(100),
    "not UTF-16": ROWS.encode("utf-16")[:-1],
    "or UTF-16": ROWS.encode("utf-16-le"),
    "a pickle": pickle.dumps([{"text": "a"}]),
    "not UTF-8": "这是一个中文句子\n".encode("gbk"),
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\nsize 12\n",
}
WRONG_LINES = {
    ":2: not JSON, or cut off": b'[{"text": "a"},\n{"text": }]',
    ":2: not a JSON array": b'[{"text": "a"},\n{"text": "b"}',
    ":1: something after the end": b'[{"text": "a"}] []',
    ":2: the key `text` is there twice": b'[{"text": "a"},\n{"text": "b", "text": "c"}]',
    ":1: a lone surrogate": b'[{"text": "\\ud800"}]',
    ":2: `text` is `3`, expected a text": b'[{"text": "a"},\n{"text": 3}]',
    ":1: `3`, expected a JSON object": b"[3]",
    ":1: no key with text; its keys are `id`, `poem`": b'{"id": 1, "poem": "a"}\n',
    ":1: an HTML page": b"<!DOCTYPE html>\n<html></html>",
    "not UTF-8; iconv": '{"text": "größe"}\n'.encode("latin-1"),
    ":1: a JSON object over several lines": json.dumps({"data": []}, indent=1).encode(),
    "pickle": pickle.dumps([{"text": "a"}], protocol=0),
    ":2: not JSON": b'{"text": "a"}\nnonsense\n',
    "0 documents with text": b"\n \n",
}


@pytest.fixture(autouse=True)
def _no_hang():
    def late(number, frame):
        raise TimeoutError("waits for a writer that never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(source, capsys) -> str:
    """The one line of `data prepare SOURCE`, after the checks that hold for all of them."""
    out = source.parent / "out"
    code = main(["data", "prepare", str(source), "--vocab-size", "300", "--out", str(out)])
    printed, error = capsys.readouterr()
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"error: {source}")
    assert not out.exists()
    return error


@pytest.mark.parametrize(
    ("cause", "content", "ending"),
    [(cause, WRONG[cause], ending) for cause in WRONG for ending in TEXT]
    + [(cause, WRONG_LINES[cause], ending) for cause in WRONG_LINES for ending in RECORDS],
)
def test_wrong_content_is_named(tmp_path, capsys, cause, content, ending):
    file = tmp_path / f"text.{ending}"
    file.write_bytes(content)
    assert cause in refusal(file, capsys)


@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_what_is_no_file_is_named_at_once(tmp_path, capsys, ending):
    file = tmp_path / f"text.{ending}"
    assert "no such file" in refusal(file, capsys)
    os.mkfifo(file)
    assert "a pipe or device" in refusal(file, capsys)
    link = tmp_path / f"link.{ending}"
    link.symlink_to(file)
    assert "a pipe or device" in refusal(link, capsys)
    loop = tmp_path / f"loop.{ending}"
    loop.symlink_to(loop)
    assert "symbolic links" in refusal(loop, capsys)
    folder = tmp_path / f"folder.{ending}"
    folder.mkdir()
    assert "no text files in this folder" in refusal(folder, capsys)


def test_folder_without_text_says_what_it_has(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(50))
    assert "no text files in this folder, left out 1: binary data" in refusal(folder, capsys)
    (folder / "a.bin").unlink()
    (folder / "b.jsonl").write_text('{"id": 1}\n')
    assert "left out 1: without a text key (keys: `id`) (b.jsonl)" in refusal(folder, capsys)


def test_one_character_cannot_be_split(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("x\n")
    assert "a single character of text" in refusal(tmp_path / "x.txt", capsys)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(bytes(100 << 20)), "binary data"),
        (gzip.compress(b"a" * (100 << 20)), "unpacks to more than 200 times its size"),
        (gzip.compress(ROWS.encode())[:-9], "damaged or cut off"),
        (b"no gzip", "damaged or cut off"),
    ],
)
def test_bad_gzip_is_named(tmp_path, capsys, content, reason):
    for name in ("x.txt.gz", "x.jsonl.gz"):
        (tmp_path / name).write_bytes(content)
        assert reason in refusal(tmp_path / name, capsys)


def test_parquet_that_is_none_or_has_no_text(tmp_path, capsys, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    assert "not parquet, or damaged" in refusal(file, capsys)
    pq.write_table(pa.table({"id": [1, 2], "poem": ["a", "b"]}), file)
    assert "no key with text; its keys are `id`, `poem`" in refusal(file, capsys)
    pq.write_table(pa.table({"text": [1, 2]}), file)
    assert "the column `text` is int64" in refusal(file, capsys)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'ling[data]'" in refusal(file, capsys)


def test_unreadable_file_is_named(tmp_path, capsys, monkeypatch):
    file = tmp_path / "text.jsonl"
    file.write_text(ROWS)
    monkeypatch.setattr(plaintext.os, "access", lambda path, mode: False)  # root may read anything
    assert "permission denied" in refusal(file, capsys)
