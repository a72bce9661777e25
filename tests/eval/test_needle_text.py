"""Sentences in prose: where they are hidden, how they are asked for, what counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scripted import small_tokenizer

from ling.checkpoint.hf.save import save_model
from ling.errors import DataError, UsageError
from ling.eval.needle import NeedleOptions, needle
from ling.eval.needle_rows import Row
from ling.eval.needle_text import TextNeedles, hidden
from ling.model.ling import from_config
from ling.presets import preset


@pytest.fixture
def folder(tmp_path):
    """A small model with a tokenizer of words, beside prose."""
    tokenizer = small_tokenizer()
    cfg = preset("ling-tiny").replace(
        vocab_size=tokenizer.vocab_size, max_position_embeddings=512, dtype="float32"
    )
    model = tmp_path / "model"
    model.mkdir()
    save_model(from_config(cfg, seed=1), cfg, model)
    tokenizer.save(model)
    return model


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("".join(f"Line {i} of a long tale. It goes on.\n" for i in range(400)))
    return str(path)


@pytest.mark.parametrize(
    ("depth", "found"),
    [
        (0.0, "N. One two. Three four. Five."),
        (0.5, "One two. N. Three four. Five."),
        (1.0, "One two. Three four. Five. N."),
    ],
)
def test_a_needle_stands_between_sentences(depth, found):
    assert hidden("N.", "One two. Three four. Five.", depth) == found


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_row_fits_its_length_and_has_its_number(folder, prose, chat, depth):
    needles = TextNeedles.open(folder, [prose], 400, chat=chat)
    row = needles.row(400, depth, 0, seed=0)
    assert 400 - 40 <= len(row.prompt) + needles.max_tokens <= 400
    text = needles.tokenizer.decode(row.prompt, skip_special_tokens=False)
    assert text.count(f" is {row.answer}.") == 1
    assert row.prompt == needles.row(400, depth, 0, seed=0).prompt
    at = text.index(f" is {row.answer}.") / len(text)
    assert at < 0.35 if depth == 0 else at > 0.35


@pytest.mark.parametrize(
    ("said", "is_right"),
    [(" 4821.", True), ("It is 4821, I think; not 1.", True), (" 48210", False), ("none", False)],
)
def test_the_first_number_counts(folder, prose, said, is_right):
    needles = TextNeedles.open(folder, [prose], 100, chat=False)
    assert needles.is_right(Row([1], "4821"), SimpleNamespace(text=said)) is is_right


def test_a_model_without_a_tokenizer_and_short_prose_are_refused(folder, prose, tmp_path):
    with pytest.raises(DataError, match="too few for rows of 1000000"):
        TextNeedles.open(folder, [prose], 1_000_000, chat=False)
    needles = TextNeedles.open(folder, [prose], 100, chat=False)
    with pytest.raises(UsageError, match="a length of 30 tokens has no room for a needle"):
        needles.row(30, 0.5, 0, 0)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="no tokenizer in it, which sentences need"):
        TextNeedles.open(folder, [prose], 100, chat=False)


def test_an_engine_is_asked_in_words(folder, prose, tmp_path):
    options = NeedleOptions(lengths=(256,), depths=(0.5,), rows=2, text=(prose,), chat=True)
    result = needle(str(folder), tmp_path / "out", options, log=str)
    assert result["needles"] == "text"
    assert result["scalings"][0]["name"] == "as configured"
