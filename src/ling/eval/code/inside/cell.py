"""Makes a cell and runs Python in it: namespaces, a root of its own, limits, a filter.

Three processes: this one, which ends the others when it is told to, and ends when they are gone;
the first process of the new process namespace, with which the kernel kills every other in it; and
the program. Standard
library only: it is run by `python -I -S`, and costs a start of Python.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from . import filter

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# linux/sched.h: mount, cgroup, host name, IPC, user, process ids, network
_NAMESPACES = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_DIE_WITH_PARENT, _DROP_BOUNDING = 1, 24  # prctl
_ENDS = {signal.SIGTERM, signal.SIGCHLD}
"""Signals that end a cell: the caller's, and that its first process has ended."""
USER = 1000  # inside; outside it is the caller, or nobody where the caller is root
_NOBODY = 65534
_DEVICES = ("null", "zero", "full", "random", "urandom")
_FIRST_FREE_FD = 64


class _StepError(Exception):
    """A step towards the cell that the kernel refused."""


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise _StepError(f"{name}: {err.strerror or err}") from None


def main() -> None:
    """Run the cell that `sys.argv[-1]`, JSON, describes; its end is reported on the file
    descriptor `report` as one line of JSON."""
    config = json.loads(sys.argv[-1])
    try:
        _enter_namespaces()
        _die_with_parent()
        if os.getppid() != config["parent"]:
            os._exit(1)
    except (_StepError, OSError) as err:
        _report(config, {"refused": str(err)})
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    alive, held = os.pipe()  # `held` is closed by the end of this process only
    if (pid := os.fork()) == 0:
        os.close(held)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        _first_process(config, alive)
    signal.sigwait(_ENDS)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # the kernel ends the first process of a namespace after all others
    os._exit(0)


def _die_with_parent() -> None:
    with _step("prctl"):
        _call("prctl", _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


def _report(config: dict[str, Any], what: dict[str, Any]) -> None:
    os.write(config["report"], json.dumps(what).encode() + b"\n")


def _enter_namespaces() -> None:
    """New namespaces for this process; another one outside of them maps its user."""
    user, group = os.geteuid(), os.getegid()
    outside, ready = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(ready)
        os.read(outside, 1)
        os._exit(_map_user(os.getppid(), user, group))
    with _step("unshare"):
        if _LIBC.unshare(_NAMESPACES) != 0:
            raise _error("unshare")
    os.close(outside)
    os.write(ready, b"1")
    os.close(ready)
    if os.waitpid(pid, 0)[1] != 0:
        raise _StepError("uid_map: Operation not permitted")


def _map_user(pid: int, user: int, group: int) -> int:
    """The caller is `USER` inside. A caller that is root stays root for the set-up, which reads
    what only root may, and the program is nobody; limits on processes do not bind root."""
    if user == 0 and _mapped(
        pid, f"0 {user} 1\n{USER} {_NOBODY} 1\n", f"0 {group} 1\n{USER} {_NOBODY} 1\n"
    ):
        return 0
    # Also the root of a container that has no other user.
    with suppress(OSError):
        _write(f"/proc/{pid}/setgroups", "deny")
    return 0 if _mapped(pid, f"{USER} {user} 1\n", f"{USER} {group} 1\n") else 1


def _mapped(pid: int, users: str, groups: str) -> bool:
    try:
        _write(f"/proc/{pid}/uid_map", users)
        _write(f"/proc/{pid}/gid_map", groups)
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _first_process(config: dict[str, Any], alive: int) -> None:
    """Build the root, start the program, report its end; the kernel ends the rest with this."""
    try:
        # A first process gets no signal, of those in its namespace, that it has no handler for.
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _die_with_parent()
        if select.select([alive], [], [], 0)[0]:
            os._exit(1)  # the parent ended before the line above
        _build_root(config)
        failed, failure = os.pipe()
        if (pid := os.fork()) == 0:
            _program(config, failure)
        os.close(failure)
        if why := os.read(failed, 1000):
            raise _StepError(why.decode())
        while True:
            found, status = os.wait()
            if found == pid:
                break
        _report(config, {"code": os.waitstatus_to_exitcode(status)})
    except (_StepError, OSError) as err:
        _report(config, {"refused": str(err)})
    os._exit(0)


# ---- the root ----------------------------------------------------------------------------------


def _build_root(config: dict[str, Any]) -> None:
    """A root with Python and the system's libraries, read-only, and an empty `/tmp`."""
    with _step("mount"):
        _mount(None, "/", None, _RECURSIVE | _PRIVATE)
        # Any folder will do: in this namespace only, it becomes the root with the old one in it.
        _tmpfs("/tmp", "mode=755,size=1m")
        os.mkdir("/tmp/old")
        os.mkdir("/tmp/new")
        _pivot("/tmp", "/tmp/old")
        os.chdir("/")
        _tmpfs("/new", "mode=755,size=1m")
        for path in config["shown"]:
            _show(path, _NO_DEVICES)
        for inside, path in config["shown_as"].items():
            _show(path, _NO_DEVICES, inside)
        for path, target in config["links"].items():
            os.makedirs(os.path.dirname("/new" + path), exist_ok=True)
            os.symlink(target, "/new" + path)
        for name in _DEVICES:
            _show(f"/dev/{name}", 0)
        for path in config["hidden"]:
            _mount("tmpfs", "/new" + path, "tmpfs", _READ_ONLY | _NO_SUID | _NO_DEVICES, "size=4k")
        os.mkdir("/new/tmp")
        size = f"size={config['folder_bytes']},nr_inodes=4096"
        _tmpfs("/new/tmp", f"mode=700,{size},uid={USER},gid={USER}", _NO_EXEC)
    with _step("pivot_root"):
        os.chdir("/new")
        _pivot(".", ".")
        _call("umount2", b".", _DETACH)
        os.chdir("/")
        flags = _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES
        _mount(None, "/", None, flags)


def _show(path: str, flags: int, inside: str | None = None) -> None:
    """`path` of the old root at its place in the new one, or at `inside`; read-only with all below
    it."""
    source, target = "/old" + path, "/new" + (inside or path)
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, None, _BIND | _RECURSIVE)
    # mount_setattr(2): the flags have the values of mount(2)'s, and also bind mounts below
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SUID | flags, 0, 0, 0)
    here, below = -100, 0x8000
    arguments = (here, target.encode(), below, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _system(filter.MOUNT_SETATTR, *arguments)


def _tmpfs(path: str, options: str, flags: int = 0) -> None:
    _mount("tmpfs", path, "tmpfs", _NO_SUID | _NO_DEVICES | flags, options)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [None if t is None else t.encode() for t in (source, target, kind, options)]
    _call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def _pivot(new: str, old: str) -> None:
    _system(filter.PIVOT_ROOT[os.uname().machine], new.encode(), old.encode())


def _call(name: str, *arguments: Any) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        raise _error(name)


def _system(number: int, *arguments: Any) -> None:
    if _LIBC.syscall(ctypes.c_long(number), *arguments) != 0:
        raise _error("mount")


def _error(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


# ---- the program -------------------------------------------------------------------------------


def _program(config: dict[str, Any], failure: int) -> None:
    """Give up every right and become the program."""
    try:
        os.setsid()
        os.chdir("/tmp")
        os.umask(0o077)
        failure = _keep_only(config["files"], failure)
        with _step("rlimit"):
            for name, value in config["limits"].items():
                resource.setrlimit(getattr(resource, name), (value, value))
        with _step("setresuid"):
            _drop_rights()
        with _step("seccomp"):
            filter.install(_LIBC)
        with _step("execve"):
            os.execve(config["command"][0], config["command"], config["environment"])
    except BaseException as err:
        os.write(failure, str(err).encode()[:1000])
    os._exit(1)


def _keep_only(files: list[int], failure: int) -> int:
    """The open files become 0, 1, 2, ... in their order; all others are closed, `failure` by the
    program's start. Returns the new number of `failure`."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE_FD) for fd in files]
    failure = os.dup2(failure, _FIRST_FREE_FD - 1, inheritable=False)
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    os.closerange(len(files), failure)
    os.closerange(failure + 1, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 4096))
    return failure


def _drop_rights() -> None:
    for capability in range(64):
        if _LIBC.prctl(_DROP_BOUNDING, capability, 0, 0, 0) != 0:
            break  # the first number that the kernel does not know
    if os.geteuid() != USER:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
