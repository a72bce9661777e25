"""Which products become FP8."""

from __future__ import annotations

import pytest
import torch
from runs import quiet
from small_runs import recipes

from ling.config.recipe import TrainConfig
from ling.errors import UsageError
from ling.model.ling import Ling
from ling.presets import preset
from ling.train import loop
from ling.train.fp8.layers import Fp8Linear, Fp8SwiGLU
from ling.train.fp8.rule import fp8
from ling.train.log import read_metrics

FP8 = TrainConfig(fp8="blockwise")


def network(**changes):
    with torch.device("meta"):
        return Ling(preset("ling-nano").replace(**changes))


def test_linear_layers_and_experts_are_fp8_and_what_the_format_keeps_is_not():
    model = network()
    names = list(model.state_dict())
    fp8(model, FP8)
    assert list(model.state_dict()) == names
    found = {name for name, m in model.named_modules() if isinstance(m, Fp8Linear)}
    layer = "model.layers.5."  # of MTP
    assert {f"{layer}attention.query_key_value", f"{layer}attention.dense"} <= found
    assert f"{layer}mlp.shared_experts.up_proj" in found
    assert "model.layers.0.mlp.down_proj" in found
    assert f"{layer}eh_proj" not in found
    assert "lm_head" not in found
    assert not any("gate" in name.split(".")[-1:] for name in found)
    routed = [m for m in model.modules() if isinstance(m, Fp8SwiGLU)]
    assert len(routed) == 5


def test_off_leaves_the_network_alone():
    model = network()
    before = list(model.modules())
    fp8(model, TrainConfig())
    assert list(model.modules()) == before


def test_tiles_may_be_partial():
    partial = network(intermediate_size=208, moe_intermediate_size=48)
    fp8(partial, FP8)
    assert isinstance(partial.get_submodule("model.layers.0.mlp.gate_proj"), Fp8Linear)


def test_float32_activations_are_refused():
    with pytest.raises(UsageError, match=r"`train.dtype: bfloat16` instead of `float32`"):
        TrainConfig(fp8="blockwise", dtype="float32")


def test_a_run_in_fp8_stays_close_to_bf16_and_continues_bit_for_bit(tmp_path):
    losses = {}
    for name, kind in (("bf16", "off"), ("once", "blockwise")):
        losses[name] = trained(tmp_path / name, (4,), kind)
    losses["twice"] = trained(tmp_path / "twice", (2, 4), "blockwise")
    assert losses["twice"] == losses["once"]
    assert losses["once"] != losses["bf16"]
    for a, b in zip(losses["once"], losses["bf16"], strict=True):
        assert abs(a - b) < 0.01 * b


def test_weights_that_a_kernel_changes_unseen_are_quantised_again_after_each_step(tmp_path):
    """A continued run makes all codes anew; one that read old codes would have other losses."""
    runs = (("once", (4,)), ("twice", (2, 4)))
    once, twice = (trained(tmp_path / n, stops, "blockwise", "adamw8bit") for n, stops in runs)
    assert once == twice


def trained(folder, stops, kind, optimizer="adamw"):
    """Losses of a run that is stopped at each of `stops`, under a constant schedule."""
    for steps in stops:
        recipe = recipes(folder)(
            steps=steps,
            train={"fp8": kind, "dtype": "bfloat16"},
            optim={"name": optimizer, "schedule": "constant"},
        )
        assert loop.run(recipe, folder / "run", quiet) == 0
    return [row["loss"] for row in read_metrics(folder / "run" / "metrics.jsonl")]
