"""Constants of a plan from rates whose shares are known."""

from __future__ import annotations

import json

import pytest
from gpu_check.for_plan import constants, known_gpu
from gpu_check.stage import Missing

from ling.plan.constants import read_calibration
from ling.plan.gpus import GPUS

H100 = GPUS["h100-80g"]


def at(share, seconds, **fields):
    """A measurement that reached such a share of the peak."""
    rate = share * H100.bf16_flops
    return {"seconds_each": seconds, "flops": rate * seconds, "flops_per_s": rate, **fields}


FOUND = {
    "copy on the device": {"bytes_per_s": 3e12},
    "product ling qkv": at(0.5, 1e-3),
    "product ling attention output": at(0.8, 2e-3),
    "FP8 product ling qkv": {"seconds_each": 1e-3, "base_seconds_each": 1e-3},
    "FP8 product ling attention output": {"seconds_each": 1e-3, "base_seconds_each": 2e-3},
    "experts, 64 rows each": at(0.1, 1e-3, rows=64),
    "experts, 2048 rows each": at(0.4, 3e-3, rows=2048),
    "attention, 8192 tokens": at(0.3, 4e-3),
}


def test_shares_are_of_all_time_and_factors_of_times_in_turns():
    made = constants(FOUND, H100)
    assert made == {
        "gemm_share": pytest.approx(0.7),
        "attention_share": pytest.approx(0.3),
        "expert_share_by_rows": {"64": pytest.approx(0.1), "2048": pytest.approx(0.4)},
        "copy_bytes_per_s": 3e12,
        "fp8_gemm_factor": pytest.approx(1.5),
    }


def test_what_a_layer_takes_beside_its_products_is_the_stream():
    parts = {"product shared expert up": at(0.2, 0.5e-3)}
    products_s = 1e-3 + 2e-3 + 3 * 0.5e-3 + 4e-3 + 3e-3
    layer = {"seconds_each": products_s + 2e-3, "bytes": 3e9, "tokens": 8192, "rows": 2048}
    made = constants({**FOUND, **parts, "a MoE layer": layer}, H100)
    assert made["stream_share"] == pytest.approx(0.5)
    # Products that take longer by themselves than in the layer tell nothing.
    layer["seconds_each"] = products_s / 2
    assert "stream_share" not in constants({**FOUND, **parts, "a MoE layer": layer}, H100)


def test_nothing_measured_is_no_constant():
    assert constants({}, H100) == {}


def test_a_plan_reads_them(tmp_path):
    content = {"format": 1, "gpu": "h100-80g", "constants": constants(FOUND, H100)}
    (tmp_path / "found.json").write_text(json.dumps(content))
    found = read_calibration(tmp_path / "found.json")
    assert found.gpu == "h100-80g"
    assert found.constants.expert_share(64) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80g"),
        ("NVIDIA H200", "h100-80g"),
        ("NVIDIA H20", "h20-96g"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
    ],
)
def test_gpus_by_the_names_of_torch(name, ours):
    assert known_gpu(name).name == ours


def test_another_gpu_is_said_to_be_unknown():
    with pytest.raises(Missing, match="knows no GPU like NVIDIA L4"):
        known_gpu("NVIDIA L4")
