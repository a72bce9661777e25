"""Seconds of a step: what GPUs, FP8, recomputation, stages and measured constants change."""

from __future__ import annotations

import dataclasses

import pytest

from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.config.sft import ChatDataConfig, SFTConfig, SFTTrainConfig
from ling.errors import UsageError
from ling.plan.constants import ASSUMED
from ling.plan.estimate import as_json, estimate
from ling.plan.gpus import GPUS, NAMES, find_gpu, gpu_like
from ling.plan.network import GATHER, REDUCE
from ling.presets import preset

MINI = preset("ling-mini-2.0")


def planned(layout, gpu="h100-80g", constants=ASSUMED, rows=128, fp8="off"):
    recipe = PretrainConfig(
        model="ling-mini-2.0",
        data=DataConfig(prefix=["x"], seq_length=4096),
        train=TrainConfig(steps=10, global_batch_size=rows, micro_batch_size=1, fp8=fp8),
        parallel=ParallelConfig(**layout),
    )
    return estimate(MINI, recipe, GPUS[gpu], constants)


def test_a_step_is_the_sum_of_its_parts():
    found = planned({"dp_shard": 8, "ep": 8})
    assert found.bubble == 0
    assert found.step_s == pytest.approx(found.compute_s + found.exposed_s + found.update_s)
    assert found.tokens_per_s == pytest.approx(128 * 4096 / found.step_s)
    flops = found.shape.flops_per_token
    assert found.mfu == pytest.approx(found.tokens_per_s * flops / 8 / 989.4e12)
    assert found.gpu_hours() == pytest.approx(10 * found.step_s * 8 / 3600)


def test_what_is_faster_and_what_is_slower():
    base = planned({"dp_shard": 8, "ep": 8})
    assert planned({"dp_shard": 8, "ep": 8}, fp8="blockwise").step_s < base.step_s
    assert planned({"dp_shard": 8, "ep": 8, "recompute": "moe"}).step_s > 1.1 * base.step_s
    assert planned({"dp_shard": 8, "ep": 8}, gpu="h800-80g").exposed_s > 2 * base.exposed_s
    assert planned({"dp_shard": 8, "ep": 8}, gpu="h20-96g").compute_s > 2 * base.compute_s
    twice = planned({"dp_shard": 16, "ep": 8}, rows=256)
    assert 1.9 < twice.tokens_per_s / base.tokens_per_s < 2.05
    faster = dataclasses.replace(ASSUMED, stream_share=2 * ASSUMED.stream_share)
    assert planned({"dp_shard": 8, "ep": 8}, constants=faster).step_s < base.step_s


def test_stages_wait_less_when_interleaved_and_with_more_micro_batches():
    one = planned({"pp": 4, "dp_shard": 2, "ep": 2}, rows=16)
    several = planned({"pp": 4, "dp_shard": 2, "ep": 2, "pp_stages_per_rank": 2}, rows=16)
    many = planned({"pp": 4, "dp_shard": 2, "ep": 2}, rows=512)
    assert one.bubble > several.bubble > 0
    assert one.bubble > many.bubble > 0


def test_what_cannot_exist_is_refused():
    with pytest.raises(UsageError, match="does not divide the model's 256 experts"):
        planned({"dp_shard": 96, "ep": 96}, rows=96)
    with pytest.raises(UsageError, match=r"a100-80g does not have; set `--train\.fp8 off`"):
        planned({"dp_shard": 8, "ep": 8}, gpu="a100-80g", fp8="blockwise")
    with pytest.raises(UsageError, match=r"no GPU `h100`.*h800-80g, h20-96g, a100-80g, cpu"):
        find_gpu("h100")


def test_the_json_says_what_the_table_does():
    found = as_json(planned({"dp_shard": 8, "ep": 8}))
    assert found["fits"]
    assert found["parallel"]["ep"] == 8
    assert found["memory"][0]["ranks"] == [0, 7]
    assert set(found["traffic"]) == {"gather weights", "add up gradients", "experts' rows"}


def test_every_gpu_has_a_source():
    assert {*GPUS, "cpu"} == set(NAMES)
    assert all(gpu.source for gpu in GPUS.values())


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80g"),
        ("NVIDIA H200", "h100-80g"),  # not an H20
        ("NVIDIA H20", "h20-96g"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
    ],
)
def test_names_of_torch_are_those_of_a_plan(name, known):
    assert gpu_like(name) is GPUS[known]
    assert gpu_like("NVIDIA GeForce RTX 4090") is None


def tuned(method="full", gpu="h100-80g", layout=None, length=2048, cfg=MINI, **more):
    recipe = SFTConfig(
        model="ling-mini-2.0",
        method=method,
        data=ChatDataConfig(files=["x"], seq_length=length),
        train=SFTTrainConfig(steps=10, global_batch_size=16),
        parallel=ParallelConfig(**(layout or {})),
        **more,
    )
    return estimate(cfg, recipe, GPUS[gpu], ASSUMED)


def test_frozen_weights_have_no_gradient_to_compute_update_or_send():
    shards = {"dp_shard": 8}
    full, lora = tuned(layout=shards), tuned("lora", layout=shards)
    # Forward, and backward to the inputs only; adapters add a little, attention has no weights.
    assert 0.66 < lora.flops_per_token / full.flops_per_token < 0.75
    assert lora.compute_s < 0.85 * full.compute_s
    assert lora.update_s < 0.05 * full.update_s
    sent = [{t.name: t.bytes for t in found.traffic} for found in (full, lora)]
    assert sent[1][REDUCE] < 0.05 * sent[0][REDUCE]
    assert sent[1][GATHER] == pytest.approx(sent[0][GATHER], rel=0.6)
    assert lora.peak < 0.6 * full.peak


def test_an_mtp_layer_without_a_loss_takes_no_time():
    with_mtp = MINI.replace(num_nextn_predict_layers=1)
    without = MINI.replace(num_nextn_predict_layers=0)
    times = [tuned(cfg=cfg).compute_s for cfg in (with_mtp, without)]
    assert times[0] == pytest.approx(times[1])
    train = SFTTrainConfig(steps=10, global_batch_size=16, mtp_loss_weight=0.1)
    recipe = dataclasses.replace(tuned().recipe, train=train)
    assert estimate(with_mtp, recipe, GPUS["h100-80g"], ASSUMED).compute_s > 1.02 * times[0]


def test_a_pair_is_two_documents_of_a_row():
    pairs, rows = tuned(objective="dpo"), tuned()
    assert pairs.tokens == 2 * rows.tokens
    assert pairs.run_tokens() == 10 * pairs.tokens
    assert pairs.flops_per_token == rows.flops_per_token, "they do not see each other"
    assert pairs.compute_s > rows.compute_s
    assert pairs.peak > rows.peak


def test_epochs_say_no_steps_and_packed_weights_no_gpu():
    train = SFTTrainConfig(epochs=2)
    found = estimate(
        MINI, dataclasses.replace(tuned().recipe, train=train), GPUS["h100-80g"], ASSUMED
    )
    assert as_json(found)["run_tokens"] is as_json(found)["gpu_hours"] is None
    with pytest.raises(UsageError, match="--gpu cpu"):
        tuned("qlora")
