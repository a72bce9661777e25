"""The memory report of a run: before its first step, and after the first ones."""

from __future__ import annotations

import mmap

import torch

from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.plan.memory import memory
from ling.plan.shape import shape_of
from ling.presets import preset
from ling.train.memory import MEASURED_STEPS, MemoryReport, lines
from ling.train.parallel.group import ALONE


def recipe():
    return PretrainConfig(
        model="ling-tiny",
        data=DataConfig(prefix=["x"], seq_length=128),
        train=TrainConfig(global_batch_size=4, micro_batch_size=4),
    )


def test_the_report_is_a_short_table_and_its_error_comes_once():
    said = []
    report = MemoryReport(recipe(), torch.device("cpu"), ALONE)
    report.tell(preset("ling-tiny"), said.append)
    table = said.pop().splitlines()
    assert table[0].split() == [
        "memory",
        "parameters",
        "gradients",
        "states",
        "activations",
        "rest",
        "peak",
    ]
    assert table[1].startswith("rank 0 ")
    # Not from the heap, which may have as much that earlier tests freed.
    held = mmap.mmap(-1, 64 << 20)
    held.write(bytes(len(held)))
    for _ in range(MEASURED_STEPS + 2):
        report.measure(said.append)
    (line,) = said
    assert line.startswith(f"memory after {MEASURED_STEPS} steps: ")
    mega = float(line.split(": ")[1].split(" MB")[0])
    assert 0.9 * len(held) / 1e6 < mega < 3 * len(held) / 1e6
    assert "on rank 0, expected" in line


def test_rows_are_ranks_and_the_rest_is_all_other_kinds():
    found = memory(shape_of(preset("ling-tiny"), 128), recipe(), "cpu")
    assert len(lines(found)) == 2
    assert found[0].parameters == 4 * shape_of(preset("ling-tiny"), 128).parameters
