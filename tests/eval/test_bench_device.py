"""Decode steps of a random model, tiny and on the CPU."""

from __future__ import annotations

import time

import pytest
import torch

from ling.eval.bench_device import decode_rates
from ling.presets import preset

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=1)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_point_for_each_context_and_number_of_tokens(batch, fp8):
    seen = []
    report = decode_rates(
        TINY,
        device="cpu",
        fp8=fp8,
        contexts=(0, 100),
        steps=2,
        batch=batch,
        on_point=lambda report: seen.append(len(report["points"])),
    )
    assert seen == [1, 2, 3, 4]
    points = [(p["context"], p["tokens_per_step"]) for p in report["points"]]
    assert points == [(0, 1), (0, 2), (100, 1), (100, 2)]
    for p in report["points"]:
        rate = 1000 * batch * p["tokens_per_step"] / p["ms_per_step"]
        assert p["tokens_per_s"] == pytest.approx(rate)
        assert p["graphs"] is False
    assert report["device"] == "cpu"
    assert report["torch"] == torch.__version__


def test_no_point_begins_after_the_end_of_the_time():
    report = decode_rates(TINY, device="cpu", steps=1, contexts=(0,), until=time.monotonic() - 1)
    assert report["points"] == []
