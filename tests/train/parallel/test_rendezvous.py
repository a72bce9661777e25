"""Ranks of several hosts find each other, again after a restart, and none outlives its launcher."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from hosts import Hosts, two_networks
from runs import saved_steps, write_tokens

from ling.errors import RunError
from ling.train.log import read_metrics
from ling.train.parallel.rendezvous import clean_store, interface_to

SOON = datetime.timedelta(seconds=20)


def met(store, ranks, words):
    """All ranks of one start look for each other and leave a word."""
    found = {}

    def enter(rank):
        own = clean_store(store, rank, ranks, SOON)
        own.set(f"word of {rank}", words)
        found[rank] = [own.get(f"word of {r}").decode() for r in range(ranks)]

    threads = [threading.Thread(target=enter, args=(r,)) for r in reversed(range(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_each_start_has_a_part_of_the_store_of_its_own():
    store = dist.HashStore()
    for words in ("first", "second"):
        assert met(store, 3, words) == {r: [words] * 3 for r in range(3)}


def test_ranks_that_stayed_away_before_do_not_mislead_the_next_start():
    store = dist.HashStore()
    for rank in (1, 2):  # rank 0 of this start was killed before it answered
        with pytest.raises(RunError, match=f"rank {rank}: the other ranks did not come"):
            clean_store(store, rank, 3, datetime.timedelta(seconds=0.1))
    assert met(store, 3, "second") == {r: ["second"] * 3 for r in range(3)}


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are asked for as Linux has them")
def test_the_interface_towards_an_address():
    assert interface_to("127.0.0.1") == interface_to("localhost") == "lo"
    assert interface_to("no.such.host.invalid") is None


# ---- two agents --------------------------------------------------------------------------------


def recipe_words(folder):
    return [
        *("--model", "ling-tiny", "--data.prefix", str(folder / "text"), "--data.seq_length", "16"),
        *("--train.global_batch_size", "4", "--train.micro_batch_size", "2"),
        *("--train.threads", "1", "--train.steps", "400", "--train.dtype", "float32"),
        *("--train.group_timeout_s", "15", "--optim.lr", "1e-3", "--optim.schedule", "constant"),
        *("--checkpoint.interval_steps", "5"),
    ]


@contextlib.contextmanager
def two_hosts(folder, *degrees, **how):
    write_tokens(folder / "text")
    hosts = Hosts(folder, [*recipe_words(folder), *degrees], **how)
    try:
        yield hosts
    finally:
        hosts.stop()


def alone(folder, steps):
    """What one process logs of the first steps."""
    words = [*recipe_words(folder), "--out", str(folder / "one")]
    end = time.monotonic() + 300
    with subprocess.Popen([sys.executable, "-m", "ling", "pretrain", *words]) as process:
        while process.poll() is None and time.monotonic() < end:
            if len(read_metrics(folder / "one" / "metrics.jsonl")) >= steps:
                process.terminate()
            time.sleep(0.1)
        process.kill()
    return read_metrics(folder / "one" / "metrics.jsonl")[:steps]


def check_losses(folder, out):
    """The losses that were logged are those of one process."""
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    for a, b in zip(alone(folder, len(rows)), rows, strict=True):
        bound = 1e-6 if a["step"] <= 20 else 1e-4
        assert a["loss"] == pytest.approx(b["loss"], rel=bound), a["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * bound), a["step"]


def restarted_then_left_alone(hosts):
    """A rank is killed, and all go on; then the agent of a host, and all save and end.

    The other agent has restarts left, so it waits for a host to come in place of the lost one.
    """
    hosts.wait_for(lambda: hosts.step() > 6)
    os.kill(hosts.rank_of(1), signal.SIGKILL)
    hosts.wait_for(lambda: "resuming" in hosts.said())
    (step,) = map(int, re.findall(r"resuming .* after step (\d+)", hosts.said()))
    hosts.wait_for(lambda: hosts.step() > max(step, 20))
    ranks = [hosts.rank_of(n) for n in (0, 1)]
    hosts.agents[1].kill()
    hosts.agents[1].wait()
    start = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() - start < 60, hosts.said()
        time.sleep(0.1)
    (saved,) = re.findall(r"stopped after step (\d+), saved", hosts.said())
    assert f"step-{saved}" in saved_steps(hosts.out)


def test_two_agents_train_as_one_process_through_a_restart_and_the_death_of_one(tmp_path):
    degrees = ("--parallel.dp_shard", "2", "--parallel.ep", "2")
    with two_hosts(tmp_path, *degrees, restarts=3) as hosts:
        restarted_then_left_alone(hosts)
    check_losses(tmp_path, hosts.out)


@pytest.mark.slow
def test_two_networks_train_as_one_process_through_a_restart_and_the_death_of_one(tmp_path):
    with (
        two_networks() as link,
        two_hosts(tmp_path, "--parallel.dp_shard", "2", restarts=3, link=link) as hosts,
    ):
        restarted_then_left_alone(hosts)
    check_losses(tmp_path, hosts.out)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["host", "network"])
def test_a_host_that_falls_silent_ends_the_other_within_a_minute(tmp_path, how):
    with (
        two_networks() as link,
        two_hosts(tmp_path, "--parallel.dp_replicate", "2", link=link) as hosts,
    ):
        hosts.wait_for(lambda: hosts.step() > 6)
        if how == "host":
            for pid in (hosts.agents[1].pid, hosts.rank_of(1)):
                os.kill(pid, signal.SIGKILL)
        else:
            link.cut()
        start = time.monotonic()
        hosts.agents[0].wait(timeout=90)
        assert time.monotonic() - start < 60
        assert re.search(r"another rank is gone .* continue from step-\d+", hosts.said())
