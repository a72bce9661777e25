"""`ling generate` on a small model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from random_adapters import random_adapter

from ling import from_config, preset
from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.hf.save import save_model
from ling.cli.main import main
from ling.data.tokenizer import train_tokenizer
from ling.infer.sampling_defaults import FILE

TEXT = ["def f(x):\n    return x\n\nclass A:\n    pass\n"] * 10


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "plain"
    folder.mkdir()
    network = from_config(preset("ling-tiny"), seed=1)
    save_model(network, network.config, folder)
    train_tokenizer(TEXT, 300).save(folder)
    return folder


@pytest.fixture(scope="module")
def recommending(model):
    """The same model, whose folder recommends a temperature."""
    folder = model.parent / "recommending"
    shutil.copytree(model, folder)
    given = json.loads((folder / FILE).read_text()) if (folder / FILE).is_file() else {}
    (folder / FILE).write_text(json.dumps({**given, "temperature": 1.5, "top_k": 40}))
    return folder


def generated(capsys, *args) -> tuple[dict, str]:
    assert main(["generate", *map(str, args), "-p", "def", "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_flags_go_before_what_the_folder_recommends(model, recommending, capsys):
    options = ["--max-tokens", 12, "--seed", 1]
    plain, err = generated(capsys, model, *options)
    assert err == ""
    sampled, err = generated(capsys, recommending, *options)
    assert f"[from {FILE}: temperature 1.5, top_k 40]" in err
    assert sampled["token_ids"] != plain["token_ids"]
    greedy, err = generated(capsys, recommending, *options, "--temperature", 0, "--top-k", 0)
    assert (greedy["token_ids"], err) == (plain["token_ids"], "")


def test_minus_one_goes_to_the_end_of_the_context(model, capsys):
    for flag in ("--max-tokens", "--max-new-tokens"):
        done, _ = generated(capsys, model, flag, -1, "--max-model-len", 40)
        assert done["finish_reason"] == "stop" or len(done["token_ids"]) > 30


def test_an_adapter_changes_the_text_and_several_are_for_servers(model, tmp_path, capsys):
    cfg = preset("ling-tiny")
    write_adapter(tmp_path / "poet", random_adapter(cfg, 1), cfg, alpha=2)
    plain, _ = generated(capsys, model)
    found = [
        generated(capsys, model, "--lora", f"{name}{tmp_path / 'poet'}") for name in ("", "x=")
    ]
    assert found[0][0]["token_ids"] == found[1][0]["token_ids"] != plain["token_ids"]
    two = ["--lora", "x=a", "--lora", "y=b"]
    for command in ("generate", "chat"):
        prompt = ["-p", "x"] if command == "generate" else []
        assert main([command, str(model), *two, *prompt]) == 2
        assert "error: give one `--lora`; `ling serve` runs several" in capsys.readouterr().err
    assert main(["generate", str(model), "-p", "x", "--lora", str(tmp_path)]) == 2
    assert "adapter_config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"a\nb", "a\nb"), (r"\\n", r"\n"), (r"\t\r", "\t\r"), (r"\d", r"\d"), ("\n", "\n")],
)
def test_stop_strings_have_line_ends(monkeypatch, typed, meant):
    from ling.cli import generate, options

    seen = {}

    class Stop(Exception):
        pass

    def params(ns):
        seen.update(options.given_sampling(ns))
        raise Stop

    monkeypatch.setattr(generate, "given_sampling", params)
    with pytest.raises(Stop):
        generate.generate(["nowhere", "-p", "x", "--stop", typed, "--stop", "second"])
    assert seen["stop"] == [meant, "second"]


def test_a_reader_that_leaves_ends_the_command_and_does_not_crash_it(model):
    """`ling generate ... | head`: the engine is in the middle of a step then."""
    command = [sys.executable, "-m", "ling", "generate", str(model), "-p", "def", "--max-tokens"]
    with subprocess.Popen(
        [*command, "400"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(4)
        process.stdout.close()
        said = process.stderr.read().decode()
        assert (process.wait(60), said) == (1, "")
