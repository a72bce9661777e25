"""Units of a corpus: whatever they are, their documents are those of the corpus, in its order."""

from __future__ import annotations

import json

import pytest

from ling.data.corpus import Corpus
from ling.data.reading import Seen
from ling.data.units import Unit, units
from ling.errors import DataError


def write(path, rows, blank=()):
    lines = [("" if i in blank else json.dumps(row)) + "\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))


def cut(corpus, monkeypatch, size=2000):
    monkeypatch.setattr("ling.data.units.MIN_UNIT_BYTES", size)
    found = units(corpus)
    again = [Unit.from_json(u.number, json.loads(json.dumps(u.as_json()))) for u in found]
    assert [u.size for u in again] == [u.size for u in found]
    return again


def read(corpus, found):
    seen = Seen()
    documents = [d for u in found for d in corpus.reading.documents(u.entries, seen)]
    return documents, seen


def same(corpus, found):
    whole = list(corpus)
    documents, seen = read(corpus, found)
    assert documents == whole
    assert seen.without_text.as_dict() == corpus.seen.without_text.as_dict()
    assert seen.keys.as_dict() == corpus.seen.keys.as_dict()


def test_lines_are_cut_with_their_numbers(tmp_path, monkeypatch):
    rows = [{"content": f"{i} " * (i % 40), "n": i} for i in range(300)]
    write(tmp_path / "x.jsonl", rows, blank={0, 7, 150, 151})
    corpus = Corpus([tmp_path / "x.jsonl"])
    found = cut(corpus, monkeypatch)
    assert len(found) > 5
    same(corpus, found)


def test_a_share_of_the_documents_does_not_depend_on_units(tmp_path, monkeypatch):
    write(tmp_path / "x.jsonl", [{"text": f"{i} some words"} for i in range(500)])
    corpus = Corpus([tmp_path / "x.jsonl"], max_bytes=5000)
    same(corpus, cut(corpus, monkeypatch))


@pytest.mark.parametrize("text", ["one text " * 900, json.dumps([{"text": "a b"}] * 900)])
def test_what_is_read_from_its_start_is_one_unit(tmp_path, monkeypatch, text):
    (tmp_path / "x.json").write_text(text)
    (tmp_path / "y.txt").write_text("words " * 900)
    corpus = Corpus([tmp_path])
    found = cut(corpus, monkeypatch)
    assert len(found) == 2
    same(corpus, found)


def test_small_files_share_a_unit(tmp_path, monkeypatch):
    for i in range(30):
        (tmp_path / f"{i:02}.txt").write_text("word " * (i + 1))
    corpus = Corpus([tmp_path])
    found = cut(corpus, monkeypatch, 500)
    assert 3 < len(found) < 12
    same(corpus, found)


def test_row_groups_are_cut_with_their_numbers(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"content": [f"{i} " * 99 for i in range(200)], "n": list(range(200))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10, compression=None)
    corpus = Corpus([tmp_path / "x.parquet"])
    found = cut(corpus, monkeypatch)
    assert len(found) > 5
    same(corpus, found)


def test_a_bad_line_has_its_number_in_the_file(tmp_path, monkeypatch):
    write(tmp_path / "x.jsonl", [{"text": f"{i} some words"} for i in range(500)])
    corpus = Corpus([tmp_path / "x.jsonl"])
    found = cut(corpus, monkeypatch)
    lines = (tmp_path / "x.jsonl").read_bytes().split(b"\n")
    for line, bad in ((400, b'{"text": 12345678901234}'), (400, b'{"text": "\xff901234567"}')):
        broken = [*lines]
        broken[line - 1] = bad.ljust(len(lines[line - 1]))[: len(lines[line - 1])]
        (tmp_path / "x.jsonl").write_bytes(b"\n".join(broken))
        with pytest.raises(DataError, match=rf"x.jsonl:{line}: "):
            read(corpus, found)
