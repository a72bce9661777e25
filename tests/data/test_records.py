"""Files that `ling data prepare` cannot read: named with the likely cause, without a hang."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal

import pytest

from ling.cli.main import main
from ling.data import records
from ling.errors import DataError

ROWS = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(20))
ARRAY = json.dumps([{"text": "a"}, {"text": "b"}])
TEXT, RECORDS = ("jsonl", "json", "txt"), ("jsonl", "json")
WRONG = {
    "empty file": b"",
    "gzip": gzip.compress(ROWS.encode()),
    "zip archive": b"PK\x03\x04" + bytes(100),
    "parquet": b"PAR1" + bytes(100),
    "UTF-16": ROWS.encode("utf-16"),
    "or UTF-16": ROWS.encode("utf-16-le"),
    "a pickle": pickle.dumps([{"text": "a"}]),
    "not UTF-8": "é\n".encode("latin-1"),
}
WRONG_LINES = {
    ":1: a JSON array": ARRAY.encode(),
    ":1: a JSON array; write one object": json.dumps([{"text": "a"}], indent=1).encode(),
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


def test_pipe_inside_a_folder_is_passed_over(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "a.jsonl")
    (folder / "b.txt").write_text("text")
    assert "1 documents with text" in refusal(folder, capsys)


def test_unreadable_file_is_named(tmp_path, capsys, monkeypatch):
    file = tmp_path / "text.jsonl"
    file.write_text(ROWS)
    monkeypatch.setattr(records.os, "access", lambda path, mode: False)  # root may read anything
    assert "permission denied" in refusal(file, capsys)


# ---- reading -----------------------------------------------------------------------------------


def test_lines_are_numbered_with_blank_ones_and_read_one_at_a_time(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes('\ufeff{"a": 1}\r\n\n{"a": "\\u00e9\u2028"}\n{"a": 3}'.encode())
    rows = records.read_jsonl(file)
    assert next(rows) == (1, {"a": 1})
    assert list(rows) == [(3, {"a": "é\u2028"}), (4, {"a": 3})]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1, "a": 2}', "the key `a` is there twice"),
        ('{"a": "\\ud800"}', "a lone surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "expected a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_first_bad_line_is_named(tmp_path, line, words):
    file = tmp_path / "x.jsonl"
    file.write_text(f'{{"a": 1}}\n\n{line}\n')
    with pytest.raises(DataError, match=rf"x\.jsonl:3.*{words}"):
        list(records.read_jsonl(file))


def test_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 10)
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n' + "x" * 100)
    with pytest.raises(DataError, match=r"x\.jsonl:2.*longer than 10 bytes"):
        list(records.read_jsonl(file))


def test_text_is_read_without_marks_of_windows(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeffé\r\nb\r\n".encode())
    assert records.read_text(file) == "é\nb\n"
    file.write_bytes(b"a\nb\n\xff\n")
    with pytest.raises(DataError, match=r"x\.txt:3.*not UTF-8"):
        records.read_text(file)
