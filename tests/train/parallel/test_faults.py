"""Ranks that are stopped or killed: nothing is lost, nobody stays."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import saved_steps, write_tokens

from ling.train.log import read_metrics

DEGREES = ("--parallel.dp_shard", "2", "--parallel.ep", "2")


class Launched:
    """`torchrun -m ling pretrain` on some ranks."""

    def __init__(self, folder, *more, ranks=2, restarts=0, name="run"):
        self.out, self.log = folder / name, folder / "log"
        recipe = [
            *("--model", "ling-tiny", "--data.prefix", str(folder / "text")),
            *("--data.seq_length", "16", "--train.global_batch_size", "4", "--out", str(self.out)),
            *("--train.micro_batch_size", "2", "--train.threads", "1", "--train.steps", "100000"),
            *("--optim.schedule", "constant", *more),
        ]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [
            "--nproc-per-node",
            str(ranks),
            "--max-restarts",
            str(restarts),
            "-m",
            "ling",
            "pretrain",
            *recipe,
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def ranks(self):
        """Process ids by rank."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            rank = re.search("\0RANK=([0-9]+)\0", environment)
            if parent == self.process.pid and rank:
                found[int(rank[1])] = int(entry.name)
        return found

    def wait_for_step(self, step, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rows = read_metrics(self.out / "metrics.jsonl")
            if rows and rows[-1]["step"] >= step:
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        pytest.fail(self.log.read_text())

    def end(self, seconds=60):
        """What was printed once all have ended."""
        self.process.wait(timeout=seconds)
        return self.log.read_text()


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_stopped_rank_saves_with_all_and_a_killed_one_ends_all(tmp_path):
    write_tokens(tmp_path / "text")
    first = Launched(tmp_path, *DEGREES)
    first.wait_for_step(3)
    ranks = first.ranks()
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGTERM)
    said = first.end()
    assert gone(ranks.values())
    (saved,) = saved_steps(first.out)
    assert f"stopped after step {saved.removeprefix('step-')}, saved" in said
    # In another layout, and killed.
    step = int(saved.removeprefix("step-"))
    second = Launched(tmp_path, "--parallel.pp", "2")
    second.wait_for_step(step + 3)
    ranks = second.ranks()
    os.kill(ranks[1], signal.SIGKILL)
    said = second.end()
    assert gone(ranks.values())
    assert f"resuming {second.out} after step {step}" in said
    lost = re.findall(r"error: rank 0: step \d+: another rank is gone .*", said)
    assert len(lost) == 1
    assert "(rank 1: " in lost[0]
    assert lost[0].endswith(f"continue from {saved}")
    assert saved_steps(second.out) == [saved]


def test_a_layout_that_does_not_fit_is_one_line_of_one_rank(tmp_path):
    write_tokens(tmp_path / "text")
    said = Launched(tmp_path, "--parallel.dp_shard", "4").end()
    (line,) = [row for row in said.splitlines() if row.startswith("error: ")]
    assert line.startswith("error: 2 ranks were started, but `parallel` makes")
    assert not (tmp_path / "run").exists()


def losses(out):
    return [
        (row["step"], row["loss"], row["grad_norm"]) for row in read_metrics(out / "metrics.jsonl")
    ]


ASYNC = ("--checkpoint.interval_steps", "2", "--checkpoint.async_save", "true")
FOUR = ("--parallel.dp_shard", "4", "--parallel.ep", "2", "--train.global_batch_size", "8", *ASYNC)


def test_torchrun_goes_on_after_a_rank_was_killed_while_it_saved(tmp_path):
    write_tokens(tmp_path / "text")
    run = Launched(tmp_path, *DEGREES, *ASYNC, restarts=1)
    run.wait_for_step(5)
    first = run.ranks()
    os.kill(first[1], signal.SIGKILL)
    end = time.monotonic() + 60
    while "resuming" not in run.log.read_text() and time.monotonic() < end:
        time.sleep(0.2)
    (step,) = re.findall(r"resuming .* after step (\d+)", run.log.read_text())
    assert int(step) % 2 == 0
    run.wait_for_step(int(step) + 3)
    assert gone(first.values())
    os.kill(run.ranks()[0], signal.SIGTERM)
    assert "stopped after step" in run.end()
    seen = [step for step, *_ in losses(run.out)]
    assert seen == list(range(1, len(seen) + 1))
    assert not list((run.out / "checkpoints").glob("*.tmp"))


# python -m pytest -m slow tests/train/parallel/test_faults.py (two minutes on two idle cores)
@pytest.mark.slow
def test_one_of_four_killed_at_random_moments_changes_no_loss(tmp_path):
    write_tokens(tmp_path / "text")
    steps = ("--train.steps", "60", *FOUR)
    whole = Launched(tmp_path, *steps, ranks=4, name="whole")
    whole.end(300)
    rng = random.Random(os.getpid())
    for turn in range(4):
        run = Launched(tmp_path, *steps, ranks=4)
        run.wait_for_step(12 * turn + 3)
        ranks = run.ranks()
        time.sleep(rng.random())
        killed = rng.randrange(4)
        os.kill(ranks[killed], signal.SIGKILL)
        began = time.monotonic()
        said = run.end()
        assert time.monotonic() - began < 60
        assert gone(ranks.values())
        (line,) = re.findall(r"error: .*", said)
        assert f"rank {killed}: " in line
        assert re.search(r"continue from step-\d+$", line)
    assert Launched(tmp_path, *steps, ranks=4).end(300)
    assert losses(run.out) == losses(whole.out)
