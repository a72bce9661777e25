"""`ling eval` as users run it."""

from __future__ import annotations

import json

import pytest
from random_llm import random_llm

from ling.cli import evaluate
from ling.cli.main import main
from ling.eval import perplexity


def test_one_task_of_one_model_is_a_line_of_what_was_measured(
    monkeypatch, capsys, tmp_path, fixtures
):
    found = {"loss": 1.23456789, "perplexity": 3.4369, "tokens": 3072, "mtp_loss": None}
    monkeypatch.setattr(perplexity, "perplexity", lambda *a, **k: found)
    (tmp_path / "d.txt").write_text("x")
    model = str(fixtures / "model" / "tiny_fp32")
    evaluate.evaluate([model, "--data", str(tmp_path / "d.txt")])
    assert capsys.readouterr().out == "loss 1.2346, perplexity 3.4369, tokens 3,072\n"
    evaluate.evaluate([model, "--data", str(tmp_path / "d.txt"), "--json"])
    assert json.loads(capsys.readouterr().out) == found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two folders of the smallest model."""
    from ling import from_config, preset
    from ling.checkpoint.hf.save import save_model

    with random_llm() as llm:
        tokenizer = llm.tokenizer
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"m{seed}")
        config = preset("ling-tiny").replace(dtype="float32", vocab_size=tokenizer.vocab_size)
        save_model(from_config(config, seed=seed), config, folder)
        tokenizer.save(folder)
        folders.append(str(folder))
    return folders


def test_models_by_tasks_are_a_table_files_and_a_picture(models, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "text").mkdir(parents=True)
    (data / "text/a.txt").write_text("The weather in Paris is sunny.\n" * 9)
    (data / "sums.jsonl").write_text('{"question": "1 + 1 =", "answer": 2}\n')
    (data / "sums.yaml").write_text("max_tokens: 4\n")
    (data / "pick.jsonl").write_text('{"question": "?", "choices": ["a", "b"], "answer": "a"}\n')
    args = ["eval", *models, "--tasks", "bpb,ppl,sums,pick", "--data", str(data), "--out", str(out)]
    args += ["--seq-length", "32", "--dtype", "float32"]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == [
        "task",
        "bpb",
        "ppl",
        "sums",
        "pick",
    ]
    assert (out / "results.png").is_file()
    assert (out / "results.txt").read_text() == shown
    assert main([*args, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("done before") == 8
    assert len(json.loads(printed.out)) == 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tasks", "hmmt"], "hmmt.jsonl: no such file; `hmmt` needs it: python -c"),
        (["--tasks", "bpb", "--scorer", "vllm"], "`--scorer` is `vllm`, expected ling or"),
        (["--tokenizer", "x"], "`--tokenizer` is for the URL of a server"),
        (["--tasks", "ppl", "--format", "int8"], "without `--format`; `bpb` asks the engine"),
        (["--limit", "0"], "`--limit` is 0, expected at least 1"),
        (["--num-fewshot", "-1"], "`--num-fewshot` is -1, expected 0 or more"),
        (["--timeout", "0"], "`--timeout` is 0.0, expected more than 0 seconds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(models, tmp_path, capsys, args, message):
    assert main(["eval", models[0], "--data", str(tmp_path), *args]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
