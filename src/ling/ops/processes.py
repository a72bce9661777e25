"""Processor time and memory of other processes on this machine, from `/proc`."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_LISTENING = "0A"


class Usage(NamedTuple):
    """What a process and its descendants use: processor seconds since they started, resident bytes
    now, and at most so far."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


def usage(pid: int) -> Usage | None:
    """Usage of a process and all its descendants; None once it is gone, or where there is no
    `/proc`. Pages that they share count for each of them."""
    found = [u for u in (_usage(p) for p in _tree(pid)) if u is not None]
    if not found:
        return None
    return Usage(*(sum(column) for column in zip(*found, strict=True)))


def resident_bytes(pid: int) -> int | None:
    """Resident bytes of one process; None where there is no `/proc`."""
    found = _usage(pid)
    return None if found is None else found.rss_bytes


def family_cpu_s() -> float:
    """Processor seconds of this process and of all that it started."""
    found = usage(os.getpid())
    return time.process_time() if found is None else found.cpu_s


def listening_process(port: int) -> int | None:
    """The process that listens on a TCP port of this machine; None where that cannot be seen.

    Of several, such as a server and the workers that it forked, the one with the lowest id.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    owners = [pid for pid in _pids() if sockets & _open_files(pid)] if sockets else []
    return min(owners, default=None)


def is_local(host: str) -> bool:
    """Whether a host name means this machine: its address can be bound here."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _usage(pid: int) -> Usage | None:
    try:
        # The name, in parentheses, may contain anything.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    # Its own time in user and system mode, and that of children that have ended.
    ticks = sum(int(field) for field in fields[11:15])
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
    rss, peak = (int(sizes.get(key, "0 kB").split()[0]) << 10 for key in ("VmRSS", "VmHWM"))
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), rss, peak)


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        try:
            fields = (PROC / str(other) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(other)
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def _pids() -> list[int]:
    try:
        return [int(p.name) for p in PROC.iterdir() if p.name.isdigit()]
    except OSError:
        return []


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *rest = line.split()
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                inodes.add(rest[5])
    return inodes


def _open_files(pid: int) -> set[str]:
    folder, found = PROC / str(pid) / "fd", set()
    try:
        for name in os.listdir(folder):
            found.add(os.readlink(folder / name))
    except OSError:  # another user's, or gone
        pass
    return found
