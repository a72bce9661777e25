"""Runs untrusted programs in cells: processes without network, files, rights or neighbours.

A cell is a process in namespaces of its own (users, processes, network, mounts, IPC, host name). It
sees Python, the system's libraries and an empty folder, `/tmp`, which is gone with it. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from ...errors import RunError, UsageError
from .inside import filter

_INSIDE = Path(__file__).parent / "inside"
_START = "import sys; sys.path.append(sys.argv[1]); from inside import {name} as m; m.main()"
_SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store")
_LAST_BREATH_S = 5.0
_FILES = ("/etc/ld.so.cache", "/usr/share/zoneinfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use."""

    wall_s: float = 10.0
    """Seconds from its start, with the start of Python, to the end of its last test."""
    memory_bytes: int = 1 << 30
    """Address space of the process."""
    folder_bytes: int = 32 << 20
    """All files in its folder, which are in memory."""
    output_bytes: int = 1 << 20
    """What it may print; the program is ended there."""
    threads: int = 16
    """Threads of its one process."""
    open_files: int = 64
    """File descriptors."""

    def __post_init__(self) -> None:
        """Raises `UsageError` for a limit under which no Python starts."""
        lows = {"wall_s": 0.1, "memory_bytes": 64 << 20, "folder_bytes": 4096, "output_bytes": 1}
        for name, low in {**lows, "threads": 1, "open_files": 16}.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                raise UsageError(f"`{name}` of the sandbox is {value}, the least is {low}")

    def rlimits(self) -> dict[str, int]:
        """By name in `resource`."""
        return {
            "RLIMIT_CPU": math.ceil(self.wall_s) + 1,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_STACK": min(64 << 20, self.memory_bytes // 4),
            "RLIMIT_FSIZE": self.folder_bytes,
            "RLIMIT_NPROC": self.threads + 3,  # the cell's own processes count
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }


@dataclass
class Outcome:
    """How a program ended."""

    code: int | None = None
    """Exit status, negative for a signal; None where it was ended from outside."""
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    """What a checker wrote about its tests."""
    stopped: str = ""
    """Why it was ended from outside."""


class Role(NamedTuple):
    """What a cell runs: a module of `inside` with its payload."""

    module: str
    payload: Mapping[str, Any]
    stdin: bytes = b""
    connection: socket.socket | None = None


def run_one(role: Role, limits: Limits, stop: Event | None = None) -> Outcome:
    """Run one program to its end."""
    return run_cells([role], limits, stop)[0]


def run_cells(roles: Sequence[Role], limits: Limits, stop: Event | None = None) -> list[Outcome]:
    """Run programs side by side until the first of `roles` has ended, then end the others.

    All of it is over within `limits.wall_s`, or as soon as `stop` is set. Raises `UsageError` where
    the kernel gives no cell.
    """
    deadline = time.monotonic() + limits.wall_s
    cells: list[_Cell] = []
    try:
        for role in roles:
            cells.append(_Cell(role, limits))
        _watch(cells, deadline, stop)
    finally:
        for cell in cells:
            cell.end()
    return [cell.outcome() for cell in cells]


def _watch(cells: Sequence[_Cell], deadline: float, stop: Event | None) -> None:
    """Read what cells write, in bounded memory, until the first of them has ended."""
    with selectors.DefaultSelector() as ready:
        for cell in cells:
            for pipe in cell.pipes:
                ready.register(pipe.fd, selectors.EVENT_READ, (cell, pipe))
        while not cells[0].ended:
            left = deadline - time.monotonic()
            if left <= 0 or (stop is not None and stop.is_set()):
                for cell in cells:
                    cell.stopped = "time" if left <= 0 else "interrupted"
                return
            for key, _ in ready.select(min(left, 0.1)):
                cell, pipe = key.data
                if not pipe.read():
                    ready.unregister(pipe.fd)
                    cell.open_pipes -= 1
                elif len(pipe.data) > pipe.most:
                    cell.stopped = "output"
                    return


@dataclass
class _Pipe:
    most: int
    fd: int = -1
    data: bytearray = field(default_factory=bytearray)

    def open(self) -> int:
        """Returns the end to write to."""
        self.fd, other = os.pipe()
        return other

    def read(self) -> int:
        """Returns how much came: 0 at the end."""
        piece = os.read(self.fd, 1 << 16)
        self.data += piece
        return len(piece)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Cell:
    """One cell; it is gone after `end`."""

    def __init__(self, role: Role, limits: Limits) -> None:
        self.stopped = ""
        self._stdout, self._stderr = _Pipe(limits.output_bytes), _Pipe(limits.output_bytes)
        self._report, self._result = _Pipe(4096), _Pipe(1 << 16)
        self.pipes = (self._stdout, self._stderr, self._report, self._result)
        self.open_pipes = len(self.pipes)
        ours: list[int] = []
        try:
            stdin = _sealed(role.stdin) if role.stdin else os.open(os.devnull, os.O_RDONLY)
            ours.append(stdin)
            for pipe in self.pipes:
                ours.append(pipe.open())
            ours.append(payload := _sealed(json.dumps(role.payload).encode()))
            _, stdout, stderr, report, result, _ = ours
            files = [stdin, stdout, stderr, payload]
            if role.connection is not None:
                files.append(role.connection.fileno())
            if role.module == "checker":
                files.append(result)
            self._process = _start(role.module, files, report, limits)
        except OSError as err:
            for pipe in self.pipes:
                pipe.close()
            raise RunError(f"no process for the sandbox: {err.strerror or err}") from None
        finally:
            for fd in ours:
                os.close(fd)
            if role.connection is not None:
                role.connection.close()

    @property
    def ended(self) -> bool:
        return self.open_pipes == 0

    def end(self) -> None:
        """Kill all of it, and wait until it is gone."""
        self._process.terminate()  # it ends last, when the kernel has ended all others
        try:
            self._process.wait(_LAST_BREATH_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in self.pipes:
            pipe.close()

    def outcome(self) -> Outcome:
        """Raises `UsageError` where the kernel refused the cell."""
        report = json.loads(self._report.data or b"{}")
        if "refused" in report:
            raise UsageError(_refusal(report["refused"]))
        found = Outcome(report.get("code"), stopped=self.stopped)
        found.stdout, found.stderr = bytes(self._stdout.data), bytes(self._stderr.data)
        found.result = bytes(self._result.data)
        return found


def _sealed(data: bytes) -> int:
    """A file in memory that nobody can change any more, to be read from its start."""
    import fcntl

    fd = os.memfd_create("ling", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _start(
    module: str, files: Sequence[int], report: int, limits: Limits
) -> subprocess.Popen[bytes]:
    python = [_python(), "-S", "-B", "-X", "utf8"]
    config = {
        **_root(),
        "command": [*python, "-s", "-c", _START.format(name=module), "/cell"],
        # Sets are in the same order in every run; the program sees no variable at all.
        "environment": {"PYTHONHASHSEED": "0"},
        "files": list(files),
        "report": report,
        "parent": os.getpid(),
        "limits": limits.rlimits(),
        "folder_bytes": limits.folder_bytes,
    }
    start = _START.format(name="cell")
    return subprocess.Popen(
        [*python, "-I", "-c", start, str(_INSIDE.parent), json.dumps(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(*files, report),
        start_new_session=True,
        cwd="/",
        env={},
    )


def _python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@cache
def _root() -> dict[str, Any]:
    """What a cell sees: folders, links between them, and folders of packages, which are hidden."""
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    shown: list[str] = []
    links = {}
    for path in (*_SYSTEM, os.path.dirname(stdlib), *_FILES, _python()):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.exists(path) and not any(path.startswith(s + "/") for s in shown):
            shown.append(path)
    packages = [Path(stdlib, name) for name in ("site-packages", "dist-packages")]
    packages += [Path("/usr/lib/python3/dist-packages")]
    hidden = [str(path) for path in packages if path.is_dir() and not path.is_symlink()]
    inside = {"/cell/inside": os.path.realpath(_INSIDE)}
    return {"shown": shown, "shown_as": inside, "links": links, "hidden": hidden}


def require_sandbox(limits: Limits | None = None) -> None:
    """Raises `UsageError`, with how to enable it, where no program can be run safely."""
    if sys.platform != "linux":
        raise UsageError(
            "code is run in namespaces of the Linux kernel only, and this system is "
            f"`{sys.platform}`; run it in a Linux virtual machine"
        )
    if platform.machine() not in filter.ARCHITECTURES:
        known = " and ".join(filter.ARCHITECTURES)
        raise UsageError(f"code is run on {known} only, and this machine is `{platform.machine()}`")
    role = Role("answer", {"program": "print(6 * 7)", "serves": False})
    outcome = run_one(role, limits or Limits())
    if outcome.stdout != b"42\n":
        lines = outcome.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else outcome.stopped or f"exit status {outcome.code}"
        raise UsageError(f"Python does not start in the sandbox: {why[:300]}")


def _refusal(step: str) -> str:
    return (
        f"code is not run: the kernel refused a sandbox ({step}). It needs Linux 5.12; as root, "
        "`sysctl -w user.max_user_namespaces=10000` and, where they exist, "
        "`kernel.unprivileged_userns_clone=1` and "
        "`kernel.apparmor_restrict_unprivileged_userns=0` enable it; Docker and Podman need "
        "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`"
    )
