"""Limits of control groups, as files in a folder that stands for /sys/fs/cgroup."""

from __future__ import annotations

import os

import pytest

from ling.ops import limits

GB = 10**9


@pytest.fixture
def group(tmp_path):
    """Writes the files of one group below the root."""

    def write(path, **files):
        folder = tmp_path / "root" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(f"{text}\n")

    return write


@pytest.fixture
def own(tmp_path):
    """Writes /proc/self/cgroup; returns the arguments for both places."""

    def write(*lines):
        (tmp_path / "self").write_text("\n".join(lines) + "\n")
        return tmp_path / "root", tmp_path / "self"

    return write


def v2(limit, used, cache=0):
    return {"memory__max": limit, "memory__current": used, "memory__stat": f"inactive_file {cache}"}


def v1(limit, used, cache=0):
    return {
        "memory__limit_in_bytes": limit,
        "memory__usage_in_bytes": used,
        "memory__stat": f"total_inactive_file {cache}",
    }


NO_LIMIT_V1 = 9223372036854771712


@pytest.mark.parametrize(
    ("groups", "line", "left"),
    [
        ({"": v2("max", 5 * GB)}, "0::/", None),
        ({"": v2(4 * GB, 3 * GB, GB // 2)}, "0::/", 1.5 * GB),
        # The limit is on the group above ours, on ours, or on one that is not ours.
        ({"a": v2(4 * GB, 3 * GB), "a/b": v2("max", GB)}, "0::/a/b", GB),
        ({"a": v2(9 * GB, 3 * GB), "a/b": v2(2 * GB, GB)}, "0::/a/b", GB),
        ({"": {}, "other": v2(GB, GB)}, "0::/a/b", None),
        # A container sees its own group at the root, and the host's path.
        ({"": v2(2 * GB, GB)}, "0::/docker/0123", GB),
        ({"": v2(2 * GB, GB)}, "0::/../../x", GB),
        # Version 1: own hierarchy; no limit is a large number.
        ({"memory": v1(NO_LIMIT_V1, GB)}, "4:memory:/", None),
        ({"memory": v1(4 * GB, 3 * GB, GB)}, "4:memory:/", 2 * GB),
        ({"memory": v1(4 * GB, GB), "memory/a/b": v1(NO_LIMIT_V1, GB)}, "4:memory:/a/b", 3 * GB),
        ({"memory/a": v1(2 * GB, GB), "memory/a/b": v1(8 * GB, GB)}, "4:memory:/a/b", GB),
        ({"memory": v1(2 * GB, GB)}, "4:memory:/docker/0123", GB),
        # Both: version 2 is mounted beside version 1.
        ({"memory": v1(8 * GB, GB), "unified/a": v2(2 * GB, GB)}, "0::/a", GB),
        ({"": v2(GB, 2 * GB)}, "0::/", 0),
    ],
)
def test_the_least_memory_of_all_groups_counts(group, own, groups, line, left):
    for path, files in groups.items():
        group(path, **files)
    assert limits.memory_left(*own(line)) == left


def test_a_limit_of_groups_that_are_not_visible_counts(group, own):
    files = v1(NO_LIMIT_V1, GB)
    files["memory__stat"] = f"total_inactive_file 0\nhierarchical_memory_limit {3 * GB}"
    group("memory", **files)
    assert limits.memory_left(*own("4:memory:/")) == 2 * GB
    assert limits.memory_limit(*own("4:memory:/")) == 3 * GB


def test_free_memory_is_bounded_by_groups(group, own, tmp_path, monkeypatch):
    group("memory", **v1(2 * GB, GB))
    monkeypatch.setattr(limits, "ROOT", tmp_path / "root")
    assert limits.memory_available() <= GB


@pytest.mark.parametrize(
    ("groups", "lines", "quota"),
    [
        ({"": {"cpu__max": "max 100000"}}, ["0::/"], None),
        ({"": {"cpu__max": "150000 100000"}}, ["0::/"], 1.5),
        (
            {"a": {"cpu__max": "200000 100000"}, "a/b": {"cpu__max": "max 100000"}},
            ["0::/a/b"],
            2.0,
        ),
        (
            {"a": {"cpu__max": "50000 100000"}, "a/b": {"cpu__max": "400000 100000"}},
            ["0::/a/b"],
            0.5,
        ),
        ({"cpu": {"cpu__cfs_quota_us": -1, "cpu__cfs_period_us": 100000}}, ["1:cpu:/"], None),
        ({"cpu": {"cpu__cfs_quota_us": 300000, "cpu__cfs_period_us": 100000}}, ["1:cpu:/"], 3.0),
        (
            {"cpu,cpuacct/a": {"cpu__cfs_quota_us": 100000, "cpu__cfs_period_us": 100000}},
            ["1:cpu,cpuacct:/a"],
            1.0,
        ),
        ({"": {"cpu__max": "nonsense"}}, ["0::/"], None),
        ({"": {"cpu__max": "100 0"}}, ["0::/"], None),
        ({}, ["0::/"], None),
    ],
)
def test_the_least_quota_of_all_groups_counts(group, own, groups, lines, quota):
    for path, files in groups.items():
        group(path, **files)
    places = own(*lines)
    assert limits.cpu_quota(*places) == quota
    cores = len(os.sched_getaffinity(0))
    want = cores if quota is None else max(1, min(cores, -int(-quota // 1)))
    assert limits.usable_cores(*places) == want


def test_a_quota_bounds_the_default_threads_only(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(limits, "cpu_quota", lambda *places: None)
    assert limits.default_threads() is None
    monkeypatch.setattr(limits, "cpu_quota", lambda *places: 2.5)
    assert limits.default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert limits.default_threads() is None


def test_available_is_the_least_of_machine_and_control_group(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   5000 kB\n")
    assert limits.memory_available() == 5000 * 1024
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\nactive_file 500000\ninactive_file 250000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert limits.memory_available() == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000\n")
    assert limits.memory_available() == 1_750_000
