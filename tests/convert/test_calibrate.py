from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ling.checkpoint.open import open_source
from ling.convert.calibrate import MAX_TEXT_BYTES, _beginning, importance
from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.data.tokenizer import train_tokenizer
from ling.errors import DataError, UsageError
from ling.ops import packing
from ling.ops.formats import FORMATS
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    text = folder / "text.txt"
    text.write_text("\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(200)))
    train_tokenizer([text.read_text()], 300).save(folder)
    synth(preset("ling-nano"), folder / "model", to="bf16", log=str)
    return folder / "model", text, folder


@pytest.fixture(scope="module")
def found(model):
    folder, text, tokenizer = model
    torch.set_num_threads(1)
    return importance(open_source(folder), text, tokenizer, log=str)


def test_importance_is_the_mean_square_of_what_a_matrix_reads(found):
    cfg = preset("ling-nano")
    assert all(bool((h >= 0).all()) and bool(h.isfinite().all()) for h in found.values())
    # Norm weights are ones, so what follows a norm has mean square one.
    qkv = found["model.layers.0.attention.query_key_value"]
    assert qkv.shape == (cfg.hidden_size,)
    assert float(qkv.mean()) == pytest.approx(1, rel=0.02)
    for e in range(cfg.num_experts):  # rarely used ones have their layer's
        key = f"model.layers.1.mlp.experts.down_proj.{e}"
        assert found[key].shape == (cfg.moe_intermediate_size,)


def test_weighed_errors_are_smaller_than_unweighed_ones(model, found):
    h = found["model.layers.0.mlp.down_proj"]
    w = open_source(model[0]).tensor("model.layers.0.mlp.down_proj.weight").float()

    def error(weights):
        packed = packing.pack(w, FORMATS["int4"], weights)
        return float(((packing.unpack(packed) - w).square() * h).sum())

    assert error(h) < error(None)


def test_convert_uses_the_text(model, tmp_path):
    folder, text, tokenizer = model
    convert(folder, tmp_path / "plain", to="int4")
    convert(folder, tmp_path / "weighed", to="int4", calibrate=text, tokenizer=tokenizer)
    name = "model.layers.0.mlp.down_proj.weight"
    plain, weighed = (open_source(tmp_path / d).tensor(name) for d in ("plain", "weighed"))
    assert not torch.equal(plain, weighed)


def test_what_cannot_be_calibrated_is_named(model, tmp_path):
    folder, text, tokenizer = model
    short = tmp_path / "short.txt"
    short.write_text("x")
    with pytest.raises(DataError, match=r"short\.txt"):
        convert(folder, tmp_path / "o", to="int4", calibrate=short, tokenizer=tokenizer)
    with pytest.raises(UsageError, match="--tokenizer"):
        convert(folder, tmp_path / "o", to="int4", calibrate=text)
    with pytest.raises(UsageError, match="integer"):
        convert(folder, tmp_path / "o", to="fp8", calibrate=text)
    assert not (tmp_path / "o").exists()


def test_odd_texts_are_refused_or_cut(model, tmp_path):
    folder, text, tokenizer = model
    source = open_source(folder)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            importance(source, path, tokenizer, log=str)
    long = tmp_path / "long.txt"
    long.write_text("中" * MAX_TEXT_BYTES)
    assert len(_beginning(long)) == MAX_TEXT_BYTES // 3
    long.write_bytes("中".encode()[:-1])
    with pytest.raises(DataError, match="cannot be read as text"):
        _beginning(long)
    source.config = source.config.replace(vocab_size=100)
    with pytest.raises(DataError, match=r"holds token \d+, but the model has 100"):
        importance(source, text, tokenizer, log=str)
