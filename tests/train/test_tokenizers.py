"""Which tokenizer a run uses."""

from __future__ import annotations

import dataclasses

import pytest
from runs import quiet
from small_runs import recipes

from ling.checkpoint.hf.save import save_model
from ling.data.prepare import prepare
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.errors import UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.setup import setup

TEXTS = [f"word {n} of many words, and again {n * n}\n" * 9 for n in range(40)]


@pytest.fixture
def model(tmp_path):
    """A folder with weights and its own tokenizer."""
    cfg = preset("ling-tiny")
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(from_config(cfg, seed=0), cfg, folder)
    train_tokenizer(TEXTS, 300).save(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for n, t in enumerate(TEXTS):
        (folder / f"{n}.txt").write_text(t)
    return folder


@pytest.fixture
def make(tmp_path):
    def recipe(model, **data):
        base = recipes(tmp_path)(model=str(model), steps=1)
        data = {"prefix": [], "seq_length": 32, "vocab_size": 280, **data}
        return dataclasses.replace(base, data=dataclasses.replace(base.data, **data))

    return recipe


def test_a_model_folder_brings_its_tokenizer(make, model, text, tmp_path):
    said: list[str] = []
    assert loop.run(make(model, corpus=str(text)), tmp_path / "run", said.append) == 0
    own = Tokenizer.from_folder(model).vocabulary_hash
    assert Tokenizer.from_folder(tmp_path / "run/tokenizer").vocabulary_hash == own
    assert Tokenizer.from_folder(tmp_path / "run/data/tokenizer").vocabulary_hash == own
    assert any(str(model) in line and "tokenizer" in line for line in said)


def test_another_tokenizer_is_refused_unless_asked_for(make, model, text, tmp_path):
    other = tmp_path / "other"
    train_tokenizer(["qqq zzz"] * 99, 270).save(other)
    with pytest.raises(UsageError, match=r"another tokenizer .*--data.replace_tokenizer true"):
        setup(make(model, corpus=str(text), tokenizer=str(other)), tmp_path / "run", quiet)
    asked = make(model, corpus=str(text), tokenizer=str(other), replace_tokenizer=True)
    state = setup(asked, tmp_path / "run", quiet).state
    assert state.tokenizer.vocabulary_hash == Tokenizer.from_folder(other).vocabulary_hash
    new = make(model, corpus=str(text), replace_tokenizer=True)
    trained = setup(new, tmp_path / "new", quiet).state.tokenizer
    assert trained.vocabulary_hash != Tokenizer.from_folder(model).vocabulary_hash


def test_a_prefix_carries_the_tokenizer_along(make, model, text, tmp_path):
    ready = prepare([text], tmp_path / "data", tokenizer=model, log=quiet)
    run = setup(make(model, prefix=[str(ready.train_prefix)]), tmp_path / "run", quiet)
    assert run.state.tokenizer.eod_token_id is not None
    # Without a model's own: the one that was left beside the files.
    run = setup(make("ling-tiny", prefix=[str(ready.train_prefix)]), tmp_path / "run", quiet)
    assert run.state.tokenizer.eod_token_id is not None
    isolated = make("ling-tiny", prefix=[str(ready.train_prefix)], isolate_documents=True)
    assert setup(isolated, tmp_path / "run", quiet).reader.isolate_documents


def test_token_files_of_another_tokenizer_are_refused(make, model, text, tmp_path):
    ready = prepare([text], tmp_path / "data", vocab_size=270, log=quiet)
    with pytest.raises(UsageError, match=r"data.tokenizer: another tokenizer"):
        setup(make(model, prefix=[str(ready.train_prefix)]), tmp_path / "run", quiet)


def test_files_of_two_tokenizers_are_refused(make, text, tmp_path):
    one = prepare([text], tmp_path / "one", vocab_size=270, log=quiet)
    two = prepare([text], tmp_path / "two", vocab_size=280, log=quiet)
    prefixes = [str(one.train_prefix), str(two.train_prefix)]
    with pytest.raises(UsageError, match="one run needs one"):
        setup(make("ling-tiny", prefix=prefixes), tmp_path / "run", quiet)


def test_eod_mask_loss_without_a_tokenizer_says_that_it_does_nothing(make, tmp_path):
    said: list[str] = []
    recipe = make("ling-tiny", prefix=[str(tmp_path / "text")])
    setup(recipe, tmp_path / "run", said.append)
    assert [line for line in said if "`data.eod_mask_loss` has no effect" in line]
    said.clear()
    setup(
        make("ling-tiny", prefix=[str(tmp_path / "text")], eod_mask_loss=False),
        tmp_path / "run",
        said.append,
    )
    assert not [line for line in said if "no effect" in line]
