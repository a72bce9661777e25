from __future__ import annotations

import json

import pytest

from ling.data.indexed import IndexedDataset
from ling.data.prepare import prepare
from ling.data.tokenizer import Tokenizer
from ling.errors import DataError, UsageError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for k in range(12):
        (folder / f"m{k}.py").write_text(f"def f{k}():\n    return {k}\n" * 20)
    return folder


def quiet(*args, **kwargs):
    return prepare(*args, vocab_size=kwargs.pop("vocab_size", 300), log=lambda _: None, **kwargs)


def test_tokens_are_those_of_the_documents_each_on_one_side(source, tmp_path):
    done = quiet([source], tmp_path / "out", valid_fraction=0.3)
    tok = Tokenizer.from_folder(done.tokenizer_folder)
    texts = {}
    for name, prefix in (("train", done.train_prefix), ("valid", done.valid_prefix)):
        data = IndexedDataset(prefix)
        rows = [data.get(i).tolist() for i in range(len(data))]
        assert all(row[-1] == tok.eod_token_id for row in rows)
        texts[name] = [tok.decode(row) for row in rows]
        assert done.stats[f"{name}_tokens"] == data.num_tokens
        assert done.stats[f"{name}_documents"] == len(data)
    held = [json.loads(line)["text"] for line in done.valid_text.read_text().splitlines()]
    assert texts["valid"] == held
    assert held
    assert sorted(texts["train"] + held) == sorted(p.read_text() for p in source.iterdir())
    again = quiet([source], tmp_path / "again", valid_fraction=0.3)
    for one, other in zip(done.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_prepare_is_reused_and_refuses_other_settings(source, tmp_path):
    first = quiet([source], tmp_path / "out")
    before = first.train_prefix.with_suffix(".bin").stat().st_mtime_ns
    again = quiet([source], tmp_path / "out")
    assert again.stats == first.stats
    assert first.train_prefix.with_suffix(".bin").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="vocab_size"):
        quiet([source], tmp_path / "out", vocab_size=320)
    first.train_prefix.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"missing or not \d+ bytes long"):
        quiet([source], tmp_path / "out")


@pytest.mark.parametrize(
    "change", [{"valid_fraction": 0.0}, {"valid_fraction": 1.0}, {"max_bytes": 0}]
)
def test_impossible_settings_are_named(source, tmp_path, change):
    with pytest.raises(UsageError, match=f"`{next(iter(change))}` is"):
        quiet([source], tmp_path / "out", **change)


def test_bad_jsonl_names_the_line(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a"}\n\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"x.jsonl:3"):
        quiet([file], tmp_path / "out")


def test_empty_corpus_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        quiet([tmp_path / "empty"], tmp_path / "out")
