"""Torchrun agents that stand for hosts: on loopback, or each in a network of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ling.train.log import read_metrics

NETWORK = "10.203.77"


@dataclass
class Link:
    """How agents reach each other: the address of each, and what goes before its command."""

    addresses: list[str] = field(default_factory=lambda: ["127.0.0.1"] * 2)
    prefixes: list[list[str]] = field(default_factory=lambda: [[], []])
    names: list[str] = field(default_factory=list)

    def cut(self):
        """Take the second host's network down without a word to anybody."""
        run("ip", "-n", self.names[1], "link", "set", "veth0", "down")


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def two_networks():
    """Two network namespaces joined by a cable; skips where they cannot be made."""
    names = [f"ling{os.getpid()}-{n}" for n in (0, 1)]
    if os.geteuid() or not (shutil.which("ip") and shutil.which("nsenter")):
        pytest.skip("needs root, `ip` and `nsenter`")
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no network namespaces: {made.stderr.strip()}")
        cable = f"veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}"
        run("ip", "link", "add", *cable.split())
        for n, name in enumerate(names):
            run("ip", "-n", name, "address", "add", f"{NETWORK}.{n + 1}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                run("ip", "-n", name, "link", "set", device, "up")
        inside = [["nsenter", f"--net=/var/run/netns/{name}"] for name in names]
        yield Link([f"{NETWORK}.{n + 1}" for n in (0, 1)], inside, names)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Hosts:
    """`torchrun --nnodes 2 … -m ling pretrain` twice; `recipe` are its words."""

    def __init__(self, folder, recipe, *, restarts=0, link=None):
        link = link or Link()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
            env.pop(name, None)
        self.out, self.logs, self.agents = folder / "run", [], []
        for n, prefix in enumerate(link.prefixes):
            command = [
                *prefix, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
                "--nproc-per-node", "1", "--max-restarts", str(restarts), "--rdzv-backend", "c10d",
                "--rdzv-id", "hosts", "--rdzv-endpoint", f"{link.addresses[0]}:{port}",
                # Both have the name of this machine, which may mean its loopback.
                "--local-addr", link.addresses[n],
                "--rdzv-conf", f"is_host={int(n == 0)}", "-m", "ling", "pretrain", *recipe,
                "--out", str(self.out),
            ]  # fmt: skip
            log = folder / f"host-{n}.log"
            with log.open("w") as file:
                self.agents.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
            self.logs.append(log)

    def said(self):
        """The logs of both hosts."""
        return "\n".join(log.read_text() for log in self.logs)

    def step(self):
        """The last step that was logged."""
        rows = read_metrics(self.out / "metrics.jsonl")
        return rows[-1]["step"] if rows else 0

    def wait_for(self, what, seconds=90):
        """Until `what()` is true; fails with the logs if an agent ends before."""
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end or any(a.poll() is not None for a in self.agents):
                pytest.fail(self.said())
            time.sleep(0.1)

    def rank_of(self, host):
        """The process id of a host's rank."""
        agent = str(self.agents[host].pid)
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == agent and b"\0RANK=" in (entry / "environ").read_bytes():
                    return int(entry.name)
        return None

    def stop(self):
        """End what still runs, for a test that failed."""
        for host, agent in enumerate(self.agents):
            rank = self.rank_of(host)
            for pid in (rank, agent.pid):
                with contextlib.suppress(ProcessLookupError, TypeError):
                    os.kill(pid, signal.SIGKILL)
            agent.wait()
