"""What each recipe trains of a network, before it has storage."""

from __future__ import annotations

import pytest
import torch

from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.config.sft import ChatDataConfig, SFTConfig, SFTTrainConfig
from ling.errors import UsageError
from ling.model.ling import Ling
from ling.presets import preset
from ling.train.adapt import adapt, keeps_base
from ling.train.forward import LingForTraining
from ling.train.optim import build_optimizer

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=1)
MTP = f"model.layers.{TINY.num_hidden_layers}."


def recipe(method="full", **train):
    return SFTConfig(
        model="m",
        method=method,
        data=ChatDataConfig(files=["f"], seq_length=64),
        train=SFTTrainConfig(**train),
    )


def adapted(made):
    with torch.device("meta"):
        network = LingForTraining(Ling(TINY))
    adapt(network, made)
    return network


def frozen(network):
    return {name for name, p in network.ling.named_parameters() if not p.requires_grad}


def is_router(name):
    return name.endswith("mlp.gate.weight")


def test_pre_training_trains_everything():
    network = adapted(PretrainConfig(model="ling-tiny", data=DataConfig(prefix=["x"])))
    assert not frozen(network)
    assert network.num_mtp_layers == 1


def test_pre_training_leaves_mtp_layers_whose_loss_has_no_weight():
    train = TrainConfig(mtp_loss_weight=0)
    network = adapted(PretrainConfig(model="ling-tiny", data=DataConfig(prefix=["x"]), train=train))
    names = [name for name, _ in network.ling.named_parameters()]
    assert frozen(network) == {n for n in names if n.startswith(MTP)} != set()
    assert network.num_mtp_layers == 0


def test_full_fine_tuning_leaves_routers_and_mtp_layers():
    network = adapted(recipe())
    names = [name for name, _ in network.ling.named_parameters()]
    assert frozen(network) == {n for n in names if is_router(n) or n.startswith(MTP)}
    assert network.num_mtp_layers == 0
    held = {
        id(p)
        for g in build_optimizer(network.ling, recipe().optim).param_groups
        for p in g["params"]
    }
    trained = {id(p) for p in network.ling.parameters() if p.requires_grad}
    assert held == trained


def test_routers_and_mtp_layers_are_trained_where_they_are_asked_for():
    assert not frozen(adapted(recipe(train_router=True, mtp_loss_weight=0.1)))
    network = adapted(recipe(mtp_loss_weight=0.1))
    assert all(map(is_router, frozen(network)))
    assert network.num_mtp_layers == 1


def test_with_adapters_nothing_else_is_trained():
    network = adapted(recipe("lora"))
    trained = {n for n, p in network.ling.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert keeps_base(recipe("lora"))
    assert not keeps_base(recipe())


def test_an_adapter_cannot_hold_what_a_router_learns():
    with pytest.raises(UsageError, match=r"`train.bias_update_rate` needs `method: full`"):
        adapted(recipe("lora", bias_update_rate=1e-3))
