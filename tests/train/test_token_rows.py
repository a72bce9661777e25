"""Rows of token files as a run asks for them."""

from __future__ import annotations

from types import SimpleNamespace

from runs import quiet, write_tokens

from ling.config.recipe import DataConfig, PretrainConfig
from ling.presets import preset
from ling.train.token_rows import TokenRows, with_special_ids

TINY = preset("ling-tiny")


def test_special_ids_are_those_of_the_tokenizer():
    def tokenizer(eod, bos):
        return SimpleNamespace(eod_token_id=eod, token_to_id=lambda name: bos)

    assert with_special_ids(TINY, None) == TINY
    assert with_special_ids(TINY, tokenizer(None, 5)) == TINY
    for bos, want in ((5, 5), (None, 7)):
        got = with_special_ids(TINY, tokenizer(7, bos))
        assert (got.eos_token_id, got.pad_token_id, got.bos_token_id) == (7, 7, want)


def test_held_out_files_are_compared_and_read_in_order(tmp_path):
    names = [str(tmp_path / n) for n in ("train", "valid")]
    for seed, name in enumerate(names):
        write_tokens(name, seed=seed)
    data = DataConfig(prefix=names[:1], valid_prefix=names, seq_length=40)
    rows = TokenRows(PretrainConfig(model="ling-tiny", data=data), TINY, tmp_path / "run", quiet)
    assert list(rows.contents()) == [f"content of {n}.bin or .idx" for n in names]
    assert rows.identity()["files"] == [rows.contents()[f"content of {names[0]}.bin or .idx"]]
    held_out = rows.held_out()
    assert len(held_out.samples) == 16
    assert not held_out.trained_only
    assert rows.names == names[:1]
