from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ling.cli.main import guarded, main

REPOSITORY = Path(__file__).parents[2]


def ling(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "ling", *map(str, args)],
        **{"capture_output": True, "text": True, "timeout": 120, **options},
    )


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["trian"], "no command `trian`"),
        (["inspect", "ling-mini"], "no such model folder"),
        (["inspect", "ling-mini-2.0", "--jsn"], "jsn"),
        (["pretrain", "nothing.yaml"], "no such recipe"),
        (["pretrain", "RECIPE", "--train.stpes", "3"], "train.stpes"),
        (["pretrain", "RECIPE", "--train.steps", "-3"], "train.steps"),
        (["pretrain", "RECIPE", "--train.steps", "many"], "train.steps"),
        (["pretrain", "RECIPE", "--model", "ling-nanoo"], "ling-nanoo"),
        (["generate", "nowhere", "-p", "x"], "nowhere"),
        (["generate", "ling-mini-2.0", "-p", "x"], "the network is off"),
        (["generate", "ling-mini-2", "-p", "x"], "did you mean `ling-mini-2.0`"),
        (["generate", "org/name", "-p", "x"], "hf:org/name"),
        (["inspect", "modelscope:org/name/more"], "no model name"),
        (["download", "no name"], "org/name"),
        (["download", "a/../b"], "org/name"),
        (["download", "ling-mini-2.0", "--hub", "github"], "github"),
        (["download", "hf:org/name", "--hub", "modelscope"], "another hub"),
        (["download", "ling-mini-2.0", "--offline"], "config.json is not in"),
        (["download", "x/y", "--local-dir", "a", "--cache-dir", "b"], "not both"),
        (["convert", "nowhere", "out"], "nowhere"),
        (["eval", "nowhere", "--data", "x"], "x: no such file"),
        (["merge", "nowhere", "out", "--last", "2"], "nowhere"),
        (["serve", "nowhere", "--port", "99999"], "99999"),
        (["eval", "nowhere", "--data", "x", "--limit", "0"], "--limit"),
        (["bench", "train", "--pairs", "0"], "--pairs"),
        (["quickstart", "--minutes", "-1"], "--minutes"),
        (["data", "prepare", "nowhere", "--out", "out"], "nowhere"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(args, word, tmp_path):
    args = [str(REPOSITORY / "recipes/pretrain/tiny.yaml") if a == "RECIPE" else a for a in args]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = ling(*args, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"model: ling-tiny\ntrain: {stpes: 3}\n", "did you mean `steps`"),
        (b"model: ling-tiny\ntrain: {steps: many}\n", "train.steps"),
        (b"model: ling-tiny\n", "data.corpus"),
    ],
)
def test_unusable_recipe_file_is_named(text, word, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(text)
    done = ling("pretrain", "recipe.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "counts", "kv_bytes"),
    [  # docs/concepts/model.md#parameter-counts
        ("ling-mini-2.0", (16_255_638_528, 1_432_968_192, 789_142_528, 827_861_248), 40_960),
        ("ling-flash-2.0", (102_889_697_280, 6_152_269_824, 4_864_618_496, 3_306_180_864), 65_536),
        ("ling-1t", (999_705_309_184, 51_054_407_680, 48_479_105_024, 13_222_584_576), 327_680),
    ],
)
def test_inspect_counts_released_models_to_the_parameter(name, counts, kv_bytes):
    report = json.loads(ling("inspect", name, "--json").stdout)
    keys = ("total", "active", "active_non_embedding", "mtp")
    assert report["parameters"] == dict(zip(keys, counts, strict=True))
    assert report["kv_bytes_per_token"] == kv_bytes
    by_dtype = report["kv_bytes_per_token_by_dtype"]
    # Heads of 128: a scale of 4 bytes beside 128 or 64.
    assert by_dtype == {
        "bf16": kv_bytes,
        "int8": kv_bytes * 132 // 256,
        "int4": kv_bytes * 68 // 256,
    }


def test_help_is_quick_and_imports_no_torch():
    best = 9.0
    for _ in range(5):
        start = time.perf_counter()
        assert ling("--help").returncode == 0
        best = min(best, time.perf_counter() - start)
    code = (
        "import sys, ling, ling.cli.main; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert best < 1.0  # 0.1 s on a quiet machine


def test_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "ling", "trian"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command `trian`")


def test_print_config_shows_the_resolved_recipe():
    recipe = REPOSITORY / "recipes/pretrain/tiny.yaml"
    done = ling("pretrain", recipe, "--train.steps", "7", "--print-config")
    assert done.returncode == 0, done.stderr
    assert "steps: 7" in done.stdout


def test_a_home_folder_behind_an_equals_sign_is_meant_as_in_a_shell(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    paths = ["--data.corpus=~/text", "--model=~/m", "--model_overrides.note=~x"]
    assert main(["pretrain", *paths, "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["corpus"], printed["model"]) == ("/home/me/text", "/home/me/m")
    assert printed["model_overrides"] == {"note": "~x"}


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd())\n"
        "from ling.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "error: the current folder no longer exists; `cd` to one that does\n"
    assert done.returncode == 2


def test_a_full_disk_is_named_in_words(capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "out.txt")

    assert guarded(full) == 1
    assert capsys.readouterr().err == "error: out.txt: No space left on device\n"


def test_printed_config_is_a_recipe(tmp_path):
    recipe = REPOSITORY / "recipes/pretrain/tiny.yaml"
    printed = ling("pretrain", recipe, "--optim.lr", "0.5", "--print-config").stdout
    (tmp_path / "again.yaml").write_text(printed)
    assert ling("pretrain", tmp_path / "again.yaml", "--print-config").stdout == printed


@pytest.mark.parametrize(
    "recipe", sorted((REPOSITORY / "recipes").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_every_recipe_loads(recipe):
    command = recipe.relative_to(REPOSITORY / "recipes").parts[0]
    if command == "scaling":
        args = ["scaling", "sweep", recipe, "--dry-run"]
    else:
        files = ["--data.files", "chats.jsonl"] * (command == "sft")
        args = [command, recipe, *files, "--print-config"]
    done = ling(*args)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        (["--data.prefix", "d/train"], ["d/train"]),
        (["--data.prefix=d/train"], ["d/train"]),
        (["--data.prefix", "[d/train]"], ["d/train"]),
        (["--data.prefix", "a", "2024", "--train.steps", "3"], ["a", "2024"]),
        (["--data.prefix", "[a, b]"], ["a", "b"]),
        (["--data.prefix", "a", "b", "--data.weights", "1", "2.5"], ["a", "b"]),
    ],
    ids=str,
)
def test_a_prefix_is_one_or_several(flags, want):
    done = ling("pretrain", "tiny", "--data.corpus", "null", *flags, "--print-config")
    assert done.returncode == 0, done.stderr
    data = yaml.safe_load(done.stdout)["data"]
    assert data["prefix"] == want
    assert data["weights"] == ([1, 2.5] if "--data.weights" in flags else None)


@pytest.mark.parametrize(
    "args",
    [
        ["pretrain", "tiny", "--train.step", "3"],
        ["pretrain", "tiny", "--data.pre", "x"],
        ["eval", "nowhere", "--data", "x", "--row", "3"],
        ["inspect", "ling-tiny", "--js"],
    ],
    ids=" ".join,
)
def test_abbreviated_flags_are_refused(args):
    done = ling(*args)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert args[-2 if args[-1][0] != "-" else -1].lstrip("-") in done.stderr


def test_recipes_have_names(tmp_path):
    listed = ling("recipes", cwd=tmp_path)
    assert listed.returncode == 0
    assert "tiny" in listed.stdout
    assert ling("recipes", "tiny").stdout.startswith("#")
    assert set(json.loads(ling("recipes", "--json").stdout)) >= {"tiny", "nano"}
    by_name = ling("pretrain", "tiny", "--print-config", cwd=tmp_path).stdout
    by_path = ling("pretrain", REPOSITORY / "recipes/pretrain/tiny.yaml", "--print-config").stdout
    assert by_name == by_path != ""


@pytest.mark.parametrize("command", ["data", "bench"])
def test_commands_with_kinds_have_help(command):
    done = ling(command, "--help")
    assert done.returncode == 0
    assert f"usage: ling {command}" in done.stdout


def test_every_recipe_key_has_its_line_in_help():
    from ling.config.recipe_docs import keys

    text = " ".join(ling("pretrain", "--help").stdout.split())
    missing = [key.name for key in keys() if key.text.split(";")[0][:40] not in text]
    assert missing == []


def test_unwritable_output_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    done = ling(
        "pretrain",
        REPOSITORY / "recipes/pretrain/tiny.yaml",
        "--out",
        file / "run",
        env=dict(os.environ),
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_is_not_utf8_never_ends_a_run(tmp_path, encoding):
    name = "höhle-日本"
    (tmp_path / name).mkdir()
    (tmp_path / name / "text.txt").write_text("ein wort\n\nzwei wörter 日本\n\ndrei\n" * 99)
    done = ling(
        *("data", "prepare", name, "--out", f"{name}-out", "--vocab-size", "270"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        encoding=encoding,
    )
    assert done.returncode == 0, done.stderr
    assert "\\u65e5" in done.stdout
    done = ling(
        "inspect",
        f"{name}-nowhere",
        env=os.environ | {"PYTHONIOENCODING": encoding},
        encoding=encoding,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_json_is_ascii(capsys):
    from ling.cli.options import say

    say({"text": "日本 é"}, True, "")
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"text": "日本 é"}


def test_the_package_tells_its_version_and_names(capsys):
    import ling as package
    from ling.cli.main import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ling {package.__version__}\n"
    assert {"LLM", "load", "from_config", "__version__"} <= set(dir(package))
