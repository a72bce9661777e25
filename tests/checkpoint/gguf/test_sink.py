"""GGUF files: what is written, and that reading gives it back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf_models import WORDS, named_tensors

from ling.checkpoint.gguf.metadata import config_of, metadata_of
from ling.checkpoint.gguf.names import gguf_specs
from ling.checkpoint.gguf.source import GGUFSource
from ling.checkpoint.open import open_source, sink_for
from ling.checkpoint.raw.gguf_header import read_header
from ling.checkpoint.sink import SinkOptions
from ling.data.tokenizer import Tokenizer
from ling.errors import TokenizerError, UsageError
from ling.model.names import tensor_specs
from ling.model.rope import inverse_frequencies
from ling.presets import preset

# Largest error of one weight in steps of its block (half a step, and rounding to bfloat16).
QUANTISED = {"q8_0": 0.02, "q4_0": 0.35, "q4_1": 0.2, "q5_0": 0.17, "q5_1": 0.1}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("bf16", torch.bfloat16),
        ("f32", torch.float32),
        ("f32", torch.bfloat16),
        ("f16", torch.float16),
    ],
)
def test_export_reads_back_bit_for_bit_with_mtp(export, tiny, kind, dtype):
    tensors = named_tensors(tiny, dtype)
    source = open_source(export(tiny, tensors, None, kind))
    assert source.kind == "GGUF file"
    assert source.config.num_nextn_predict_layers == 1
    for name, spec in tensor_specs(tiny).items():
        got = source.tensor(name)
        assert torch.equal(got.float(), tensors[name].float()), name
        stored = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
        assert got.dtype == (torch.float32 if spec.float32 else stored)
        assert source.stored_bytes(name) >= got.numel() * 2
    source.close()


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_export_keeps_the_error_of_its_format(export, tiny, kind):
    pytest.importorskip("gguf")
    tensors = named_tensors(tiny, torch.float32)
    source = GGUFSource(export(tiny, tensors, None, kind))
    for name, spec in tensor_specs(tiny).items():
        error = (source.tensor(name).float() - tensors[name]).abs().max()
        # The router is only rounded to the config's dtype, the expert bias not at all.
        share = 0.0 if spec.float32 else 2**-9 if "mlp.gate." in name else QUANTISED[kind]
        assert error <= share * float(tensors[name].abs().max()), name
    source.close()


def test_router_norms_and_bias_stay_float32_and_the_head_has_8_bits(export, tiny):
    pytest.importorskip("gguf")
    path = export(tiny, named_tensors(tiny, torch.bfloat16), None, "q4_0")
    kinds = {n: t.kind.name for n, t in read_header(path).tensors.items()}
    assert kinds["output.weight"] == "q8_0"
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_up_exps.weight"] == "q4_0"
    for name in ("blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias", "blk.0.attn_norm.weight"):
        assert kinds[name] == "f32"
    assert kinds["blk.3.nextn.eh_proj.weight"] == "q4_0"
    assert kinds["blk.3.layer_output_norm.weight"] == "f32"


def test_metadata_is_that_of_the_released_models():
    cfg = preset("ling-1t").replace(rotary_dim=64, partial_rotary_factor=1.0)
    got = {k.removeprefix("bailingmoe2."): v for k, v in metadata_of(cfg).items()}
    got.pop("ling.config")
    assert got == {
        "block_count": 80,
        "context_length": 32768,
        "embedding_length": 8192,
        "feed_forward_length": 18432,
        "attention.head_count": 64,
        "attention.head_count_kv": 8,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 600000.0,
        "rope.dimension_count": 64,
        "rope.scaling.type": "none",
        "leading_dense_block_count": 4,
        "vocab_size": 157184,
        "expert_count": 256,
        "expert_used_count": 8,
        "expert_feed_forward_length": 2048,
        "expert_shared_feed_forward_length": 2048,
        "expert_shared_count": 1,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "expert_group_count": 8,
        "expert_group_used_count": 4,
        "nextn_predict_layers": 0,
    }


def test_tensor_count_is_that_of_the_released_models():
    assert len(gguf_specs(preset("ling-1t"))) == 1103
    specs = gguf_specs(preset("ling-mini-2.0").replace(num_nextn_predict_layers=0))
    assert len(specs) == 278
    one_t = gguf_specs(preset("ling-1t")).values()
    assert sum(spec.float32 for spec in one_t) == 473


@pytest.mark.parametrize("name", ["ling-mini-2.0", "ling-1t", "ling-tiny"])
def test_config_survives_the_file(name):
    cfg = preset(name).replace(initializer_range=0.006, rms_norm_eps=1e-5)
    metadata = {"general.architecture": "bailingmoe2"} | metadata_of(cfg)
    assert config_of(metadata) == cfg


def test_config_of_a_file_by_another_program_has_no_own_key():
    cfg = preset("ling-mini-2.0")
    metadata = {"general.architecture": "bailingmoe2"} | metadata_of(cfg)
    del metadata["ling.config"]
    metadata |= {f"tokenizer.ggml.{k}_token_id": i for k, i in [("bos", 1), ("eos", 2)]}
    got = config_of(metadata)
    assert (got.rotary_size, got.n_group, got.eos_token_id) == (64, 8, 2)
    assert got.mtp_loss_scaling_factor == 0.1


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"beta_fast": 16.0, "attention_factor": 1.25},
        {"mscale": 1.0, "mscale_all_dim": 0.5},
    ],
)
def test_yarn_survives_the_file(extra):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768} | extra
    cfg = preset("ling-mini-2.0").replace(rope_scaling=scaling, max_position_embeddings=131072)
    back = config_of({"general.architecture": "bailingmoe2"} | metadata_of(cfg))
    (want, want_factor), (got, got_factor) = inverse_frequencies(cfg), inverse_frequencies(back)
    assert torch.equal(want, got)
    assert got_factor == pytest.approx(want_factor)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_experts": 0, "num_nextn_predict_layers": 0}, "dense model"),
        ({"head_dim": 64}, "must be equal"),
        ({"use_qk_norm": False}, "QK norm"),
        ({"use_bias": True}, "biases"),
        ({"num_shared_experts": 0}, "shared experts"),
    ],
)
def test_model_that_llama_cpp_cannot_run_is_refused(tiny, tmp_path, changes, why):
    with pytest.raises(UsageError, match=why):
        sink_for("gguf", tmp_path, tiny.replace(**changes), SinkOptions())
    assert not list(tmp_path.iterdir())


def test_unknown_type_is_refused(tiny, tmp_path):
    with pytest.raises(UsageError, match="q8_0"):
        sink_for("gguf", tmp_path, tiny, SinkOptions(gguf_type="q9_0"))


def test_absent_package_is_named_before_anything_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"ling\[gguf\]"):
        sink_for("gguf", tmp_path, tiny, SinkOptions(gguf_type="q8_0"))
    assert not list(tmp_path.iterdir())


def test_the_length_of_several_shared_experts_is_one_of_them(tiny):
    cfg = tiny.replace(num_shared_experts=2, moe_shared_expert_intermediate_size=64)
    values = metadata_of(cfg)
    assert values["bailingmoe2.expert_shared_count"] == 2
    assert values["bailingmoe2.expert_shared_feed_forward_length"] == 64
    assert config_of({"general.architecture": "bailingmoe2"} | values) == cfg


def test_tied_head_is_written_and_comes_back_as_a_head(export, tiny):
    cfg = tiny.replace(tie_word_embeddings=True)
    tensors = named_tensors(cfg, torch.bfloat16)
    source = GGUFSource(export(cfg, tensors, None))
    embeddings = tensors["model.word_embeddings.weight"]
    assert torch.equal(source.tensor("lm_head.weight"), embeddings)
    source.close()


def test_tokenizer_comes_back_as_a_folder_that_encodes_alike(export, tiny, tokenizer_folder):
    path = export(tiny, named_tensors(tiny, torch.bfloat16), tokenizer_folder)
    source = GGUFSource(path)
    before, after = Tokenizer.from_folder(tokenizer_folder), source.tokenizer_folder
    after = Tokenizer.from_folder(after)
    texts = [WORDS, "<role>HUMAN</role>hi<|role_end|>", "it's 12345\n\n  x", "🚀 [PAD299]"]
    for text in texts:
        for special in (False, True):
            got = after.encode(text, parse_special=special)
            assert got == before.encode(text, parse_special=special), text
    assert after.chat_template == before.chat_template
    assert after.stop_token_ids == before.stop_token_ids
    assert after.control_tokens == before.control_tokens
    for kind in ("bos_token", "eos_token", "pad_token", "cls_token"):
        assert after.special_tokens[kind] == before.special_tokens[kind]
    folder = source.tokenizer_folder
    source.close()
    assert not folder.exists()


def test_vocabulary_is_padded_with_unused_tokens(export, tiny, tokenizer_folder):
    metadata = read_header(
        export(tiny, named_tensors(tiny, torch.bfloat16), tokenizer_folder)
    ).metadata
    size = Tokenizer.from_folder(tokenizer_folder).vocab_size
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == tiny.vocab_size > size
    assert types[size:] == [5] * (tiny.vocab_size - size)
    assert tokens[size] == f"[PAD{size}]"
    control = metadata["tokenizer.ggml.eos_token_id"]
    assert (tokens[control], types[control]) == ("<|role_end|>", 3)
    assert metadata["tokenizer.ggml.pre"] == "bailingmoe2"
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_tokenizer_that_cuts_words_otherwise_is_refused(tiny, tokenizer_folder, tmp_path):
    raw = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))
    raw["pre_tokenizer"] = {"type": "ByteLevel", "use_regex": True}
    raw["pre_tokenizer"] |= {"add_prefix_space": False, "trim_offsets": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), "utf-8")
    with pytest.raises(TokenizerError, match="cuts words"):
        sink_for("gguf", tmp_path, tiny, SinkOptions(tokenizer=tmp_path))


def test_the_rule_without_possessive_marks_is_the_same_rule(tiny, tokenizer_folder, tmp_path):
    copy = shutil.copytree(tokenizer_folder, tmp_path / "copy")
    raw = (copy / "tokenizer.json").read_text("utf-8")
    plain = raw.replace("]?+", "]?").replace("]++", "]+")
    assert plain != raw
    (copy / "tokenizer.json").write_text(plain, "utf-8")
    sizes = [
        sink_for("gguf", tmp_path, tiny, SinkOptions(tokenizer=folder)).files
        for folder in (tokenizer_folder, copy)
    ]
    assert sizes[0] == sizes[1]


def test_model_without_tokenizer_is_exported_with_a_warning(export, tiny, caplog):
    path = export(tiny, named_tensors(tiny, torch.bfloat16), None)
    assert "token ids only" in caplog.text
    assert read_header(path).metadata["tokenizer.ggml.model"] == "none"
    assert GGUFSource(path).tokenizer_folder is None


def test_the_gguf_package_reads_our_file_alike(export, tiny, tokenizer_folder):
    gguf = pytest.importorskip("gguf")
    path = export(tiny, named_tensors(tiny, torch.float32), tokenizer_folder, "q8_0")
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert fields.keys() == ours.metadata.keys()
    for key, value in ours.metadata.items():
        assert fields[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == info.shape
        assert (tensor.data_offset, tensor.n_bytes) == (info.offset, info.nbytes)


def test_folder_name_becomes_the_models_name(tiny, tmp_path):
    folder = tmp_path / "my-model.gguf.tmp"
    folder.mkdir()
    sink = sink_for("gguf", folder, tiny, SinkOptions())
    for name, tensor in named_tensors(tiny, torch.bfloat16).items():
        sink.put(name, tensor)
    sink.finish()
    assert read_header(Path(folder / "model.gguf")).metadata["general.name"] == "my-model"
