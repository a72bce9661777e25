"""How much memory and processor time there is, and what control groups (a container, a job of a
scheduler) leave of it.

Both versions of control groups, and every group above the process's own: each one's limit counts.
Nothing here is an error: what cannot be read is no limit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SELF = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
# Version 1 writes "no limit" as the largest multiple of a page below 2^63.
_UNLIMITED = 1 << 60


def memory_available() -> int | None:
    """Bytes that can be had without swapping, reclaimable page cache included; None if unknown.

    The least of what the kernel says and what the control group (a container) leaves.
    """
    found = [n for n in (_meminfo(), memory_left(ROOT)) if n is not None]
    return min(found) if found else None


def _meminfo() -> int | None:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: all of the machine's memory is the best guess
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def memory_left(root: Path = ROOT, own: Path = SELF) -> int | None:
    """Bytes that the groups leave, reclaimable page cache included; None without a limit."""
    left = [_left(g, _limit_v2(g), "memory.current", "") for g in _groups("", root, own)]
    left += [
        _left(g, _limit_v1(g), "memory.usage_in_bytes", "total_")
        for g in _groups("memory", root, own)
    ]
    found = [n for n in left if n is not None]
    return max(0, min(found)) if found else None


def memory_limit(root: Path = ROOT, own: Path = SELF) -> int | None:
    """The least memory limit of the groups in bytes; None without one."""
    limits = [_limit_v2(g) for g in _groups("", root, own)]
    limits += [_limit_v1(g) for g in _groups("memory", root, own)]
    found = [n for n in limits if n is not None]
    return min(found) if found else None


def cpu_quota(root: Path = ROOT, own: Path = SELF) -> float | None:
    """Cores' worth of processor time that the groups grant; None without a limit."""
    found = [q for g in _groups("", root, own) if (q := _quota_v2(g)) is not None]
    found += [q for g in _groups("cpu", root, own) if (q := _quota_v1(g)) is not None]
    return min(found) if found else None


def usable_cores(root: Path = ROOT, own: Path = SELF) -> int:
    """Cores that this process may run on at once: its affinity, or fewer under a quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    quota = cpu_quota(root, own)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota - 1e-6)))


def default_threads() -> int | None:
    """Threads to use under a quota below the number of cores; None where there is no need, or
    where the user has said a number."""
    if any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return None
    cores = usable_cores()
    return cores if cores < (os.cpu_count() or 1) and cpu_quota() is not None else None


def _limit_v2(group: Path) -> int | None:
    limits = (_number(group / name) for name in ("memory.max", "memory.high"))
    return min((n for n in limits if n is not None), default=None)


def _limit_v1(group: Path) -> int | None:
    # The second is the least of all groups above, also of those that are not visible here.
    above = _table(group / "memory.stat").get("hierarchical_memory_limit", _UNLIMITED)
    own = _number(group / "memory.limit_in_bytes")
    least = min(above, _UNLIMITED if own is None else own)
    return None if least >= _UNLIMITED else least


def _left(group: Path, limit: int | None, usage_file: str, prefix: str) -> int | None:
    used = _number(group / usage_file)
    if limit is None or used is None:
        return None
    stat = _table(group / "memory.stat")
    cache = (stat.get(f"{prefix}{k}", stat.get(k, 0)) for k in ("active_file", "inactive_file"))
    return limit - used + sum(cache)


def _quota_v2(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    if len(words) != 2 or not all(w.isdigit() for w in words) or int(words[1]) == 0:
        return None  # "max 100000"
    return int(words[0]) / int(words[1]) or None


def _quota_v1(group: Path) -> float | None:
    quota, period = (_number(group / f"cpu.cfs_{k}_us") for k in ("quota", "period"))
    return quota / period if quota and period and quota > 0 else None  # -1: no limit


def _groups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """Folders of the process's group and of those above it, the own one first.

    `controller` is that of version 1, empty for version 2. Inside a container the path that the
    kernel tells may be that of the host, of which only the root is visible.
    """
    mounts = _mounts(controller, root)
    if not any(m.is_dir() for m in mounts):
        return
    path = _own_path(controller, own)
    for mount in mounts:
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            yield folder
            folder = folder.parent
        yield mount


def _mounts(controller: str, root: Path) -> list[Path]:
    """Where the groups of a controller are: two controllers of version 1 may share a folder."""
    if not controller:
        return [root, root / "unified"]  # the second beside groups of version 1
    shared = {"cpu": ("cpu", "cpu,cpuacct")}.get(controller, (controller,))
    return [root / name for name in shared]


def _own_path(controller: str, own: Path) -> str:
    """The group in `/proc/self/cgroup`, whose lines read `number:controllers:path`."""
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        wanted = controller in controllers.split(",") if controller else number == "0"
        if wanted and ".." not in path.split("/"):
            return path
    return "/"


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    try:
        value = int(text)
    except ValueError:  # "max", or no such file
        return None
    return value if value < _UNLIMITED else None


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
