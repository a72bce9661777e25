"""Which model exactly is evaluated, and under what name."""

from __future__ import annotations

import os

import pytest

from ling.config.engine import EngineConfig
from ling.errors import CheckpointError, UsageError
from ling.eval.scorers.choose import ScorerOptions, Subject, labels


def test_other_weights_or_another_format_are_another_model(fixtures, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes((fixtures / "model/tiny_fp32/model.safetensors").read_bytes())
    first = Subject(str(folder)).described()
    assert Subject(str(folder)).described() == first
    packed = ScorerOptions(engine=EngineConfig(format="int8"))
    assert Subject(str(folder), packed).described() != first
    many = ScorerOptions(engine=EngineConfig(max_num_seqs=3))
    assert Subject(str(folder), many).described() == first
    os.utime(weights, (0, 0))
    second = Subject(str(folder)).described()
    assert second != first
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        copied = (fixtures / "model/tiny_fp32" / "config.json").read_text()
        (folder / name).write_text(copied + " \n")
        first, second = second, Subject(str(folder)).described()
        assert first != second


def test_a_url_is_a_server_and_a_missing_folder_an_error():
    named = ScorerOptions(served_model="a")
    assert Subject("http://127.0.0.1:1/v1", named).described()["scorer"] == "url"
    assert Subject("http://127.0.0.1:1", named).file_name == "http_127.0.0.1_1_a"
    assert Subject("http://127.0.0.1:1/v1").file_name == "http_127.0.0.1_1_v1"
    with pytest.raises(CheckpointError, match="no such model folder"):
        Subject("nowhere/at/all").described()
    with pytest.raises(UsageError, match=r"did you mean `transformers`"):
        ScorerOptions(scorer="transformer")


def test_short_names_tell_models_apart():
    assert labels(["runs/a/5t", "runs/b/10t"]) == ["5t", "10t"]
    assert labels(["runs/a/best", "runs/b/best"]) == ["a/best", "b/best"]
    assert labels(["m"]) == ["m"]


def test_an_adapter_that_was_trained_again_is_another_model(fixtures, tmp_path):
    adapter = tmp_path / "adapter_model.safetensors"
    adapter.write_bytes(b"1")
    options = ScorerOptions(engine=EngineConfig(lora=f"a={tmp_path}"))
    subject = Subject(str(fixtures / "model/tiny_fp32"), options)
    first = subject.described()
    adapter.write_bytes(b"2")
    assert subject.described() != first
    lost = ScorerOptions(engine=EngineConfig(lora="nowhere"))
    with pytest.raises(CheckpointError, match="nowhere"):
        Subject(str(fixtures / "model/tiny_fp32"), lost).described()


def test_options_that_would_be_without_effect_are_refused():
    with pytest.raises(UsageError, match="give one `lora`"):
        ScorerOptions(engine=EngineConfig(lora=["a=x", "b=y"]))
    with pytest.raises(UsageError, match=r"`--scorer transformers` .* without `format`"):
        ScorerOptions(scorer="transformers", engine=EngineConfig(format="int8"))


def test_long_names_are_names_of_files():
    name = Subject("./" + "漢" * 200).file_name
    assert len(name.encode()) <= 150
    assert set(name) == {"漢"}
