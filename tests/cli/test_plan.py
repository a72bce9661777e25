"""`ling plan` as people run it."""

from __future__ import annotations

import json

import pytest

from ling.cli.main import main


def run(capsys, *args):
    code = main(["plan", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_packaged_recipe_on_its_own_number_of_gpus(capsys):
    code, out, _ = run(capsys, "ling-mini-4k", "--price-per-gpu-hour", 2)
    assert code == 0
    assert "ranks 0-7" in out
    assert "fits" in out
    assert "experts' rows" in out
    assert "at 2 an hour" in out
    assert "constants are assumed" in out


def test_a_preset_and_json(capsys):
    code, out, _ = run(capsys, "ling-nano", "--gpus", 2, "--gpu", "a100-80g", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["gpus"] == 2
    assert found["search"][0]["tokens_per_s"] == found["tokens_per_s"]
    assert found["assumed"]


def test_measured_constants_are_named(capsys, tmp_path):
    path = tmp_path / "h100.json"
    path.write_text('{"gpu": "h100-80g", "constants": {"gemm_share": 0.9}}')
    code, out, _ = run(capsys, "ling-mini-4k", "--calibrate", path)
    assert code == 0
    assert "measured: gemm_share; assumed: attention_share" in out
    code, _, err = run(capsys, "ling-mini-4k", "--gpu", "h20-96g", "--calibrate", path)
    assert code == 2
    assert "measured on `h100-80g`" in err


def test_the_published_table(capsys):
    code, out, _ = run(capsys, "--published", "--json")
    found = json.loads(out)
    assert code == 0
    assert len(found["cells"]) == 12
    assert found["worst"] <= 0.08
    assert found["assumptions"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "expected `ling plan RECIPE|PRESET"),
        (("ling-mini-4k", "--gpu", "b200"), "no GPU `b200`; there are h100-80g, h800-80g"),
        (("ling-mini-4k", "--gpus", "0"), "at least 1"),
        (("ling-mini-4k", "--gpus", "16"), "give `--parallel.dp_shard 16`"),
        (("ling-mini-4k", "--gpu", "a100-80g"), "which a100-80g does not have"),
        (("ling-mini-4k", "--parallel.ep", "3"), "does not divide"),
        (("ling-mini-4k", "--price-per-gpu-hour", "-1"), "expected 0 or more"),
        (("ling-mini-4k", "--calibrate", "nothing.json"), "not a JSON file"),
        (("ling-mini-5k",), "no such recipe"),
        (("--published", "--gpus", "8"), "takes no other options"),
    ],
)
def test_bad_input_is_one_line(capsys, args, said):
    code, _, err = run(capsys, *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_picture_of_memory_and_pipeline(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plan.png"
    flags = ("--parallel.pp", 2, "--parallel.dp_shard", 4, "--parallel.ep", 4)
    code, _, _ = run(capsys, "ling-mini-4k", *flags, "--plot", path)
    assert code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
