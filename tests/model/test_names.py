from __future__ import annotations

import pytest

from ling.model.ling import from_config
from ling.model.names import in_module, tensor_specs
from ling.presets import preset

TINY = preset("ling-tiny")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_word_embeddings": True},
        {"use_qkv_bias": True, "use_bias": True},
        {"use_qk_norm": False},
        {"num_shared_experts": 0},
        {"num_nextn_predict_layers": 2},
        {"first_k_dense_replace": 3, "num_nextn_predict_layers": 0},
    ],
    ids=str,
)
def test_names_and_shapes_are_those_of_the_module(change):
    cfg = TINY.replace(**change)
    state = from_config(cfg, seed=0).state_dict()
    slices: dict[str, list[int]] = {}
    for name, spec in tensor_specs(cfg).items():
        inner, expert = in_module(name)
        shape = tuple(state[inner].shape)
        if expert is None:
            assert shape == spec.shape, name
        else:
            assert shape == (cfg.num_experts, *spec.shape), name
        slices.setdefault(inner, []).append(expert or 0)
    tied = {"lm_head.weight"} if cfg.tie_word_embeddings else set()
    assert set(slices) == set(state) - tied
    for inner, experts in slices.items():
        assert experts == list(range(cfg.num_experts if ".experts." in inner else 1))


def test_expert_names_lead_to_a_slice_of_the_stack():
    name = "model.layers.1.mlp.experts.12.up_proj.weight"
    assert in_module(name) == ("model.layers.1.mlp.experts.up_proj", 12)
    for other in ("model.norm.weight", "model.layers.1.mlp.shared_experts.up_proj.weight"):
        assert in_module(other) == (other, None)


def test_only_the_bias_of_the_router_never_leaves_float32():
    kept = {name for name, spec in tensor_specs(TINY).items() if spec.float32}
    assert kept == {f"model.layers.{n}.mlp.gate.expert_bias" for n in (1, 2, 3)}


def test_layers_come_in_order_embedding_first_and_head_last():
    names = list(tensor_specs(TINY))
    assert names[0] == "model.word_embeddings.weight"
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]
    layers = [int(name.split(".")[2]) for name in names[1:-2]]
    assert layers == sorted(layers)
