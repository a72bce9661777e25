"""`ling plan` as people run it."""

from __future__ import annotations

import json
import re

import pytest

from ling.cli.main import main
from ling.config.recipe import TrainConfig
from ling.presets import preset

LENGTH = preset("ling-nano").max_position_embeddings  # of its rows


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
    assert "constants are assumed: gemm_share 0.6" in out
    assert "peaks   989.4 TFLOP/s" in out


def test_a_preset_and_json(capsys):
    code, out, _ = run(capsys, "ling-nano", "--gpus", 2, "--gpu", "a100-80g", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["gpus"] == 2
    assert found["search"][0]["tokens_per_s"] == found["tokens_per_s"]
    assert found["assumed"]
    assert found["constants"]["gemm_share"] > 0


def test_measured_constants_are_named(capsys, tmp_path):
    path = tmp_path / "h100.json"
    path.write_text('{"gpu": "h100-80g", "constants": {"gemm_share": 0.9}}')
    code, out, _ = run(capsys, "ling-mini-4k", "--calibrate", path)
    assert code == 0
    assert "measured: gemm_share 0.9; assumed: attention_share 0.6" in out
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
    assert all(other["rms"] <= 0.05 for other in found["others"])


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
        (
            ("ling-mini-2.0", "--gpus", "8", "--parallel.dp_shard", "4"),
            "`parallel` makes 4 ranks; give `--parallel.dp_shard 8`",
        ),
        (("ling-nano", "--gpus", "8", "--parallel.recompute", "full"), "makes 1 ranks"),
        (("ling-nano", "--gpus", "1", "--plot", "/"), "`--plot /`: Is a directory"),
        (("ling-nano", "--gpus", "1", "--plot", "nowhere/plan.png"), "No such file or directory"),
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


def test_a_preset_with_a_batch_keeps_it(capsys):
    default = TrainConfig().global_batch_size
    for batch in (default, 2 * default):
        args = ("ling-nano", "--gpus", 2, "--train.global_batch_size", batch)
        _, out, _ = run(capsys, *args)
        assert f" s of {batch * LENGTH:,} tokens" in out


def test_a_search_in_vain_does_not_tell_to_search(capsys):
    _, out, _ = run(capsys, "ling-1t", "--gpus", 2)
    assert "DOES NOT FIT" in out
    assert "no layout of these GPUs does" in out


def test_many_stages_are_rows(capsys):
    layout = ("--gpus", 8, "--parallel.pp", 8)
    _, out, _ = run(capsys, "ling-mini-2.0", *layout)
    lines = out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("memory"))
    assert [line.split()[:2] for line in lines[start + 1 : start + 3]] == [
        ["rank", "0"],
        ["rank", "1"],
    ]
    assert len(lines[start]) < 130


def test_the_price_is_that_of_the_gpu_hours(capsys):
    args = ("ling-nano", "--gpus", 1, "--train.steps", 7, "--price-per-gpu-hour", 2.5)
    _, out, _ = run(capsys, *args, "--json")
    found = json.loads(out)
    assert found["run_tokens"] == 7 * 16 * LENGTH
    assert found["gpu_hours"] == pytest.approx(7 * found["step_s"] / 3600)
    assert found["cost"] == pytest.approx(2.5 * found["gpu_hours"])
    _, out, _ = run(capsys, *args)
    words = out.split("GPU hours, ")[1].split()
    assert float(words[0]) == pytest.approx(found["cost"], rel=0.01)


def test_a_shape_that_fp8_products_cannot_have_is_refused_as_a_run_would(capsys, tmp_path):
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(
        "model: ling-nano\nmodel_overrides: {intermediate_size: 1000}\n"
        "data: {prefix: [x]}\ntrain: {fp8: blockwise}\n"
    )
    code, _, err = run(capsys, recipe, "--gpus", 8, "--search")
    assert code == 2
    assert "mlp.gate_proj.weight` is 1000 × 256" in err


@pytest.mark.parametrize(
    ("recipe", "gpu", "rows"),
    [
        ("ling-mini-sft", "h100-80g", 1),
        ("ling-mini-lora", "h100-80g", 1),
        ("ling-mini-dpo", "h100-80g", 2),
        ("ling-mini-qlora", "cpu", 1),
    ],
)
def test_packaged_recipes_of_fine_tuning_are_planned_without_model_and_data(
    capsys, recipe, gpu, rows
):
    code, out, err = run(capsys, recipe, "--gpu", gpu, "--data.seq_length", 1024)
    assert code == 0, err
    batch = re.search(r" s of ([\d,]+) tokens", out)[1].replace(",", "")
    assert int(batch) % (rows * 1024) == 0
    assert "`ling sft RECIPE --dry-run`" in out
    code, out, _ = run(capsys, recipe, "--gpu", gpu, "--train.steps", 3, "--json")
    found = json.loads(out)
    assert found["run_tokens"] == pytest.approx(3 * found["tokens_per_s"] * found["step_s"])


@pytest.mark.parametrize("option", [["--config=ling-mini-lora"], ["--config", "ling-mini-lora"]])
def test_fine_tuning_is_known_by_the_file_wherever_it_is_given(capsys, option):
    code, out, err = run(capsys, "--gpu", "h100-80g", *option)
    assert code == 0, err
    assert "inclusionAI/Ling-mini-2.0 on 1 × h100-80g" in out


def test_a_grid_is_no_recipe_of_one_run(capsys):
    code, _, err = run(capsys, "ling-grid")
    assert (code, "run `ling scaling sweep ling-grid`" in err) == (2, True)


def test_fine_tuning_is_searched_and_what_does_not_go_is_said(capsys, tmp_path):
    layout = ("--parallel.recompute", "full", "--gpus", 2, "--search", "--json")
    code, out, _ = run(capsys, "ling-mini-lora", *layout)
    assert code == 0
    assert all(found["gpus"] == 2 for found in json.loads(out)["search"])
    code, _, err = run(capsys, "ling-mini-qlora")
    assert (code, "`--gpu cpu`" in err) == (2, True)
    factory = tmp_path / "factory.yaml"
    factory.write_text(
        "model_name_or_path: inclusionAI/Ling-mini-2.0\nstage: sft\nfinetuning_type: lora\n"
        "dataset: mine\ntemplate: bailing_v2\ncutoff_len: 1024\noutput_dir: x\n"
    )
    code, out, err = run(capsys, factory)
    assert code == 0, err
    assert "inclusionAI/Ling-mini-2.0 on 1 × h100-80g" in out
