"""Folders whose config.json and tensors disagree: every door reads them alike."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source
from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.convert.verify import verify
from ling.errors import CheckpointError
from ling.infer.open import open_runner
from ling.model.ling import from_config
from ling.presets import preset

EMBEDDING, HEAD = "model.word_embeddings.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path):
    """Writes a folder whose config.json is changed after the tensors were written."""

    def write(config=None, tensors=None, dtype="bfloat16", **changes):
        model = from_config(preset("ling-tiny").replace(**changes), seed=0)
        path = tmp_path / "model"
        path.mkdir()
        save_model(model, model.config, path, dtype=dtype)
        raw = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(raw | (config or {})))
        if tensors is not None:
            file = next(path.glob("*.safetensors"))
            held = load_file(file)
            tensors(held)
            (path / "model.safetensors.index.json").unlink()
            file.unlink()
            save_file(held, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return write


def tie(held):
    held[HEAD] = held[EMBEDDING].clone()


def in_another_head(held):
    held[HEAD] = held[EMBEDDING] + 1


def in_float16(held):
    held |= {n: t.half() for n, t in held.items() if not n.endswith("expert_bias")}


CASES = {
    "MTP announced, not stored": (
        {"num_nextn_predict_layers": 0, "config": {"num_nextn_predict_layers": 1}},
        {"num_nextn_predict_layers": 0},
    ),
    "MTP stored, not announced": (
        {"config": {"num_nextn_predict_layers": 0}},
        {"num_nextn_predict_layers": 1},
    ),
    "tied with a stored head": (
        {"config": {"tie_word_embeddings": True}, "tensors": tie},
        {"tie_word_embeddings": True},
    ),
    "tied with another head": (
        {"config": {"tie_word_embeddings": True}, "tensors": in_another_head},
        {"tie_word_embeddings": False},
    ),
    "float16 announced as bfloat16": ({"tensors": in_float16}, {"dtype": "float16"}),
    "float16 announced as float32": (
        {"tensors": in_float16, "config": {"torch_dtype": "float32"}},
        {"dtype": "float16"},
    ),
    "bfloat16 announced as float16": (
        {"config": {"torch_dtype": "float16"}},
        {"dtype": "bfloat16"},
    ),
    "float32 announced as bfloat16": (
        {"dtype": "float32", "config": {"torch_dtype": "bfloat16"}},
        {"dtype": "float32"},
    ),
    "shared experts' width means all of them": (
        {
            "num_shared_experts": 2,
            "moe_shared_expert_intermediate_size": 32,
            "config": {"moe_shared_expert_intermediate_size": 64},
        },
        {"shared_expert_width": 64, "moe_shared_expert_intermediate_size": 32},
    ),
    "shared experts' width is one routed expert's": (
        {"num_shared_experts": 2, "config": {"moe_shared_expert_intermediate_size": 48}},
        {"shared_expert_width": 64},
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, folder):
    written, expected = request.param
    return folder(**written), expected


def test_every_door_reads_what_is_stored(case, tmp_path, capsys):
    path, expected = case
    source = open_source(path)
    assert {key: getattr(source.config, key) for key in expected} == expected
    assert verify(path)["tensors"]
    assert load_model(path).config == source.config
    assert open_runner(path, EngineConfig(max_model_len=32)) is not None
    assert main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_nextn_predict_layers"] == source.config.num_nextn_predict_layers
    for to in ("bf16", "dcp"):
        convert(path, tmp_path / to, to=to, verify=True)
    again = open_source(tmp_path / "dcp").config
    assert again == source.config


def test_a_head_that_differs_from_its_embedding_is_used_and_named(folder, caplog):
    path = folder(config={"tie_word_embeddings": True}, tensors=in_another_head)
    with caplog.at_level(logging.WARNING, "ling"):
        model = load_model(path)
    assert torch.equal(model.lm_head.weight, model.model.word_embeddings.weight + 1)
    assert [r for r in caplog.records if "lm_head.weight" in r.getMessage()]


def test_a_missing_head_is_an_error_that_says_what_to_set(folder):
    path = folder(tensors=lambda held: held.pop(HEAD))
    with pytest.raises(CheckpointError, match="set `tie_word_embeddings` to true"):
        open_source(path)


def test_a_width_of_shared_experts_that_no_reader_means_is_refused(folder):
    path = folder(
        moe_shared_expert_intermediate_size=48,
        config={"moe_shared_expert_intermediate_size": 96},
    )
    with pytest.raises(CheckpointError, match=r"shared_experts.*\[48, 64\], expected \[96, 64\]"):
        open_source(path)
