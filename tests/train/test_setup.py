"""From a recipe to a run: what is refused first, and where weights and data come from."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import quiet, write_tokens

from ling.config.recipe import DataConfig, PretrainConfig
from ling.data.indexed import IndexedDataset
from ling.data.tokenizer import train_tokenizer
from ling.errors import DataError, UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop, state
from ling.train.log import read_metrics
from ling.train.parallel.group import World
from ling.train.run_data import RunData, open_data
from ling.train.setup import model_config, require_same, setup
from ling.train.token_rows import contents_of

TINY = preset("ling-tiny")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "ling-tny"}, "did you mean `ling-tiny`"),
        ({"prefix": "nowhere"}, "nowhere"),
        ({"isolate_documents": True}, "data.tokenizer"),
        ({"valid_prefix": ["nowhere"]}, "nowhere"),
    ],
)
def test_recipe_that_cannot_start_leaves_no_folder(recipe, tmp_path, change, word):
    with pytest.raises((UsageError, DataError), match=word):
        loop.run(recipe(**change), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_corrected_recipe_is_not_refused_for_the_wrong_one(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError):
        loop.run(recipe(model="ling-tny"), tmp_path / "run", quiet)
    assert loop.run(recipe(steps=1), tmp_path / "run", quiet) == 0


class Two(World):
    """Rank 0 of two, whose other rank has other values in place of some."""

    def gather(self, value):
        return [value, self._of_the_other(value)]

    def _of_the_other(self, value):
        if isinstance(value, dict):
            return {key: self._of_the_other(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self._of_the_other(v) for v in value]
        return self.slow.get(value, value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"hash b": "x"}, "content of d/b.bin or .idx"),
        ({"hash v": "x"}, "content of d/v.bin or .idx"),
        ({"hash t": "x"}, "tokenizer"),
        ({"hash m": "x"}, "`model` (weights or configuration)"),
        ({7: 8}, "order of the data"),
    ],
)
def test_what_differs_between_ranks_is_named(other, words, monkeypatch):
    data = {"files": ["hash a", "hash b"], "tokenizer": "hash t", "train.seed": 7}
    here = SimpleNamespace(data=data, start="hash m")
    read = RunData(["d/a", "d/b"], ["d/b", "d/v"], None)
    monkeypatch.setattr(
        "ling.train.token_rows.fingerprints", lambda names: [f"hash {n[-1]}" for n in names]
    )
    rows = SimpleNamespace(contents=lambda: contents_of(read, data["files"]))
    require_same(Two(0, 2, {}), here, rows)
    with pytest.raises(UsageError, match=re.escape(f"rank 1 has another {words} than rank 0")):
        require_same(Two(0, 2, other), here, rows)


def test_ids_outside_the_vocabulary_are_found_before_the_first_step(recipe, tmp_path):
    write_tokens(tmp_path / "late")
    with (tmp_path / "late.bin").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write((384).to_bytes(2, "little"))
    with pytest.raises(DataError, match="384 is outside the vocabulary of 384"):
        loop.run(recipe(prefix="late"), tmp_path / "run", quiet)


def test_packed_documents_have_ends_without_a_tokenizer(recipe, tmp_path):
    said: list[str] = []
    open_data(
        recipe(isolate_documents=True, packing="best_fit"), TINY, tmp_path / "run", said.append
    )
    assert not said
    open_data(recipe(), TINY, tmp_path / "run", said.append)
    assert "ends of documents are unknown" in said[0]


def test_a_corpus_may_be_a_data_set_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/text.txt").write_text(
        "\n\n".join(f"words and words {k}" for k in range(300))
    )
    asked: list[str] = []

    def fetched(source):
        asked.append(source)
        return tmp_path / "cache"

    monkeypatch.setattr("ling.hub.datasets.dataset_folder", fetched)
    data = DataConfig(corpus="hf://datasets/org/words", vocab_size=300, seq_length=16)
    found = open_data(PretrainConfig(model="ling-tiny", data=data), TINY, tmp_path / "run", quiet)
    assert asked == ["hf://datasets/org/words"]
    assert IndexedDataset(found.train_prefixes[0]).num_tokens > 300


def test_a_split_trains_on_its_first_part_and_measures_the_second(recipe, tmp_path):
    split = recipe(split=[3, 1, 0], steps=1)
    done = setup(split, tmp_path / "run", quiet)
    # 40 documents of 100 tokens.
    assert len(done.reader.samples.document_index) == 30
    assert max(done.reader.samples.document_index) == 29
    assert loop.run(split, tmp_path / "run", quiet) == 0
    (row,) = read_metrics(tmp_path / "run/metrics.jsonl")
    assert row["valid_loss"] > 0
    said = []
    setup(recipe(split=[999, 1, 0]), tmp_path / "other", said.append)
    assert "0 tokens are less than a row, no held-out loss" in " ".join(said)


# ---- config ------------------------------------------------------------------------------------


def changed(recipe, **fields):
    for name, value in fields.items():
        object.__setattr__(recipe, name, value)
    return recipe


def test_overrides_change_fields_of_the_preset(recipe):
    assert model_config(recipe()) == TINY
    more = changed(recipe(), model_overrides={"num_hidden_layers": 2, "rope_theta": 1e4})
    assert model_config(more) == TINY.replace(num_hidden_layers=2, rope_theta=1e4)
    wrong = changed(recipe(), model_overrides={"num_hidden_layer": 2})
    with pytest.raises(UsageError, match=r"num_hidden_layer` is not .*`num_hidden_layers`"):
        model_config(wrong)


def test_rows_longer_than_the_context_are_refused(recipe):
    with pytest.raises(UsageError, match=r"= 513 is above the model's .* = 512: set it"):
        model_config(recipe(seq_length=513))
    assert model_config(recipe(seq_length=512)) == TINY


def test_a_folder_with_a_config_alone_starts_at_random(recipe, tmp_path):
    (tmp_path / "config").mkdir()
    cfg = TINY.replace(n_group=1, topk_group=1)
    (tmp_path / "config/config.json").write_text(json.dumps(cfg.to_dict()))
    made = recipe(model=str(tmp_path / "config"))
    assert model_config(made).n_group == 1
    model = setup(made, tmp_path / "run", quiet).state.model
    want = from_config(model.config, seed=42)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, want.state_dict()[name]), name


# ---- data --------------------------------------------------------------------------------------


def recipe_on(data):
    return PretrainConfig(model="ling-tiny", data=data)


def test_held_out_data_that_fills_no_row_is_said_and_left_out(tmp_path):
    for name, tokens in (("train", 400), ("valid", 400), ("short", 40)):
        write_tokens(tmp_path / name, tokens=tokens)
    said = []
    names = [str(tmp_path / n) for n in ("train", "short", "valid")]
    data = DataConfig(prefix=names[:1], valid_prefix=names[1:], seq_length=40)
    found = setup(recipe_on(data), tmp_path / "run", said.append)
    assert found.held_out.samples.dataset.idx == Path(f"{names[2]}.idx")
    assert f"{names[1]}: 40 tokens are less than a row, no held-out loss" in said


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    train_tokenizer(["def f(x):", "import os"] * 10, 300).save(tmp_path)
    write_tokens(tmp_path / "text")
    data = DataConfig(prefix=[str(tmp_path / "text")], tokenizer=str(tmp_path))
    found = open_data(recipe_on(data), TINY, tmp_path / "run", quiet)
    assert found.eod == found.tokenizer.eod_token_id is not None
    with pytest.raises(UsageError, match=r"has \d+ ids, the model `vocab_size` = 100"):
        open_data(recipe_on(data), TINY.replace(vocab_size=100), tmp_path / "run", quiet)
    corpus = DataConfig(corpus="stdlib", vocab_size=385)
    with pytest.raises(UsageError, match=r"`data.vocab_size` = 385 is above the model's .* = 384"):
        open_data(recipe_on(corpus), TINY, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


# ---- model -------------------------------------------------------------------------------------


def test_bfloat16_is_the_type_of_products_and_not_of_parameters(recipe, tmp_path):
    made = recipe()
    object.__setattr__(made.train, "dtype", "bfloat16")
    model = setup(made, tmp_path / "run", quiet).state.model
    assert model.compute_dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert setup(recipe(), tmp_path / "run", quiet).state.model.compute_dtype is None


def test_model_folder_is_the_start_and_overrides_may_not_change_its_shapes(recipe, tmp_path):
    from ling.convert.plan import convert

    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    convert(tmp_path / "run", tmp_path / "hf", to="float32")
    more = recipe(model=str(tmp_path / "hf"))
    again = setup(more, tmp_path / "more", quiet).state.model
    trained = setup(recipe(), tmp_path / "x", quiet).state
    state.load(tmp_path / "run/checkpoints/step-6", trained)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    object.__setattr__(more, "model_overrides", {"moe_intermediate_size": 64})
    with pytest.raises(UsageError, match="shapes of the weights"):
        setup(more, tmp_path / "more", quiet)
