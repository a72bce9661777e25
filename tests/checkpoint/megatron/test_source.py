"""Megatron checkpoints of other versions and shapes, and arguments as real files hold them."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.megatron.args import config_from_args, read_args
from ling.checkpoint.megatron.names import deinterleave, interleave, megatron_slices
from ling.checkpoint.open import open_source
from ling.convert.plan import convert
from ling.errors import ConfigError, DCPError
from ling.model.ling import from_config
from ling.model.names import tensor_specs
from ling.presets import preset

H, HEADS, GROUPS, HEAD = 64, 4, 2, 16


def expected(tiny, tmp_path, tensors):
    convert(tiny / "dcp_in", tmp_path / "expected")
    return tensors(tmp_path / "expected")


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def split_qkv(weights, prefix):
    """Replace the fused projection by three, each with the norm in front, as older trees save."""
    fused = weights.pop(prefix + "linear_qkv.weight")
    norm = weights.pop(prefix + "linear_qkv.layer_norm_weight")
    by_group = fused.view(GROUPS, HEADS // GROUPS + 2, HEAD, H)
    q, k, v = by_group.split([HEADS // GROUPS, 1, 1], dim=1)
    for name, part in (("q", q), ("k", k), ("v", v)):
        weights[f"{prefix}linear_{name}.weight"] = part.reshape(-1, H).contiguous()
        weights[f"{prefix}linear_{name}.layer_norm_weight"] = norm.clone()


def test_split_projections_fuse(tiny, weights, args, megatron, tmp_path, tensors):
    for n in range(3):
        split_qkv(weights, f"decoder.layers.{n}.self_attention.")
    convert(megatron(weights, args), tmp_path / "out")
    same(tensors(tmp_path / "out"), expected(tiny, tmp_path, tensors))


def test_split_projections_with_different_norms_name_the_layer(weights, args, megatron, tmp_path):
    split_qkv(weights, "decoder.layers.1.self_attention.")
    weights["decoder.layers.1.self_attention.linear_k.layer_norm_weight"][3] += 1
    with pytest.raises(DCPError, match=r"decoder\.layers\.1"):
        convert(megatron(weights, args), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stacked", [True, False])
def test_other_spellings_are_read(stacked, tiny, weights, args, megatron, tmp_path, tensors):
    renamed = {}
    for key, value in weights.items():
        key = key.replace(".transformer_layer.", ".mtp_model_layer.")
        if ".experts.experts." in key and not stacked:
            for e, expert in enumerate(value):
                renamed[key.replace(".experts.experts.", ".experts.") + str(e)] = expert.clone()
        else:
            renamed[key] = value
    convert(megatron(renamed, args), tmp_path / "out")
    same(tensors(tmp_path / "out"), expected(tiny, tmp_path, tensors))


def test_layers_stacked_along_an_axis_are_read(megatron, tmp_path, tensors):
    cfg = small_config(num_experts=0, num_nextn_predict_layers=0)
    save(cfg, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "by-layer", to="megatron")
    one = tmp_path / "by-layer" / "iter_0000001"
    state = {}
    held = DCPFolder(one)
    for key in held.tensors:
        parts = key.split(".")
        if parts[:2] == ["decoder", "layers"]:
            whole = ".".join(parts[:2] + parts[3:])
            layers = [key.replace(f"layers.{parts[2]}.", f"layers.{n}.") for n in range(3)]
            state[whole] = torch.stack([held.tensor(name) for name in layers])
        else:
            state[key] = held.tensor(key)
    args = dict(read_args(one), params_dtype="bf16")
    convert(megatron(state, args), tmp_path / "out")
    same(tensors(tmp_path / "out"), tensors(tmp_path / "hf"))


def small_config(**changes):
    cfg = preset("ling-nano").replace(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # not hidden_size / num_attention_heads
        num_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
        num_shared_experts=2,
        num_nextn_predict_layers=1,
        dtype="bfloat16",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return cfg.replace(**changes)


def save(cfg, folder: Path) -> None:
    folder.mkdir()
    save_model(from_config(cfg, seed=1), cfg, folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nextn_predict_layers": 2},
        {"num_shared_experts": 0, "moe_shared_expert_intermediate_size": 0},
        {"num_experts": 0, "num_nextn_predict_layers": 0},
        {"use_qkv_bias": True, "use_bias": True},
        {"tie_word_embeddings": True, "use_qk_norm": False},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_round_trip_of_other_shapes_with_the_real_head_size(changes, tmp_path, tensors):
    save(small_config(**changes), tmp_path / "hf")
    to = "float32" if changes.get("dtype") == "float32" else "bf16"
    convert(tmp_path / "hf", tmp_path / "megatron", to="megatron", verify=True)
    convert(tmp_path / "megatron", tmp_path / "back", to=to)
    same(tensors(tmp_path / "back"), tensors(tmp_path / "hf"))
    assert open_source(tmp_path / "back").config == open_source(tmp_path / "hf").config


def test_arguments_alone_describe_the_model(tmp_path):
    cfg = small_config()
    save(cfg, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "megatron", to="megatron")
    args = read_args(tmp_path / "megatron" / "iter_0000001")
    del args["ling_config"]
    found = config_from_args(args, tied=False, mtp_layers=1)
    not_in_args = {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    not_in_args["max_window_layers"] = cfg.max_window_layers
    assert found.replace(**not_in_args) == cfg


def test_torch_reads_what_we_write_and_plain_pickle_the_arguments(tiny, weights, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "out", to="megatron")
    folder = tmp_path / "out" / "iter_0000001"
    state = {k: torch.empty_like(v) for k, v in weights.items()}
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    same(state, weights)
    common = torch.load(folder / "common.pt", weights_only=False)
    assert common["args"].moe_layer_freq == [0, 1, 1]
    assert common["args"].params_dtype is torch.bfloat16
    assert (tmp_path / "out/latest_checkpointed_iteration.txt").read_text() == "1"


def test_interleaving_and_back():
    cfg = small_config()
    for shape in ((cfg.q_size + 2 * cfg.kv_size, 7), (cfg.q_size + 2 * cfg.kv_size,)):
        fused = torch.randn(shape)
        assert torch.equal(deinterleave(interleave(fused, cfg), cfg), fused)
    rows = torch.arange(8)  # queries 0 1 2 3, keys 4 5, values 6 7
    one = cfg.replace(head_dim=2, rotary_dim=2).replace(hidden_size=8)
    heads = rows.repeat_interleave(2)
    assert interleave(heads, one).view(-1, 2)[:, 0].tolist() == [0, 1, 4, 6, 2, 3, 5, 7]


def test_places_name_every_tensor_once():
    cfg = small_config()
    boxes = {(p.key, p.start) for p in megatron_slices(cfg).values()}
    assert len(boxes) == len(tensor_specs(cfg))


def test_newest_iteration_of_a_training_is_found(weights, args, megatron, tmp_path):
    megatron(weights, args, "run/iter_0000020")
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("20\n")
    assert open_source(tmp_path / "run").kind == "Megatron checkpoint"
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("../../etc")
    with pytest.raises(DCPError, match="latest_checkpointed_iteration"):
        open_source(tmp_path / "run")
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("30")
    with pytest.raises(DCPError, match="iter_0000030"):
        open_source(tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("decoder.layers.1.mlp.down_weight", "unexpected tensor"),
        ("decoder.layers.7.mlp.router.weight", "unexpected tensor"),
        ("decoder.layers.1.mlp.router.weight", "missing"),
        ("decoder.layers.1.self_attention.linear_proj.weight", "has shape"),
    ],
)
def test_tensors_that_do_not_fit_are_named(key, word, weights, args, megatron):
    if word == "missing":
        del weights[key]
    else:
        weights[key] = torch.zeros(3, 3)
    with pytest.raises(DCPError, match=word) as err:
        open_source(megatron(weights, args))
    assert key in str(err.value)


def test_unused_expert_bias_is_zero(weights, args, megatron):
    weights = {k: v for k, v in weights.items() if "expert_bias" not in k}
    source = open_source(megatron(weights, {**args, "moe_router_enable_expert_bias": False}))
    assert not source.tensor("model.layers.1.mlp.gate.expert_bias").any()


# ---- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"kv_channels": 32}, "head_dim", 32),
        ({"moe_shared_expert_intermediate_size": 48}, "num_shared_experts", 3),
        ({"moe_shared_expert_intermediate_size": None}, "num_shared_experts", 0),
        ({"moe_router_num_groups": None, "moe_router_group_topk": None}, "n_group", 1),
        ({"moe_router_topk_scaling_factor": None}, "routed_scaling_factor", 1.0),
        ({"moe_layer_freq": 1}, "first_k_dense_replace", 0),
        ({"first_k_dense_replace": 2}, "first_k_dense_replace", 2),
        ({"padded_vocab_size": None}, "vocab_size", 128),
        ({"group_query_attention": False}, "num_key_value_heads", 4),
        ({"max_position_embeddings": 4096}, "max_position_embeddings", 128),
    ],
    ids=str,
)
def test_arguments_become_the_configuration(change, field, value, args):
    config = config_from_args({**args, **change}, tied=False, mtp_layers=0)
    assert getattr(config, field) == value


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"moe_layer_freq": [1, 0, 1]}, "moe_layer_freq"),
        ({"moe_layer_freq": [0, 0, 0]}, "moe_layer_freq"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_experts": 2**40}, "num_experts"),
        ({"moe_router_score_function": "softmax"}, "score_function"),
        ({"use_rope_scaling": True}, "use_rope_scaling"),
        ({"norm_epsilon": float("nan")}, "rms_norm_eps"),
    ],
    ids=str,
)
def test_impossible_arguments_are_named(change, word, args):
    with pytest.raises(ConfigError, match=word):
        config_from_args({**args, **change}, tied=False, mtp_layers=0)


def test_values_of_real_arguments_are_read(tmp_path, args):
    data = {
        "args": argparse.Namespace(
            **args,
            params_dtype=torch.bfloat16,
            data_path=["a", "b"],
            betas=(0.9, 0.95),
            names={"x", "y"},
            timeout=timedelta(minutes=10),
            where=Path("/nowhere"),
        ),
        "checkpoint_version": 3.0,
        "iteration": 7,
        "rng": torch.arange(4),
        "array": np.arange(3),
    }
    torch.save(data, tmp_path / "common.pt")
    found = read_args(tmp_path)
    assert found["num_layers"] == 3
    assert found["betas"] == (0.9, 0.95)
    assert sorted(found["names"]) == ["x", "y"]


def archive(folder: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(folder / "common.pt", "w") as file:
        file.writestr("common/data.pkl", pickled)
        file.writestr("common/version", "3")
    return folder


def test_unknown_enum_becomes_a_placeholder(tmp_path):
    # {"args": Namespace(backend=megatron...AttnBackend(5), num_layers=3)}
    pickled = (
        b"\x80\x02}X\x04\0\0\0argscargparse\nNamespace\n)\x81}(X\x07\0\0\0backend"
        b"cmegatron.core.transformer.enums\nAttnBackend\nK\x05\x85RX\x0a\0\0\0num_layersK\x03ubs."
    )
    args = read_args(archive(tmp_path, pickled))
    assert args["num_layers"] == 3
    assert str(args["backend"].kind) == "megatron.core.transformer.enums.AttnBackend"


class Call:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    "function",
    [os.system, eval, exec, __import__, getattr(os, "posix_spawn", os.system)],
    ids=lambda f: f.__name__,
)
def test_functions_in_common_pt_are_an_error_and_never_run(function, tmp_path, weights, megatron):
    canary = tmp_path / "canary"
    folder = megatron(weights, {})
    torch.save(
        {"args": argparse.Namespace(x=Call(function, f"open({str(canary)!r}, 'w')"))},
        folder / "common.pt",
    )
    start = time.process_time()
    with pytest.raises(DCPError, match="not allowed") as err:
        convert(folder, tmp_path / "out")
    assert "common.pt" in str(err.value)
    assert "\n" not in str(err.value)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
    assert time.process_time() - start < 5


def test_classes_in_common_pt_are_not_built(tmp_path):
    canary = tmp_path / "canary"
    data = {
        "args": argparse.Namespace(x=1),
        "y": Call(subprocess.Popen, ["touch", str(canary)]),
        "z": Call(Path, "x"),
    }
    torch.save(data, tmp_path / "common.pt")
    assert read_args(tmp_path) == {"x": 1}
    assert not canary.exists()


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, pickle.dumps({"args": 1})], ids=["empty", "text", "pickle"]
)
def test_common_pt_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "common.pt").write_bytes(content)
    with pytest.raises(DCPError, match=r"common\.pt"):
        read_args(tmp_path)
    archive(tmp_path, pickle.dumps({"args": [1, 2]}, protocol=2))
    with pytest.raises(DCPError, match="no `args`"):
        read_args(tmp_path)


def test_fifo_in_place_of_common_pt_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "common.pt")
    with pytest.raises(DCPError, match="regular"):
        read_args(tmp_path)


def test_argument_that_holds_itself_is_one_error(weights, args, megatron):
    endless: list = []
    endless.append(endless)
    with pytest.raises(DCPError, match=r"common\.pt"):
        open_source(megatron(weights, {**args, "num_experts": endless}))
