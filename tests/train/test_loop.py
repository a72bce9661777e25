"""Runs as a command, killed and resumed, and in this process: signals, full disks, damage."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import logged_losses, quiet, saved_steps

from ling.checkpoint.dcp.folder import DCPFolder
from ling.cli.main import main
from ling.convert.plan import convert
from ling.convert.verify import verify
from ling.errors import CheckpointError, RunError, UsageError
from ling.eval.perplexity import perplexity
from ling.train import loop, saving

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "pretrain" / "tiny.yaml"
SETTINGS = [
    "--data.corpus_bytes",
    "600000",
    "--train.steps",
    "24",
    "--checkpoint.interval_steps",
    "6",
    "--checkpoint.keep_last",
    "3",
]


def command(out, *more):
    return [
        sys.executable,
        "-m",
        "ling",
        "pretrain",
        str(RECIPE),
        "--out",
        str(out),
        *SETTINGS,
        *more,
    ]


def train(out, *more):
    return subprocess.run(command(out, *more), capture_output=True, text=True, timeout=120)


def losses(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["mtp_loss"], r["grad_norm"]) for r in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    done = train(out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_what_the_contract_says(run):
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "loss.png",
        "expert_load.png",
        "tokenizer/tokenizer.json",
    ):
        assert (run / name).is_file(), name
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-12",
        "step-18",
        "step-24",
    ]
    seen = losses(run)
    assert [s for s, *_ in seen] == list(range(1, 25))
    assert seen[-1][1] < seen[0][1] - 0.5


def test_killed_run_resumes_bit_for_bit(run, tmp_path):
    out = tmp_path / "killed"
    rng = random.Random(os.getpid())
    for _ in range(2):
        process = subprocess.Popen(
            command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        target = rng.randint(2, 18)
        while process.poll() is None and not (
            (out / "metrics.jsonl").exists()
            and len((out / "metrics.jsonl").read_text().splitlines()) >= target
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = train(out)
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(run)
    a, b = (
        {f: (p / "checkpoints/step-24" / f).read_bytes() for f in ("config.json", "state.json")}
        for p in (run, out)
    )
    assert a == b
    convert(run, tmp_path / "a", to="float32")
    convert(out, tmp_path / "b", to="float32")
    assert verify(tmp_path / "a", tmp_path / "b")["max_difference"] == 0


def test_sigint_saves_and_the_next_run_goes_on(run, tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (
        (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") >= 3
    ):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in stdout
    assert train(out).returncode == 0
    assert losses(out) == losses(run)


def test_the_end_of_a_run_says_what_came_of_it_and_what_is_next(tmp_path):
    done = train(tmp_path / "run", "--train.steps", "2")
    assert done.returncode == 0, done.stderr
    *_, summary, checkpoint, following = done.stdout.splitlines()
    assert summary.startswith("done: 2 steps, 2,048 tokens in ")
    assert "held out " in summary
    assert "MTP " in summary
    assert checkpoint == f"checkpoint: {tmp_path}/run/checkpoints/step-2"
    assert following.startswith(f"next: ling generate {tmp_path}/run ")
    assert max(map(len, (summary, *(x for x in done.stdout.splitlines() if "step 2/2" in x)))) <= 80


def test_finished_run_says_so_and_changed_recipe_is_refused(run):
    again = train(run)
    assert (again.returncode, "already done" in again.stdout) == (0, True)
    changed = train(run, "--optim.lr", "0.5")
    assert changed.returncode == 2
    assert changed.stderr.count("\n") == 1
    assert "optim.lr" in changed.stderr


def test_conversion_round_trip_is_exact_and_atomic(run, tmp_path):
    convert(run, tmp_path / "hf", to="float32")
    convert(tmp_path / "hf", tmp_path / "dcp", to="dcp")
    convert(tmp_path / "dcp", tmp_path / "again", to="float32")
    assert verify(tmp_path / "hf", tmp_path / "again")["max_difference"] == 0
    with pytest.raises(UsageError, match="exists"):
        convert(run, tmp_path / "hf")
    with pytest.raises(CheckpointError):
        convert(tmp_path, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_eval_agrees_with_the_trainer(run, tmp_path):
    convert(run, tmp_path / "hf", to="float32")
    report = perplexity(
        tmp_path / "hf", [str(run / "data/valid_text_document")], seq_length=128, rows=16
    )
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert report["loss"] == pytest.approx(last["valid_loss"], abs=1e-5)
    assert report["mtp_agreement"] == pytest.approx(last["valid_mtp_agreement"], abs=1e-6)


@pytest.mark.parametrize("part", ["", "checkpoints/step-24"])
def test_run_is_a_model_for_the_commands_that_run_one(run, tmp_path, part, capsys):
    folder, prefix = run / part, run / "data/valid_text_document"
    assert main(["generate", str(folder), "-p", "def", "--max-new-tokens", "4", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)
    assert len(text["token_ids"]) == 4
    assert main(["convert", str(folder), str(tmp_path / "hf"), "--dtype", "float32"]) == 0
    capsys.readouterr()
    hf = ["generate", str(tmp_path / "hf"), "-p", "def", "--max-new-tokens", "4", "--json"]
    assert main(hf) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == text["token_ids"]
    reports = [perplexity(m, [str(prefix)], seq_length=32, rows=1) for m in (folder, hf[1])]
    assert reports[0] == reports[1]


def test_metadata_lists_every_tensor(run):
    names = DCPFolder(run / "checkpoints/step-24").tensors
    assert "model.model.layers.1.mlp.experts.gate_proj" in names
    assert "optimizer.exp_avg.lm_head.weight" in names


# ---- in this process -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_step_and_tells_how_to_go_on(recipe, tmp_path, monkeypatch, number):
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0
    step, said = loop.Loop._step, []

    def kill_in_step_3(self):
        if self.state.step == 2:
            os.kill(os.getpid(), number)
        return step(self)

    monkeypatch.setattr(loop.Loop, "_step", kill_in_step_3)
    assert loop.run(recipe(), tmp_path / "run", said.append) == 128 + number
    assert saved_steps(tmp_path / "run")[-1] == "step-3"
    assert "the same command continues" in said[-1]
    monkeypatch.undo()
    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    assert logged_losses(tmp_path / "run") == logged_losses(tmp_path / "whole")


def test_full_disk_keeps_the_last_checkpoint(recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0

    def full(layout, folder, *more):
        yield {}
        (folder / layout.file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    saves = iter([saving.write_part, full])
    monkeypatch.setattr(saving, "write_part", lambda *a: next(saves)(*a))
    with pytest.raises(RunError, match="could not save checkpoint step-4: No space left"):
        loop.run(recipe(), out, quiet)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-2"]
    monkeypatch.undo()
    assert loop.run(recipe(), out, quiet) == 0
    assert logged_losses(out) == logged_losses(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted", "flipped", "manifest"])
def test_damaged_checkpoint_is_named_and_passed_over(recipe, tmp_path, damage):
    out, said = tmp_path / "run", []
    assert loop.run(recipe(), out, quiet) == 0
    folder, before = out / "checkpoints/step-6", logged_losses(out)
    data = next(folder.glob("*.distcp"))
    raw = data.read_bytes()
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "deleted":
        data.unlink()
    else:
        bad = {"truncated": raw[:-100], "emptied": b"", "flipped": bytes([raw[0] ^ 1]) + raw[1:]}
        data.write_bytes(bad[damage])
    assert loop.run(recipe(), out, said.append) == 0
    assert any("step-6 is damaged" in line for line in said)
    assert logged_losses(out) == before
    for manifest in out.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        loop.run(recipe(), out, quiet)


def test_leftovers_are_cleared_and_foreign_files_left_alone(recipe, tmp_path):
    out = tmp_path / "run"
    for name in ("step-4.tmp", "step-99", "mine"):
        (out / "checkpoints" / name).mkdir(parents=True)
        (out / "checkpoints" / name / "file").write_text("x")
    (out / "notes.txt").write_text("mine")
    assert loop.run(recipe(), out, quiet) == 0
    assert saved_steps(out) == ["step-4", "step-6"]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "mine", "step-4", "step-6", "step-99",
    ]  # fmt: skip
    assert (out / "notes.txt").read_text() == "mine"


def test_second_run_into_a_folder_is_refused(recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is writing here"):
            loop.run(recipe(), out, quiet)
    assert loop.run(recipe(steps=1), out, quiet) == 0
