from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from ling.ops import processes
from ling.ops.processes import family_cpu_s, is_local, listening_process, usage

BUSY = "import time; e = time.process_time() + 0.3\nwhile time.process_time() < e: pass"


def test_usage_counts_descendants_also_when_they_have_ended():
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", f"{parent}; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        found = usage(process.pid)
        assert found.cpu_s >= 0.3
        assert 1 << 20 < found.rss_bytes <= found.peak_rss_bytes < 1 << 30
        process.stdin.close()
    assert usage(process.pid) is None


def test_our_own_processor_time_is_that_of_the_clock():
    before = family_cpu_s()
    exec(BUSY)
    assert 0.25 < family_cpu_s() - before < 5


def test_the_process_that_listens_is_found():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert listening_process(port) is None
        server.listen()
        assert listening_process(port) == os.getpid()
    assert listening_process(port) is None


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False)]
)
def test_a_host_is_local_if_its_address_is_ours(host, local):
    assert is_local(host) == local


def test_a_name_that_does_not_exist_is_not_local(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert not is_local("nowhere.invalid")


def test_nothing_is_known_where_there_is_no_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "PROC", tmp_path / "absent")
    assert usage(os.getpid()) is None
    assert listening_process(80) is None
    assert family_cpu_s() > 0


def test_resident_memory_is_that_of_the_process_alone():
    pid = os.getpid()
    resident = processes.resident_bytes(pid)
    assert 10e6 < resident <= processes.usage(pid).peak_rss_bytes
    assert processes.resident_bytes(2**30) is None
