"""Rows of conversations as a run asks for them: steps of epochs, lengths, tokenizer, changes."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from runs import quiet
from sft_runs import TINY, make_recipe, write_model, write_records

from ling.config.sft import SFTTrainConfig
from ling.errors import UsageError
from ling.train.chat_rows import ChatRows, open_tokenizer, steps_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_model(folder / "base")
    write_records(folder / "chat.jsonl")
    return folder


@pytest.fixture
def rows(folder, tmp_path):
    def make(**keys):
        return ChatRows(make_recipe(folder, **keys), TINY, tmp_path / "run", quiet)

    return make


@pytest.mark.parametrize(("rows", "want"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_the_last_step_of_epochs_may_begin_another(rows, want):
    assert steps_of(SFTTrainConfig(global_batch_size=8), rows) == want


def test_a_batch_that_grows_takes_more_steps():
    train = SFTTrainConfig(global_batch_size=8, rampup_batch_size=[2, 2, 24])
    steps = steps_of(train, 40)
    assert train.rows(steps) >= 40 > train.rows(steps - 1)


def test_epochs_are_resolved_and_steps_win(rows):
    one, two = (rows(steps=0, epochs=e).recipe.train.steps for e in (1.0, 2.0))
    assert 0 < one < two <= 2 * one + 1
    assert rows(steps=3, epochs=2.0).recipe.train.steps == 3


def test_rows_have_one_length_where_ranks_share_them(rows):
    made = partial(rows, steps=4, data={"packing": "off", "valid_share": 0.25})
    state = type("State", (), {"step": 0, "rows": 0, "left_out": []})()

    def lengths(source):
        read = [source.reader(state).samples, source.held_out().samples]
        return {len(samples[i].tokens) for samples in read for i in range(min(len(samples), 6))}

    assert len(lengths(made())) > 1
    assert lengths(made(parallel={"pp": 2})) == lengths(made(parallel={"cp": 2})) == {128}


def test_a_share_that_holds_nothing_out_is_told(rows, monkeypatch):
    said, few = [], {"valid_share": 1e-9}
    source = rows(data=few)
    monkeypatch.setattr(source, "log", said.append)
    assert source.held_out() is None
    assert "`data.valid_share` = 1e-09 leaves no record to measure" in said[0]
    with pytest.raises(UsageError, match=r"which `train.early_stop` needs"):
        rows(data=few, early_stop=2, eval_interval_steps=1).held_out()
    assert rows().held_out() is None


def test_documents_are_isolated_but_in_the_packing_of_the_original(rows):
    assert rows().isolate_documents
    assert rows(data={"packing": "off"}).isolate_documents
    assert not rows(data={"packing": "megatron"}).isolate_documents


def test_a_difference_is_named_by_its_key_first(rows, folder, tmp_path):
    one = rows()
    now = one.identity()
    assert one.change(now, now) is None
    before = {**now, "data.packing": "off", "files": ["x"], "tokenizer": "y"}
    assert "`data.packing` was off" in one.change(before, now)
    assert "tokenizer is another" in one.change({**now, "files": ["x"], "tokenizer": "y"}, now)
    assert "chat.jsonl, or how they are read" in one.change({**now, "files": ["x"]}, now)


def test_a_tokenizer_is_needed_that_fits(folder, tmp_path):
    made = make_recipe(folder)
    assert open_tokenizer(made, TINY).vocab_size <= TINY.vocab_size
    with pytest.raises(UsageError, match="it is another model's"):
        open_tokenizer(made, TINY.replace(vocab_size=64))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors.index.json"):
        source = folder / "base" / name
        if source.exists():
            (tmp_path / "bare" / name).write_bytes(source.read_bytes())
    bare = dataclasses.replace(made, model=str(tmp_path / "bare"))
    with pytest.raises(UsageError, match=r"no tokenizer in it; name one with `data.tokenizer`"):
        open_tokenizer(bare, TINY)
