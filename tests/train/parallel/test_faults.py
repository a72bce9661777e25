"""Ranks that are stopped or killed: nothing is lost, nobody stays."""

from __future__ import annotations

import os
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
    """`torchrun -m ling pretrain` on two ranks."""

    def __init__(self, folder, *more):
        self.out, self.log = folder / "run", folder / "log"
        recipe = [
            *("--model", "ling-tiny", "--data.prefix", str(folder / "text")),
            *("--data.seq_length", "16", "--train.global_batch_size", "4", "--out", str(self.out)),
            *("--train.micro_batch_size", "2", "--train.threads", "1", "--train.steps", "100000"),
            *("--optim.schedule", "constant", *more),
        ]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "-m", "ling", "pretrain", *recipe]
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

    def end(self):
        """What was printed once all have ended."""
        self.process.wait(timeout=60)
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
    assert lost[0].endswith(f"continue from {saved}")
    assert saved_steps(second.out) == [saved]


def test_a_layout_that_does_not_fit_is_one_line_of_one_rank(tmp_path):
    write_tokens(tmp_path / "text")
    said = Launched(tmp_path, "--parallel.dp_shard", "4").end()
    (line,) = [row for row in said.splitlines() if row.startswith("error: ")]
    assert line.startswith("error: 2 ranks were started, but `parallel` makes")
    assert not (tmp_path / "run").exists()
