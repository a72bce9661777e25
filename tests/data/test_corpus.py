"""What people have in their folders is read, or counted and named."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from ling.data import records
from ling.data.corpus import Corpus, documents
from ling.data.plaintext import BLOCK_BYTES, PIECE_CHARS
from ling.errors import DataError

LINE = "the quick brown fox jumps over the lazy dog\n"
FRENCH = "L’été, c’est «déjà» fini… où êtes-vous ?\n" * 20


def texts(*sources, **options):
    return {d.name: d.text for d in documents(sources, **options)}


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "raw", "text"),
    [
        ("crlf.txt", b"a\r\nb\r\n", "a\nb\n"),
        ("bom.txt", LINE.encode("utf-8-sig"), LINE),
        ("wide.txt", LINE.encode("utf-16"), LINE),
        ("wide.txt", LINE.encode("utf-32"), LINE),
        ("fr.txt", FRENCH.encode("cp1252"), FRENCH),
        ("de.txt", ("größe " * 200).encode("latin-1"), "größe " * 200),
        ("zh.txt", "这是一个句子。".encode(), "这是一个句子。"),
        ("a b.log", LINE.encode(), LINE),
        ("table.csv", b"a,b\n1,2\n", "a,b\n1,2\n"),
        ("noending", LINE.encode(), LINE),
        ("new\nline.rst", LINE.encode(), LINE),
        ("x.txt.gz", gzip.compress(LINE.encode(), mtime=0), LINE),
    ],
)
def test_text_of_any_encoding_and_ending_is_read(tmp_path, name, raw, text):
    (tmp_path / name).write_bytes(raw)
    (tmp_path / "z.txt").write_text("other")
    assert texts(tmp_path) == {name: text, "z.txt": "other"}
    assert "".join(texts(tmp_path / name).values()).rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    "raw",
    [
        "これは日本語の文章です。\n".encode("shift-jis") * 9,
        "这是一个中文句子。\n".encode("gbk") * 9,
        "Это русский текст.\n".encode("cp1251") * 9,
        "Zażółć gęślą jaźń, proszę państwa.\n".encode("cp1250") * 9,
        LINE.encode() * 9 + b"\xff\x00",
        bytes(range(256)),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
    ],
)
def test_what_may_be_anything_is_not_guessed(tmp_path, raw):
    (tmp_path / "a.txt").write_bytes(raw)
    (tmp_path / "b.txt").write_text(LINE)
    corpus = Corpus([tmp_path])
    assert [d.text for d in corpus] == [LINE.strip()]
    assert [v["names"] for v in corpus.left_out.as_dict().values()] == [["a.txt"]]


def test_links_pipes_and_hidden_files_in_a_folder(tmp_path):
    blobs, root = tmp_path / "blobs", tmp_path / "root"
    for folder in (blobs, root, root / ".git", root / "__pycache__"):
        folder.mkdir()
    (blobs / "x1").write_text("linked")
    (root / "own.txt").write_text("own")
    for name, target in {
        "a.txt": "../blobs/x1",
        "again.txt": "own.txt",
        "loop.txt": "loop.txt",
        "gone.txt": "gone",
        "zero.txt": "/dev/zero",
        "self": ".",
        "all": "/",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.txt")
    (root / "empty.txt").touch()
    (root / "blank.txt").write_text(" \n")
    corpus = Corpus([root])
    assert {d.name: d.text for d in corpus} == {"a.txt": "linked", "own.txt": "own"}
    found = {k: sorted(v["names"]) for k, v in corpus.left_out.as_dict().items()}
    assert found == {
        "link to a file that is read anyway": ["again.txt"],
        "broken link": ["gone.txt", "loop.txt"],
        "pipe, socket or device": ["pipe.txt", "zero.txt"],
        "link to a folder (give that folder itself)": ["all/", "self/"],
        "hidden": [".git/"],
        "folder of caches, tests or installed packages": ["__pycache__/"],
        "empty file": ["empty.txt"],
        "file without text": ["blank.txt"],
    }


def test_names_of_left_out_files_are_few_and_printable(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for i in range(30):
        (tmp_path / os.fsdecode(b"%02d\xff\n.bin" % i)).write_bytes(bytes(9))
    corpus = Corpus([tmp_path])
    (reason,) = corpus.left_out.as_dict().values()
    assert (reason["count"], len(reason["names"])) == (30, 10)
    assert reason["names"][0] == "00\\xff\n.bin"
    (line,) = corpus.left_out.lines()
    assert line.isprintable()
    assert line.startswith("30: ")
    assert line.endswith("...)")


def test_long_text_is_read_in_pieces_without_loss(tmp_path):
    lines = [f"{i} {LINE}" + "\n" * (i % 7 == 0) for i in range(40_000)]
    text = "".join(lines)
    assert len(text) > BLOCK_BYTES
    (tmp_path / "book.txt").write_text(text)
    (tmp_path / "b.txt").write_text("other")
    got = texts(tmp_path)
    assert got.pop("b.txt") == "other"
    assert "".join(got.values()) == text
    assert all(len(t) <= PIECE_CHARS and t.endswith("\n\n") for t in list(got.values())[:-1])


def test_one_text_file_is_split_by_paragraph(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\r\nmore\r\n\r\ntwo\r\n \t\r\n\r\nthree")
    assert texts(tmp_path / "x.txt") == {
        "x.txt#1": "one\nmore",
        "x.txt#2": "two",
        "x.txt#3": "three",
    }
    assert texts(tmp_path) == texts(tmp_path / "x.txt")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.ndjson"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_records_in_lines_and_arrays(tmp_path, name, pack):
    rows = [{"text": "a"}, {"text": None}, {"text": "  "}, {"id": 3}, {"text": "b\\ud83d\\ude00"}]
    file = tmp_path / (name if pack is bytes else name + ".gz")
    for raw, numbers in (
        (jsonl(*rows), "15"),
        (jsonl(*rows).replace("\n", "\r\n"), "15"),
        (json.dumps(rows), "15"),
        (json.dumps(rows, indent=2), "15"),
        ("\n\n" + jsonl(*rows), "37"),
    ):
        file.write_bytes(pack(raw.encode()))
        corpus = Corpus([file])
        want = {f"{file.name}#{n}": t for n, t in zip(numbers, ("a", rows[4]["text"]), strict=True)}
        assert {d.name: d.text for d in corpus} == want
        assert corpus.left_out.as_dict()["record without text"]["count"] == 3
    file.write_bytes(pack(json.dumps(["a", "b"]).encode("utf-16")))
    assert list(texts(file).values()) == ["a", "b"]


def test_array_longer_than_a_block_is_whole(tmp_path):
    rows = [{"text": LINE * (i % 50), "id": i} for i in range(2500)]
    (tmp_path / "x.json").write_text(json.dumps(rows, indent=1))
    assert list(texts(tmp_path / "x.json").values()) == [r["text"] for r in rows if r["text"]]


def test_too_long_record_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_RECORD_CHARS", 1000)
    for raw in (
        jsonl({"text": "a"}, {"text": "b" * 3_000_000}),
        '[\n{"text": "b' + "b" * 3_000_000,
    ):
        (tmp_path / "x.json").write_text(raw)
        with pytest.raises(DataError, match=r"x.json:2: longer than 1000 characters"):
            texts(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("row", "wanted", "text"),
    [
        ({"content": "a", "id": 1}, None, "a"),
        ({"content": "b", "text": "a"}, None, "a"),
        ({"content": "a", "text": {}}, None, "a"),
        ({"Text": "a"}, None, "a"),
        ({"poem": "a", "text": "b"}, "poem", "a"),
    ],
)
def test_key_of_the_text(tmp_path, row, wanted, text):
    (tmp_path / "x.jsonl").write_text(jsonl(row))
    assert list(texts(tmp_path / "x.jsonl", json_key=wanted).values()) == [text]


def test_wrong_key_names_the_keys_there_are(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n" + jsonl({"title": "a", "poem": "b"}))
    with pytest.raises(DataError, match=r"x.jsonl:2: no key `peom`; its keys are `title`, `poem`"):
        texts(tmp_path / "x.jsonl", json_key="peom")


def test_key_other_than_text_is_noted(tmp_path):
    (tmp_path / "x.jsonl").write_text(jsonl({"content": "a"}, {"content": "b"}))
    corpus = Corpus([tmp_path])
    list(corpus)
    assert corpus.notes.lines() == ["1: with the text under the key `content` (x.jsonl)"]


def test_folder_of_mixed_files_with_a_key(tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl({"poem": "one"}))
    (tmp_path / "b.json").write_text(json.dumps([{"poem": "two"}]))
    (tmp_path / "c.json").write_text('{\n "name": "x"\n}')
    (tmp_path / "d.txt").write_text("three")
    (tmp_path / "e.jsonl").write_text(jsonl({"label": 1}))
    corpus = Corpus([tmp_path], json_key="poem")
    assert [d.text for d in corpus] == ["one", "two", '{\n "name": "x"\n}', "three"]
    assert corpus.left_out.lines() == ["1: without a text key (keys: `label`) (e.jsonl)"]


def test_bad_record_in_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nnonsense\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: not JSON"):
        texts(tmp_path)


def test_parquet_rows(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = pa.array(["a", None, "c"])
    for kind in (column, column.dictionary_encode(), column.cast(pa.large_string())):
        pq.write_table(pa.table({"id": [1, 2, 3], "content": kind}), tmp_path / "x.parquet")
        corpus = Corpus([tmp_path])
        assert {d.name: d.text for d in corpus} == {"x.parquet#1": "a", "x.parquet#3": "c"}
        assert corpus.left_out.lines() == ["1: record without text (x.parquet#2)"]
    assert texts(tmp_path, json_key="content") == {"x.parquet#1": "a", "x.parquet#3": "c"}


def test_same_name_in_two_sources_is_two_documents(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
    want = {"x.txt": "a", "x.txt~2": "b"}
    assert texts(tmp_path / "a", tmp_path / "b") == want
    assert texts(tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt") == want


def test_share_of_a_long_file(tmp_path):
    (tmp_path / "x.txt").write_text((LINE + "\n") * 40_000)
    assert 100_000 < sum(map(len, texts(tmp_path / "x.txt", max_bytes=200_000).values())) < 300_000
