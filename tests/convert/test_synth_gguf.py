"""Synthetic GGUF files: valid, of the right scale, and no easier to run than trained ones."""

from __future__ import annotations

import random

import pytest
import torch

from ling.checkpoint.gguf.names import gguf_specs
from ling.checkpoint.gguf.source import GGUFSource
from ling.config.engine import EngineConfig
from ling.convert.synth_gguf import MIXTURES, mixed_kind, synth_gguf
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.pages import Segment
from ling.ops import native
from ling.presets import preset

TOKENS = 16
CFG = preset("ling-nano-bench").replace(
    num_hidden_layers=3, num_nextn_predict_layers=0, vocab_size=1024, initializer_range=0.03
)


@pytest.fixture(scope="module", params=MIXTURES)
def path(request, tmp_path_factory):
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("synthetic") / f"{request.param}.gguf"
    assert synth_gguf(CFG, path, request.param) == path.stat().st_size
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path


def test_file_is_valid_and_its_weights_have_the_right_scale_and_no_mean(path):
    source = GGUFSource(path)
    for name in (
        "model.word_embeddings.weight",
        "model.layers.2.attention.query_key_value.weight",
        "model.layers.2.mlp.gate.weight",
        "model.layers.1.mlp.experts.3.up_proj.weight",
        "model.layers.2.mlp.experts.3.down_proj.weight",
        "lm_head.weight",
    ):
        values = source.tensor(name).float()
        assert 0.95 < float(values.std()) / CFG.initializer_range < 1.05, name
        # Five standard errors of a mean whose blocks of up to 256 weights share a sign; codes that
        # are half a step too low are at -0.11 of the deviation in Q4_0.
        blocks = values.numel() / 32
        assert abs(float(values.mean() / values.std())) < 5 * 0.11 / blocks**0.5 + 0.02, name
    assert torch.equal(source.tensor("model.norm.weight").float(), torch.ones(CFG.hidden_size))
    source.close()


@pytest.mark.skipif(native.library() is None, reason="no kernel library")
def test_random_tokens_choose_as_many_experts_as_chance_gives(path):
    """With codes half a step below zero it was a fifth of them in Q4_0, so that a batch read a
    fifth of the bytes."""
    runner = open_runner(path, EngineConfig(format="int8"))
    assert isinstance(runner, NativeRunner)
    runner.allocate(TOKENS)
    draw = random.Random(0)
    tokens = [draw.randrange(CFG.vocab_size) for _ in range(TOKENS)]
    runner.forward(tokens, [Segment([i], 0, i, i + 1) for i in range(TOKENS)])
    moe = [n for n in range(CFG.num_hidden_layers) if CFG.is_moe_layer(n)]
    chosen = (runner.expert_counts()[moe] > 0).sum(1)
    share = CFG.num_experts_per_tok / CFG.num_experts
    expected = CFG.num_experts * (1 - (1 - share) ** TOKENS)
    assert (chosen > 0.85 * expected).all(), (chosen, expected)
    assert (chosen < 1.15 * expected).all(), (chosen, expected)


def test_q4_k_m_mixture_gives_more_bits_to_every_third_layer():
    specs = gguf_specs(preset("ling-mini-2.0"))
    names = {n: mixed_kind(n, s, "q4_k_m", 21).name for n, s in specs.items()}
    assert names["output.weight"] == "q6_k"
    assert names["token_embd.weight"] == names["blk.2.attn_output.weight"] == "q4_k"
    more = [n for n in range(21) if names[f"blk.{n}.attn_qkv.weight"] == "q6_k"]
    assert more == [0, 1, 4, 7, 10, 13, 16, 18, 19, 20]
    assert more[1:] == [n for n in range(1, 21) if names[f"blk.{n}.ffn_down_exps.weight"] == "q6_k"]
    assert names["blk.1.ffn_up_exps.weight"] == "q4_k"
    assert names["blk.1.ffn_gate_inp.weight"] == "f32"
