"""`ling sft` from records to the folder that is served."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil

import pytest
import torch
from small_sft import recipe, write_model

from ling.checkpoint.run_folder import MANIFEST, checkpoints, kept
from ling.cli.sft import sft
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.data.conversations.records import read_records
from ling.data.conversations.supervise import supervise
from ling.data.conversations.template import open_template
from ling.data.tokenizer import Tokenizer
from ling.errors import UsageError
from ling.files.atomic import read_json
from ling.finetune import NOTE, finetune, write_result
from ling.infer.request import SamplingParams
from ling.llm import LLM
from ling.train.dry_run import dry_run
from ling.train.log import each_row, read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sft")
    write_model(made)
    return made


@pytest.fixture(scope="module")
def full(folder):
    """A finished run of all weights."""
    said = []
    assert finetune(recipe(folder), folder / "full", said.append) == 0
    return folder / "full", said


@pytest.fixture(scope="module")
def lora(folder):
    said = []
    assert finetune(recipe(folder, method="lora"), folder / "lora", said.append) == 0
    return folder / "lora", said


def test_the_result_is_served_with_the_text_that_was_trained(folder, full):
    out, _ = full
    given = recipe(folder)
    tokenizer = Tokenizer.from_folder(folder / "base")
    template = open_template(None, tokenizer)
    record = next(iter(read_records(given.data)))
    (sample,) = supervise(record, template, tokenizer)
    with LLM(out / "model", dtype="float32") as llm:
        last = max(i for i, m in enumerate(record.messages) if m["role"] == "assistant")
        sent = llm.render(record.messages[:last])
        assert sample.text.startswith(sent)
        assert sample.spans[-1][0] == len(sent)
        output = llm.chat(record.messages[:last], SamplingParams(temperature=0, max_tokens=3))
        assert output[0].prompt_token_ids == sample.ids[: len(output[0].prompt_token_ids)]


def served_loss(llm, recipe, tokenizer, lora=None):
    """The mean loss of the answers of the held-out records, as the engine scores them."""
    template = open_template(None, tokenizer)
    records = read_records(recipe.data, recipe.data.valid_files)
    samples = [s for record in records for s in supervise(record, template, tokenizer)]
    params = SamplingParams(max_tokens=1, prompt_logprobs=1)
    scored = llm.generate([{"prompt_token_ids": s.ids} for s in samples], params, lora=lora)
    losses = [
        -output.prompt_logprobs[i][label].logprob
        for output, sample in zip(scored, samples, strict=True)
        for i, label in enumerate(sample.labels)
        if i and label >= 0
    ]
    return sum(losses) / len(losses)


def test_an_adapter_is_applied_where_it_is_served(folder, lora):
    """Scored by the engine, held-out answers have the loss that the run measured."""
    out, _ = lora
    given, tokenizer = recipe(folder), Tokenizer.from_folder(folder / "base")
    measured = [r["valid_loss"] for r in read_metrics(out / "metrics.jsonl") if "valid_loss" in r]
    with LLM(folder / "base", dtype="float32", lora=[f"tuned={out / 'adapter'}"]) as llm:
        served = served_loss(llm, given, tokenizer, lora="tuned")
        base = served_loss(llm, given, tokenizer)
    assert served == pytest.approx(min(measured), abs=1e-4)
    assert base > served + 1e-2


@pytest.mark.parametrize(
    ("run_name", "name"),
    [("my run", "my-run"), ("größer=1", "gr-er-1"), ("_.x", "x"), ("試", "tuned")],
)
def test_the_name_of_a_served_adapter_is_one_that_the_server_takes(run_name, name, tmp_path, lora):
    (out, _), said = lora, []
    shutil.copytree(out, tmp_path / run_name)
    write_result(recipe(out.parent, method="lora"), tmp_path / run_name, said.append)
    (line,) = [row for row in said if row.startswith("next: ")]
    flag = shlex.split(line.partition(" (or")[0])[-1]
    assert EngineConfig(lora=[flag]).adapter_folders == {name: str(tmp_path / run_name / "adapter")}


def test_an_adapter_over_integers_is_applied_where_it_is_served(folder, tmp_path):
    """Its base is no model to merge into, and the last line names none."""
    convert(folder / "base", tmp_path / "int4", to="int4")
    given = dataclasses.replace(recipe(folder, method="qlora"), model=str(tmp_path / "int4"))
    out, said = tmp_path / "run", []
    assert finetune(given, out, said.append) == 0
    measured = [r["valid_loss"] for r in read_metrics(out / "metrics.jsonl") if "valid_loss" in r]
    with LLM(tmp_path / "int4", lora=[f"tuned={out / 'adapter'}"]) as llm:
        served = served_loss(llm, given, Tokenizer.from_folder(folder / "base"), lora="tuned")
    assert served == pytest.approx(min(measured), abs=2e-2)
    (line,) = [row for row in said if row.startswith("next: ")]
    assert f"ling serve {tmp_path}/int4 --lora run={out}/adapter" in line
    assert f"ling convert ORIGINAL OUT --merge {out}/adapter" in line


def test_serving_stops_at_the_end_of_a_turn(full):
    out, _ = full
    for folder in (out / "model", out / "tokenizer"):
        generation = json.loads((folder / "generation_config.json").read_text())
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.token_to_id("<|role_end|>") in generation["eos_token_id"]
        assert tokenizer.eod_token_id in generation["eos_token_id"]


def test_the_next_command_is_said(full, lora):
    out, said = full
    assert f"next: ling serve {out}/model (or `ling chat {out}/model`)" in said
    out, said = lora
    (line,) = [row for row in said if row.startswith("next: ")]
    assert f"--lora lora={out}/adapter" in line
    assert f"--merge {out}/adapter" in line
    assert not [row for row in said if "another chat template" in row]


def test_held_out_prompts_are_answered_at_each_measurement(full):
    out, said = full
    rows = list(each_row(out / "samples.jsonl"))
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    measured = {row["step"]: row.get("valid_loss") for row in read_metrics(out / "metrics.jsonl")}
    for row in rows:
        assert row["valid_loss"] == measured[row["step"]]
        assert row["messages"][-1]["role"] == "user"
        assert row["expected"].endswith("<|role_end|>")
        assert 1 <= row["tokens"] <= 8
    assert rows[0]["messages"] == rows[2]["messages"]
    assert len([row for row in said if "held-out prompt" in row]) == 4


def test_a_finished_run_says_so_and_keeps_its_result(folder, full):
    out, _ = full
    before, said = (out / "model" / NOTE).stat().st_mtime_ns, []
    assert finetune(recipe(folder), out, said.append) == 0
    assert any("already done" in row for row in said)
    assert any("there already" in row for row in said)
    assert (out / "model" / NOTE).stat().st_mtime_ns == before
    assert len(list(each_row(out / "samples.jsonl"))) == 4


def test_a_result_of_a_checkpoint_that_was_trained_again_is_written_again(folder, full, tmp_path):
    """Of the same name, but with other weights."""
    out = tmp_path / "run"
    shutil.copytree(full[0], out)
    path = out / "checkpoints" / read_json(out / "model" / NOTE)["checkpoint"] / MANIFEST
    path.write_text(json.dumps(dict(reversed(read_json(path).items()))))
    said = []
    assert finetune(recipe(folder), out, said.append) == 0
    assert not any("there already" in row for row in said)


def test_the_result_is_of_the_best_checkpoint_which_stays(folder):
    """With a rate of nothing no measurement is better than the first."""
    out, said = folder / "still", []
    given = recipe(folder, lr=1e-30, train={"steps": 6, "early_stop": 1})
    assert finetune(given, out, said.append) == 0
    rows = [r for r in read_metrics(out / "metrics.jsonl") if r.get("valid_loss") is not None]
    assert [row["step"] for row in rows] == [2, 4], "it ends early"
    assert kept(out).name == "step-2"
    assert [p.name for p in checkpoints(out)] == ["step-2", "step-4"]
    assert json.loads((out / "model" / NOTE).read_text())["checkpoint"] == "step-2"
    assert any("`train.early_stop`" in row for row in said)


def test_the_adapter_of_a_run_gives_what_the_run_computed(folder, lora):
    out, _ = lora
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "base")
    from ling.checkpoint.adapter.read import read_adapter
    from ling.checkpoint.hf.config import read_config

    adapter = read_adapter(out / "adapter", read_config(folder / "base"))
    assert {m.rank for m in adapter.matrices.values()} == {4, 2}
    assert any(torch.count_nonzero(m.b) for m in adapter.matrices.values())
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", NOTE):
        assert (out / "adapter" / name).is_file()


def test_another_template_is_kept_with_the_result(folder, tmp_path):
    template = tmp_path / "other.jinja"
    template.write_text(
        "{% for m in messages %}{{ '<role>' + m.role + '</role>' + m.content + '[gMASK]' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<role>assistant</role>' }}{% endif %}"
    )
    said = []
    given = recipe(
        folder,
        method="lora",
        data={"template": str(template), "valid_files": []},
        train={"steps": 1},
    )
    assert finetune(given, tmp_path / "run", said.append) == 0
    again = Tokenizer.from_folder(tmp_path / "run" / "adapter")
    assert again.chat_template == template.read_text()
    assert again.token_to_id("[gMASK]") in again.stop_token_ids
    assert any("another chat template" in row for row in said)


def test_a_missing_result_is_written_again(folder, full, tmp_path):
    out, _ = full
    (out / "model" / NOTE).unlink()
    said = []
    write_result(recipe(folder), out, said.append)
    assert any(row.endswith("of step-4") for row in said)


def test_a_dry_run_says_what_would_be_done_and_trains_nothing(folder, tmp_path, capsys):
    said = []
    given = recipe(folder, train={"steps": 0, "epochs": 2})
    planned = dry_run(given, tmp_path / "run", said.append)
    text = "\n".join(said)
    assert planned.train.steps > 0
    assert f"steps: {planned.train.steps} of 2 rows of 128 tokens, 2.00 epochs of" in text
    assert "% of them trained" in text
    assert "experts" in text
    assert "peak" in text
    assert not (tmp_path / "run" / "checkpoints").exists()
    alone: list[str] = []
    data = dataclasses.replace(given.data, valid_files=[], valid_share=1e-9)
    dry_run(dataclasses.replace(given, data=data), tmp_path / "alone", alone.append)
    assert any("leaves no record to measure the held-out loss on" in row for row in alone)
    counted = [row.partition(",")[0] for row in said if row.startswith("tokens: ")]
    assert counted == [row.partition(",")[0] for row in alone if row.startswith("tokens: ")]
    file = tmp_path / "r.yaml"
    from ling.config.recipe import recipe_yaml

    file.write_text(recipe_yaml(given))
    assert sft([str(file), "--dry-run", "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "[[add(a, b)<|role_end|>]]" in shown
    assert "train.jsonl:1" in shown


def test_early_stop_without_held_out_records_is_refused(folder):
    with pytest.raises(UsageError, match="early_stop"):
        recipe(folder, data={"valid_files": []}, train={"early_stop": 2})
    assert dataclasses.replace(recipe(folder).data, valid_files=[]).has_held_out is False
