"""Ray, where it is installed: the bytes are those of one process."""

from __future__ import annotations

import json

import pytest

from ling.cli.main import main
from ling.data.prepare import Preparation, prepare
from ling.data.tokenizer import train_tokenizer
from ling.errors import UsageError

LINE = "the quick brown fox jumps over the lazy dog\n"


def quiet(line):
    pass


@pytest.fixture
def source(tmp_path):
    rows = [{"text": f"{i} {LINE * (i % 7 + 1)}"} for i in range(400)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train_tokenizer([LINE * 9], 300).save(tmp_path / "tok")
    return tmp_path / "x.jsonl"


@pytest.mark.slow
def test_ray_gives_the_same_bytes(source, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("ling.data.units.MIN_UNIT_BYTES", 6000)
    options = {"tokenizer": tmp_path / "tok", "log": quiet}
    whole = prepare([source], tmp_path / "whole", **options)
    ready = Preparation([source], tmp_path / "out", **options).run("ray")
    for path, other in zip(whole.files, ready.files, strict=True):
        assert path.read_bytes() == other.read_bytes()


def test_a_missing_package_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    preparation = Preparation([source], tmp_path / "out", tokenizer=tmp_path / "tok", log=quiet)
    with pytest.raises(UsageError, match=r"pip install 'ling\[ray\]'"):
        preparation.run("ray")
    assert preparation.run().stats["documents"] == 400  # and what was planned is used


def test_shards_and_ray_are_two_ways(source, tmp_path, capsys):
    args = ["data", "prepare", str(source), "--out", str(tmp_path / "out"), "--ray"]
    assert main([*args, "--shard", "0/2"]) == 2
    assert "not both" in capsys.readouterr().err
