"""What a fine-tuning recipe trains, counted without a network, against the network itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ling.config.optim import OptimConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.convert.synth import synth
from ling.model.ling import Ling
from ling.plan.memory import memory
from ling.plan.shape import shape_of
from ling.plan.trained import trained_shape
from ling.plan.weights import RankWeights
from ling.presets import preset
from ling.train.adapt import adapt
from ling.train.forward import LingForTraining

MINI = shape_of(preset("ling-mini-2.0"), 2048)


def recipe(method="lora", dtype="bfloat16", targets=("attention", "experts"), **train):
    return SFTConfig(
        model="x",
        method=method,
        data=ChatDataConfig(files=["x"], seq_length=2048),
        train=SFTTrainConfig(steps=1, dtype=dtype, **train),
        lora=LoRAConfig(targets=list(targets), rank=4, expert_rank=2),
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_bytes_are_those_of_the_network(method, dtype):
    cfg, made = preset("ling-tiny"), recipe(method, dtype)
    with torch.device("meta"):
        network = LingForTraining(Ling(cfg))
    network.ling.compute_dtype = torch.bfloat16 if dtype == "bfloat16" else None
    adapt(network, made)
    counted = RankWeights(shape_of(cfg, 64), made, "cpu", 0)
    assert counted.parameters() == sum(p.nbytes for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert counted.gradients() == 4 * trained
    assert counted.states() == 8 * trained


def test_adapters_of_ling_mini_are_those_of_the_published_counts():
    # Attention 2.95M at rank 16 (18 times less here), experts 37.4M per rank.
    attention = RankWeights(MINI, recipe(targets=["attention"]), "cpu", 0)
    assert attention.gradients() / 4 == pytest.approx(2.95e6 / 16 * 4, rel=0.01)
    experts = RankWeights(MINI, recipe(targets=["experts"]), "cpu", 0)
    assert experts.gradients() / 4 == pytest.approx(37.4e6 * 2, rel=0.01)


def test_pre_training_has_the_shape_of_the_model():
    made = PretrainConfig(model="ling-mini-2.0", data=DataConfig(prefix=["x"]))
    assert trained_shape(MINI, made) is MINI


def test_pre_training_without_an_mtp_loss_has_no_moments_of_its_layer():
    made = PretrainConfig(model="ling-mini-2.0", data=DataConfig(prefix=["x"]))
    without = dataclasses.replace(made, train=TrainConfig(mtp_loss_weight=0))
    both = [RankWeights(MINI, recipe, "cpu", 0) for recipe in (made, without)]
    mtp = sum(layer.size() for layer in MINI.layers if layer.is_mtp)
    assert mtp > 0
    assert both[0].states() - both[1].states() == 8 * mtp
    assert both[0].gradients() - both[1].gradients() == 4 * mtp


def test_a_frozen_router_has_no_moments_in_full_fine_tuning():
    frozen = RankWeights(MINI, recipe("full", mtp_loss_weight=0.1), "cpu", 0)
    learning = RankWeights(MINI, recipe("full", mtp_loss_weight=0.1, train_router=True), "cpu", 0)
    router = 20 * 256 * 2048
    assert learning.states() - frozen.states() == 8 * router
    assert frozen.parameters() == learning.parameters() == 4 * MINI.parameters


def test_lora_takes_a_fraction_of_the_memory_of_full_fine_tuning():
    small, full = recipe("lora"), recipe("full")
    lora, every = (memory(MINI, made, "cuda")[0] for made in (small, full))
    assert lora.peak < 0.2 * every.peak
    assert lora.casts < 0.02 * every.casts
    eight = dataclasses.replace(small, optim=OptimConfig(name="adamw8bit"))
    assert memory(MINI, eight, "cuda")[0].states < 0.3 * lora.states


def test_packed_weights_take_what_their_format_takes(tmp_path):
    packed_model, cfg = tmp_path / "int4", preset("ling-tiny")
    synth(cfg, packed_model, to="int4", log=lambda line: None)
    made = dataclasses.replace(recipe("qlora"), model=str(packed_model))
    counted = RankWeights(shape_of(cfg, 64), made, "cpu", 0)
    adapters = 4 * sum(w.size for layer in counted.layers for w in layer.weights if not w.frozen)
    files = sum(f.stat().st_size for f in packed_model.glob("*") if f.suffix != ".json")
    # Without the MTP layer, of which the folder has one more.
    assert 0.5 * files < counted.parameters() - adapters < files
    assert counted.gradients() == adapters
    assert memory(shape_of(cfg, 64), made, "cpu")[0].casts < 100_000
