"""Stages that fail, hang or lose their GPU: what was found stays, and the next one runs."""

from __future__ import annotations

import os
import sys
import time
import types

import pytest
import torch
from gpu_check.driver import Options, Plan, run_stage, run_stages
from gpu_check.record import Record, read_record
from gpu_check.stage import Missing

from gpu_check import driver


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json", tiny=True, machine={})


@pytest.fixture
def stage_of(monkeypatch):
    """Makes a module with such a `run`; returns its name for a plan."""

    def make(run, name="made"):
        module = types.ModuleType(f"gpu_check.{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return name

    return make


OPTIONS = Options("cpu", True, None)


def ran(record, module, limit_s=20.0):
    run_stage("made", module, record, OPTIONS, limit_s, lambda text: None)
    return read_record(record.path)["stages"]["made"]


def statuses(stage):
    return {entry["name"]: entry["status"] for entry in stage["entries"]}


def good(value=1):
    return {"value": value}


def test_checks_are_judged_by_their_values(record, stage_of):
    def run(stage):
        stage.check("near", lambda: {"error": 0.1, "limit": 0.2})
        stage.check("far", lambda: {"error": 0.3, "limit": 0.2})
        stage.check(
            "not a number",
            lambda: {"error": float("nan"), "limit": 0.2, "losses": [1.0, float("nan")]},
        )
        stage.check("other", lambda: {"equal": False})
        stage.check("measured", good, 5, context=7)
        stage.check("raised", lambda: 1 / 0)
        stage.check("absent", missing)
        stage.check("long", good, needs_s=1e6)

    def missing():
        raise Missing("a kernel")

    found = ran(record, stage_of(run))
    assert found["status"] == "done"
    assert statuses(found) == {
        "near": "ok",
        "far": "wrong",
        "not a number": "wrong",
        "other": "wrong",
        "measured": "ok",
        "raised": "failed",
        "absent": "missing",
        "long": "no time",
    }
    by_name = {entry["name"]: entry for entry in found["entries"]}
    assert (by_name["measured"]["value"], by_name["measured"]["context"]) == (5, 7)
    assert by_name["raised"]["error"] == "ZeroDivisionError: division by zero"
    assert by_name["absent"]["error"] == "a kernel"
    # JSON has no such number.
    assert (by_name["not a number"]["error"], by_name["not a number"]["losses"][1]) == (
        "nan",
        "nan",
    )


def test_a_check_that_hangs_is_ended_and_the_stage_goes_on_behind_it(record, stage_of):
    def run(stage):
        stage.check("first", good)
        stage.check("hangs", time.sleep, 60, limit_s=0.2)
        stage.check("last", good)

    found = ran(record, stage_of(run))
    assert found["status"] == "done"
    assert statuses(found) == {"first": "ok", "hangs": "timeout", "last": "ok"}


def test_a_process_that_dies_in_a_check_is_started_again(record, stage_of):
    def run(stage):
        stage.check("first", good)
        stage.check("dies", die)
        stage.check("last", good)

    def die():
        print("what it said")
        os._exit(9)

    found = ran(record, stage_of(run))
    assert statuses(found) == {"first": "ok", "dies": "failed", "last": "ok"}
    assert "what it said" in found["entries"][1]["error"]


def test_an_error_of_cuda_is_told_and_the_next_process_goes_on(record, stage_of):
    def run(stage):
        stage.check("breaks", breaks)
        stage.check("pid", lambda: {"pid": os.getpid()})

    def breaks():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    found = ran(record, stage_of(run))
    assert found["status"] == "done"
    assert statuses(found) == {"breaks": "failed", "pid": "ok"}


def test_memory_that_does_not_suffice_breaks_nothing(record, stage_of):
    def run(stage):
        stage.check("large", large)
        stage.check("same process", lambda: {"equal": os.getpid() == pid})

    def large():
        nonlocal pid
        pid = os.getpid()
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    pid = 0
    found = ran(record, stage_of(run))
    assert statuses(found) == {"large": "failed", "same process": "ok"}


def test_a_process_that_breaks_again_and_again_is_given_up(record, stage_of, monkeypatch):
    monkeypatch.setattr(driver, "RESTARTS", 1)

    def run(stage):
        for n in range(9):
            stage.check(f"breaks {n}", breaks)

    def breaks():
        raise RuntimeError("CUDA error: unspecified launch failure")

    found = ran(record, stage_of(run))
    assert found["status"] == "failed"
    assert list(statuses(found)) == ["breaks 0", "breaks 1"]


def test_a_stage_over_its_time_ends_and_keeps_what_it_found(record, stage_of):
    def run(stage):
        stage.check("first", good)
        time.sleep(60)

    start = time.time()
    found = ran(record, stage_of(run), limit_s=0.5)
    assert time.time() - start < 10
    assert found["status"] == "timeout"
    assert statuses(found) == {"first": "ok"}


def test_a_stage_without_time_ends_at_once(record, stage_of):
    found = ran(record, stage_of(lambda stage: time.sleep(60)), limit_s=0.0)
    assert (found["status"], found["entries"]) == ("timeout", [])
    found = ran(record, stage_of(lambda stage: time.sleep(60)), limit_s=1e-3)
    assert found["status"] == "timeout"


def test_a_stage_that_cannot_start_says_why_and_the_next_one_runs(record, stage_of):
    plans = {
        "absent": Plan("no_such_module", 1),
        "there": Plan(stage_of(lambda stage: stage.check("first", good)), 1),
    }
    run_stages(plans, list(plans), record, OPTIONS, 30, lambda text: None)
    stages = read_record(record.path)["stages"]
    assert stages["absent"]["status"] == "failed"
    assert "No module named 'gpu_check.no_such_module'" in stages["absent"]["error"]
    assert stages["there"]["status"] == "done"


def test_time_that_a_stage_leaves_is_the_next_ones(record, stage_of):
    plans = {name: Plan(stage_of(lambda stage: None), 1) for name in ("a", "b")}
    run_stages(plans, list(plans), record, OPTIONS, 100, lambda text: None)
    limits = [s["limit_s"] for s in read_record(record.path)["stages"].values()]
    assert limits[0] == pytest.approx(50, abs=1)
    assert limits[1] == pytest.approx(100, abs=5)


def test_constants_are_at_the_top_of_the_file_where_a_plan_reads_them(record, stage_of):
    found = {"gpu": "h100-80g", "constants": {"gemm_share": 0.7}}
    ran(record, stage_of(lambda stage: stage.check("constants", lambda: found)))
    content = read_record(record.path)
    assert (content["gpu"], content["constants"]) == ("h100-80g", {"gemm_share": 0.7})


def test_a_process_that_goes_on_has_what_the_one_before_told(record, stage_of):
    def run(stage):
        stage.check("measured", lambda: {"value": 7})
        stage.check("dies", os._exit, 9)
        stage.check("summary", lambda: {"value": stage.done["measured"]["value"]})

    assert ran(record, stage_of(run))["entries"][2]["value"] == 7
