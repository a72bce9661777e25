"""`ling verify`: what it finds, and that it passes what rounding explains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.hf.checksums import CHECKSUMS, write_checksums
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source
from ling.convert.plan import convert
from ling.convert.probe import logits, probe_tokens
from ling.convert.verify import verify
from ling.errors import CheckpointError
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset

QKV = "model.layers.1.attention.query_key_value.weight"


def save(folder, dtype, **changes):
    model = from_config(preset("ling-tiny").replace(**changes), seed=0)
    folder.mkdir()
    save_model(model, model.config, folder, dtype=dtype)
    return folder


@pytest.fixture
def bf16(tmp_path):
    return save(tmp_path / "bf16", "bfloat16")


@pytest.fixture
def fp8(fixtures, tmp_path):
    return Path(shutil.copytree(fixtures / "dcp/tiny/hf_fp8_mtp", tmp_path / "fp8"))


def edit(folder, change):
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_unquantised_gguf_is_compared_exactly(bf16, tmp_path):
    pytest.importorskip("gguf")
    convert(bf16, tmp_path / "model.gguf", to="gguf", verify=True)
    assert verify(bf16, tmp_path / "model.gguf")["formats"].keys() == {"float"}
    edit(bf16, lambda t: t[QKV][0, 0].mul_(1.02))
    with pytest.raises(CheckpointError, match=f"`{QKV}` differs"):
        verify(bf16, tmp_path / "model.gguf")


def test_float32_and_bfloat16_of_one_model_agree_after_rounding(bf16, tmp_path):
    float32 = save(tmp_path / "float32", "float32")
    report = verify(bf16, float32)
    assert report["formats"].keys() == {"float"}
    assert 0 < report["logits"]["max_difference"] < 0.1
    assert verify(bf16, bf16)["logits"]["max_difference"] == 0
    float16 = tmp_path / "float16"
    convert(bf16, float16, dtype="float16")
    verify(bf16, float16)
    convert(float16, tmp_path / "back", verify=True)
    edit(float32, lambda t: t[QKV][0, 0].add_(1e-3))
    with pytest.raises(CheckpointError, match=rf"`{QKV}` differs between .* more than float"):
        verify(bf16, float32)


def test_fp8_is_held_to_the_rounding_of_each_block(fp8, fixtures):
    exact = fixtures / "dcp/tiny/hf_bf16_mtp"
    for pair in ((fp8, exact), (exact, fp8)):
        report = verify(*pair)
        assert 0.01 < report["formats"]["fp8"]["max_nrmse"] < 0.04
        assert report["formats"]["float"]["max_difference"] == 0

    def one_step_too_far(tensors):
        # The largest value of the tensor, three steps of e4m3 away: invisible in the mean.
        raw = tensors[QKV].view(torch.uint8)
        at = int(tensors[QKV].float().abs().argmax())
        raw.view(-1)[at] -= 3

    edit(fp8, one_step_too_far)
    with pytest.raises(CheckpointError, match="more than fp8 explains"):
        verify(exact, fp8)


def test_bad_values_and_scales_are_named(bf16, fp8):
    edit(bf16, lambda t: t[QKV][3, 3].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=rf"`{QKV}` holds NaN or infinity"):
        verify(bf16)
    edit(fp8, lambda t: t[QKV + "_scale_inv"].zero_())
    with pytest.raises(CheckpointError, match=r"weight_scale_inv` holds a scale"):
        verify(fp8)


def test_logits_layer_by_layer_are_those_of_the_whole_model(bf16):
    source = open_source(bf16)
    tokens = probe_tokens(source)
    model = load_model(bf16, "float32")
    with torch.no_grad():
        hidden = model(tokens, torch.arange(len(tokens)), DenseAttend([0, len(tokens)]))
        want = model.logits(hidden)
    assert torch.allclose(logits(source, tokens), want, atol=1e-5)


def test_mtp_layers_in_one_of_the_two_are_reported(bf16, tmp_path):
    without = save(tmp_path / "without", "bfloat16", num_nextn_predict_layers=0)
    edit(without, lambda t: t.update({n: v for n, v in load_file(first(bf16)).items() if n in t}))
    report = verify(bf16, without, with_logits=False)
    assert all(".layers.3." in name for name in report["only_a"])
    assert "model.layers.3.eh_proj.weight" in report["only_a"]
    assert report["only_b"] == []
    assert report["logits"] == "not compared"


def first(folder):
    return next(folder.glob("*.safetensors"))


def test_other_shapes_are_named(bf16, tmp_path):
    other = save(tmp_path / "other", "bfloat16", vocab_size=512)
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight` has shape \[384, 64\]"):
        verify(bf16, other)


def test_checksums_find_a_flipped_bit_that_stays_finite(bf16):
    assert write_checksums(bf16) == verify(bf16)["checksums"] > 100
    data = bytearray(first(bf16).read_bytes())
    data[-1000] ^= 1
    first(bf16).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is not what checksums\.json describes"):
        verify(bf16)
    for text in (b"", b"[]", b'{"algorithm": "md5", "tensors": {}}', b'{"algorithm": "sha256"}'):
        (bf16 / CHECKSUMS).write_bytes(text)
        with pytest.raises(CheckpointError, match=CHECKSUMS):
            verify(bf16)
    (bf16 / CHECKSUMS).write_text(json.dumps({"algorithm": "sha256", "tensors": {"x": "0"}}))
    with pytest.raises(CheckpointError, match="only"):
        verify(bf16)


def test_command_line(bf16, tmp_path):
    def ling(*args):
        command = [sys.executable, "-m", "ling", "verify", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = ling(bf16, bf16, "--no-logits", "--write-checksums", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checksums"] > 100
    done = ling(bf16, tmp_path / "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def trained(folder):
    """As training leaves weights: a few columns and values far larger than the rest."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p[..., 3] *= 40
                p[..., 5, :].pow_(3).mul_(1000)
                p.view(-1)[::97] *= 30
    folder.mkdir()
    save_model(model, model.config, folder, dtype="bfloat16")
    return folder


@pytest.mark.parametrize("to", ["int4", "int4_g32", "int8"])
def test_integer_folder_of_weights_with_outliers_is_sound(tmp_path, to):
    source, packed = trained(tmp_path / "bf16"), tmp_path / to
    convert(source, packed, to=to, verify=True)
    for pair in ((source, packed), (packed, source)):
        report = verify(*pair)
        assert sum(found["other_bits"] for found in report["formats"].values()) == 0
    assert "bits as packed" in report["summary"]
    assert max(found["max_nrmse"] for found in report["formats"].values()) > 0


def test_integer_folder_of_other_weights_is_found(tmp_path, bf16):
    source = trained(tmp_path / "trained")
    convert(source, tmp_path / "int4", to="int4")
    with pytest.raises(CheckpointError, match="differs between"):
        verify(bf16, tmp_path / "int4")

    def flip(tensors):
        tensors["model.layers.1.attention.dense.qweight"].view(-1)[::3] ^= 0x88

    edit(tmp_path / "int4", flip)
    with pytest.raises(CheckpointError, match=r"attention\.dense\.weight` differs"):
        verify(source, tmp_path / "int4")


def test_a_few_other_bits_are_counted(tmp_path):
    source = trained(tmp_path / "trained")
    convert(source, tmp_path / "int4", to="int4")
    edit(
        tmp_path / "int4",
        lambda t: t["model.layers.1.attention.dense.qweight"].view(-1)[:1].bitwise_xor_(1),
    )
    report = verify(source, tmp_path / "int4", with_logits=False)
    assert report["formats"]["int4"]["other_bits"] == 1
    assert "1 not bit for bit what packing gives" in report["summary"]


def test_the_summary_is_lines_that_fit_a_terminal(bf16, tmp_path):
    convert(bf16, tmp_path / "int4", to="int4")
    lines = verify(bf16, tmp_path / "int4")["summary"].splitlines()
    assert len(lines) >= 5
    assert lines[0] == f"{bf16}: sound"
