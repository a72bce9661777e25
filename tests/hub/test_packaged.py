"""A model of this package by name: found everywhere where a name means weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unwritable import run_unwritable

import ling
from ling.checkpoint.open import config_at, open_source
from ling.cli.main import main
from ling.errors import CheckpointError, UsageError
from ling.hub import download, resolve_model, resolve_tokenizer
from ling.hub.packaged import packaged_model, weights_folder
from ling.presets import preset
from ling.tools.files import tools_of_model

MOST_BYTES = 22_000_000


def test_the_name_is_the_packaged_folder(nano):
    assert packaged_model("ling-nano") == resolve_model("ling-nano") == nano
    assert resolve_model("Ling-Nano") == resolve_tokenizer("ling-nano") == nano
    assert packaged_model("ling-mini-2.0") is None


def test_a_folder_of_that_name_wins(nano, tmp_path, monkeypatch):
    (tmp_path / "ling-nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(resolve_model("ling-nano")) == "ling-nano"
    assert download("ling-nano") == nano  # which is by name always


def test_an_installation_without_the_weights_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ling.hub.packaged.weights_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match="has no weights of it"):
        resolve_model("ling-nano")
    assert main(["generate", "ling-nano", "-p", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ling-nano: this installation of ling has no weights of it (")
    assert len(err.splitlines()) == 1


def test_the_folder_is_within_the_package():
    assert weights_folder().parent == Path(ling.__file__).parent


def test_a_name_that_is_almost_it_is_told():
    with pytest.raises(CheckpointError, match="did you mean `ling-nano`"):
        resolve_model("ling-nanoo")


def test_download_says_where_it_is(nano, capsys):
    assert main(["download", "ling-nano"]) == 0
    assert capsys.readouterr().out == f"{nano}\n"
    for option in ("--revision", "--local-dir", "--cache-dir"):
        assert main(["download", "ling-nano", option, "x"]) == 2
        assert "ling-nano is a part of ling, not on a hub: it is in" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not on a hub"):
        download("ling-nano", hub="hf")


# ---- what is in it -------------------------------------------------------------------------------


def test_int8_keeps_the_mtp_layer_within_the_size_of_the_package(nano):
    source = open_source(nano)
    assert source.config.num_nextn_predict_layers == 1
    assert source.config == preset("ling-nano").replace(
        **{
            f"{name}_token_id": getattr(source.config, f"{name}_token_id")
            for name in ("pad", "bos", "eos")
        }
    )
    source.close()
    names = json.loads((nano / "model.safetensors.index.json").read_text())["weight_map"]
    assert any(name.startswith("model.layers.5.") for name in names)
    assert sum(p.stat().st_size for p in nano.iterdir()) <= MOST_BYTES - 300_000  # 4,096 tokens


# ---- where a name means weights ------------------------------------------------------------------


def test_python_loads_it_by_name(nano):
    assert ling.load("ling-nano").config == config_at(nano)
    with ling.LLM("ling-nano") as llm:
        (output,) = llm.generate("Hello", ling.SamplingParams(max_tokens=4, temperature=0))
    assert len(output.outputs[0].token_ids) == 4


def test_commands_take_it_by_name(nano, tmp_path, capsys):
    assert main(["generate", "ling-nano", "-p", "Hello", "--max-tokens", "3"]) == 0
    assert "tokens/s" in capsys.readouterr().err
    text = tmp_path / "text.txt"
    text.write_text("What is 2 + 3? It is 5.\n" * 20)
    assert main(["eval", "ling-nano", "--data", str(text), "--seq-length", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] > 1
    assert main(["convert", "ling-nano", str(tmp_path / "floats"), "--verify"]) == 0
    assert main(["verify", "ling-nano", str(tmp_path / "floats"), "--no-logits"]) == 0
    assert config_at(tmp_path / "floats").num_nextn_predict_layers == 1
    assert tools_of_model(tmp_path / "floats") == tools_of_model(nano)
    (tmp_path / "floats" / "tools.json").write_text('{"tool": "of another program"}')
    capsys.readouterr()
    packed = tmp_path / "packed"
    assert main(["convert", str(tmp_path / "floats"), str(packed), "--to", "int8"]) == 0
    assert "left out: `" in capsys.readouterr().out
    assert tools_of_model(packed) is None


def test_inspect_means_the_shape(nano, capsys):
    assert main(["inspect", "ling-nano", "--json"]) == 0
    assert "stored" not in json.loads(capsys.readouterr().out)


# ---- a machine without network, home, temporary folder or anything to write to -------------------


def test_it_answers_where_nothing_can_be_written_and_no_network_is(nano_folder):
    done = run_unwritable(["chat", "ling-nano", "--max-tokens", "3"], "Hello\n", nano_folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert "`ling-nano` · /help lists commands" in done.stdout
    assert "[it may call calculator, clock, date, convert_units;" in done.stdout
    assert "ling> " in done.stdout
