"""The model against tensors that the original code computed."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.config.optim import OptimConfig
from ling.model.attention import DenseAttend
from ling.model.ling import Ling, from_config, to_dtype
from ling.model.names import in_module
from ling.ops import reference
from ling.presets import preset
from ling.train.forward import LingForTraining
from ling.train.optim import build_optimizer

FOLDERS = ["tiny_fp32", "tiny_yarn_fp32", "tiny_nomtp_fp32"]


class Trace:
    def __init__(self):
        self.seen = {}

    def record(self, layer, logits_TE, ids_TA):
        self.seen[layer] = (logits_TE, ids_TA)


def run(model, ids_BS, trace=None, attend=None):
    """hidden, logits and MTP logits of a batch of equal rows, as upstream computes them."""
    B, S = ids_BS.shape
    positions = torch.arange(S).repeat(B)
    attend = attend or DenseAttend(list(range(0, B * S + 1, S)))
    y = model(ids_BS.flatten(), positions, attend, trace)
    logits, mtp, h, ids = model.logits(y), [], y, ids_BS
    for j in range(model.config.num_nextn_predict_layers):
        ids = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], dim=1)
        h = model.mtp(j, ids.flatten(), h, positions, attend, trace)
        mtp.append(model.logits(h))
    return y, logits, mtp


@pytest.mark.parametrize("folder", FOLDERS)
def test_logits_equal_upstream(fixtures, folder):
    path = fixtures / "model" / folder
    io = load_file(path / "io.safetensors")
    model = load_model(path)
    with torch.no_grad():
        y, logits, mtp = run(model, io["input_ids"])
    assert torch.allclose(logits, io["logits"].flatten(0, 1), atol=1e-4)
    for j, got in enumerate(mtp):
        assert torch.allclose(got, io[f"mtp_logits.{j}"].flatten(0, 1), atol=1e-4)
    n = model.config.num_hidden_layers
    assert torch.allclose(y, io[f"hidden_states.{n}"].flatten(0, 1), atol=1e-4)


def test_bf16_logits_equal_upstream_bit_for_bit(fixtures):
    path = fixtures / "model" / "tiny_bf16"
    io, eager = (
        load_file(path / "io.safetensors"),
        lambda _, q, k, v: reference.causal_attention(q, k, v),
    )
    with torch.no_grad():
        _, logits, _ = run(load_model(path), io["input_ids"], attend=eager)
    assert torch.equal(logits, io["logits_fp32_bias"].flatten(0, 1).float())


def test_bf16_weights_computed_in_float32(fixtures):
    path = fixtures / "model" / "tiny_bf16"
    io = load_file(path / "io.safetensors")
    with torch.no_grad():
        _, logits, _ = run(load_model(path, dtype="float32"), io["input_ids"])
    assert torch.allclose(logits, io["logits_fp32_upcast"].flatten(0, 1), atol=1e-4)


@pytest.mark.parametrize("folder", ["tiny_fp32", "tiny_yarn_fp32", "tiny_nomtp_fp32"])
def test_router_choices_and_weights_equal_upstream(fixtures, folder):
    path = fixtures / "model" / folder
    io = load_file(path / "io.safetensors")
    model, trace = load_model(path), Trace()
    with torch.no_grad():
        run(model, io["input_ids"], trace)
    assert trace.seen
    for layer, (logits, ids) in trace.seen.items():
        want_ids, want_w = io[f"router.{layer}.topk_idx"], io[f"router.{layer}.topk_weight"]
        assert torch.allclose(logits, io[f"router.{layer}.logits"].flatten(0, -2), atol=1e-4)
        gate = model.model.layers[layer].mlp.gate
        scores = logits.sigmoid().gather(1, ids)
        weights = scores / (scores.sum(-1, keepdim=True) + 1e-20) * 2.5
        order, want_order = ids.argsort(1), want_ids.argsort(1)
        assert torch.equal(ids.gather(1, order), want_ids.gather(1, want_order))
        assert torch.allclose(
            weights.gather(1, order), want_w.gather(1, want_order).float(), atol=1e-5
        )
        assert gate.expert_bias.dtype == torch.float32


@pytest.mark.parametrize("folder", ["tiny_fp32", "tiny_yarn_fp32"])
def test_rotary_tables_equal_upstream(fixtures, folder):
    path = fixtures / "model" / folder
    io, model = load_file(path / "io.safetensors"), load_model(path)
    cos, sin = model.rope(torch.arange(io["rotary.cos"].shape[-2]), torch.float32)
    assert torch.allclose(cos, io["rotary.cos"].flatten(0, -2), atol=1e-6)
    assert torch.allclose(sin, io["rotary.sin"].flatten(0, -2), atol=1e-6)


def test_batch_of_two_equals_upstream(fixtures):
    path = fixtures / "model" / "tiny_fp32"
    io = load_file(path / "io.safetensors")
    with torch.no_grad():
        _, logits, _ = run(load_model(path), io["batch2.input_ids"])
    assert torch.allclose(logits, io["batch2.logits"].flatten(0, 1), atol=1e-4)


def test_greedy_continuation_equals_upstream(fixtures):
    path = fixtures / "model" / "tiny_nomtp_fp32"
    greedy = json.loads((path / "expected.json").read_text())["greedy"]
    model, ids = load_model(path), list(greedy["prompt"])
    with torch.no_grad():
        while len(ids) < len(greedy["output"]):
            _, logits, _ = run(model, torch.tensor([ids]))
            ids.append(int(logits[-1].argmax()))
    assert ids == greedy["output"]


def test_gradients_equal_upstream(fixtures):
    path = fixtures / "model" / "tiny_fp32"
    io, grads = load_file(path / "io.safetensors"), load_file(path / "grads.safetensors")
    expected = json.loads((path / "expected.json").read_text())["train_step"]
    model = load_model(path).train()
    labels = io["labels"].clone()
    _, logits, mtp = run(model, io["input_ids"])
    V = logits.shape[-1]

    def loss(scores, shift):
        return torch.nn.functional.cross_entropy(
            scores.view(*labels.shape, V)[:, :-shift].flatten(0, 1), labels[:, shift:].flatten()
        )

    total = loss(logits, 1) + 0.1 * loss(mtp[0], 2)
    assert abs(total.item() - expected["loss"]) < 5e-5
    total.backward()
    for name, grad in grads.items():
        key, expert = in_module(name)
        got = model.get_parameter(key).grad
        assert torch.allclose(got if expert is None else got[expert], grad, atol=1e-4), name


def test_no_values_are_drawn_for_a_model_that_is_to_be_filled(monkeypatch):
    """torch draws them on the meta device with its compiler: a second, and a file to write."""
    monkeypatch.setattr("torch.nn.init.normal_", None)
    with torch.device("meta"):
        assert Ling(TIED).model.word_embeddings.weight.requires_grad


TIED = preset("ling-tiny").replace(tie_word_embeddings=True)


def is_tied(model):
    return model.lm_head.weight is model.model.word_embeddings.weight


def test_a_tied_head_stays_the_embedding_whatever_is_done_to_the_module():
    with torch.device("meta"):
        model = LingForTraining(Ling(TIED))
    model.to_empty(device="cpu")
    assert is_tied(model.ling)
    model.ling.init_weights()
    assert is_tied(model.ling.to(torch.bfloat16))
    assert is_tied(copy.deepcopy(model.ling))
    assert is_tied(to_dtype(model.ling, torch.float32))
    with torch.device("meta"):
        other = Ling(TIED)
    other.load_state_dict(model.ling.state_dict(), assign=True)
    assert is_tied(other)


def test_a_tied_head_is_counted_saved_and_loaded_once():
    model = from_config(TIED, seed=0)
    assert is_tied(model)
    assert "lm_head.weight" not in model.state_dict()
    table = TIED.vocab_size * TIED.hidden_size
    untied = from_config(TIED.replace(tie_word_embeddings=False), seed=0)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, untied)]
    assert counts[1] - counts[0] == table
    groups = build_optimizer(model, OptimConfig()).param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == counts[0]
    other = from_config(TIED, seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.lm_head.weight, model.model.word_embeddings.weight)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_tied_folder_loads_with_its_embedding_as_head(tmp_path, dtype):
    model = from_config(TIED, seed=0)
    save_model(model, TIED, tmp_path, dtype="bfloat16")
    loaded = load_model(tmp_path, dtype)
    assert is_tied(loaded)
    expected = model.model.word_embeddings.weight.bfloat16()
    assert torch.equal(loaded.lm_head.weight.bfloat16(), expected)
