from __future__ import annotations

import os

import pytest

from ling.ops import cores
from ling.ops.cores import FreeCores, busy_seconds, load_in_words

STAT = """cpu  400 0 0 1000 0 0 0 0 0 0
cpu0 100 10 20 500 7 1 2 3 50 0
cpu1 250 0 0 400 0 0 0 0 0 0
intr 12345 1 2
"""


def test_busy_seconds_are_those_of_the_process_cores_without_idle_and_guests():
    assert busy_seconds(STAT, {0}, 100) == pytest.approx(1.36)
    assert busy_seconds(STAT, {0, 1}, 100) == pytest.approx(3.86)


@pytest.mark.parametrize(
    ("others", "free"), [(0.0, 2), (0.2, 2), (0.3, 1), (0.5, 1), (1.0, 1), (1.9, 1)]
)
def test_a_core_counts_as_free_while_others_take_little_of_it(monkeypatch, others, free):
    readings = iter([(0.0, 10.0, 3.0), (2.0, 10.0 + 2 * others + 1.5, 4.5)])
    monkeypatch.setattr(FreeCores, "_read", lambda self: next(readings))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert FreeCores().count() == free


def test_unknown_where_the_system_has_no_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    assert FreeCores().count() is None


def test_a_quiet_process_leaves_at_least_one_core():
    found = FreeCores()
    sum(range(100_000))
    assert found.count() in range(1, len(found.cores) + 1)


def test_measured_programs_do_not_count_as_others(monkeypatch, tmp_path):
    stat, seconds, clock = tmp_path / "stat", iter([1.0, 1.5]), iter([0.0, 2.0])
    monkeypatch.setattr(cores, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    ticks = os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu0 0 0 0 0 0 0 0 0 0 0\n")
    found = FreeCores(clock=lambda: next(clock), own=lambda: next(seconds))
    stat.write_text(f"cpu0 {ticks} 0 0 0 0 0 0 0 0 0\n")
    assert found.taken() == pytest.approx(0.25)  # a second was busy, half of it measured


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (0.1, "other programs took 5% of 2 cores"),
        (0.5, "other programs took 25% of 2 cores, more than a tenth: measure again"),
        (None, "the load by other programs is unknown here"),
    ],
)
def test_load_above_a_tenth_is_said_to_disturb(taken, words):
    assert load_in_words(taken, 2) == words
