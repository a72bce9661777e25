"""Every kind of checkpoint runs as it is, and a number format is one row of a table."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from ling.checkpoint.hf.folder import SafetensorsFolder
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source, tokenizer_folder
from ling.checkpoint.run_folder import step_folder, write_manifest
from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.config.long_context import stretched
from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.convert.verify import verify
from ling.errors import CheckpointError, UsageError
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner
from ling.model.ling import from_config
from ling.model.size import describe
from ling.ops import native
from ling.ops.formats import EMBEDDING_INT8, FORMATS, Format, format_names
from ling.presets import preset

KINDS = ("hf", "dcp", "step", "run", "megatron", "iteration", "gguf")
needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


def tokens(runner, n=12):
    e = Engine(runner, EngineConfig(max_model_len=64))
    request = e.add([5, 6, 7], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    return request.output


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """The same bfloat16 weights as every kind of checkpoint."""
    base = tmp_path_factory.mktemp("kinds")
    (base / "hf").mkdir()
    cfg = preset("ling-tiny")
    model = from_config(cfg, seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim > 1 else 1)  # larger than at the start: tokens that differ
    save_model(model, cfg, base / "hf", dtype="bfloat16")
    for to in ("dcp", "megatron", "gguf"):
        convert(base / "hf", base / to, to=to)
    step = step_folder(base / "run", 3)
    shutil.copytree(base / "dcp", step)
    write_manifest(step)
    return {
        **{name: base / name for name in ("hf", "dcp", "megatron", "run")},
        "step": step,
        "iteration": next((base / "megatron").glob("iter_*")),
        "gguf": base / "gguf" / "model.gguf",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_tokens_in_float32(checkpoints, kind):
    runner = open_runner(checkpoints[kind], EngineConfig(dtype="float32"))
    assert isinstance(runner, TorchRunner)
    assert tokens(runner) == tokens(open_runner(checkpoints["hf"], EngineConfig(dtype="float32")))


@needs_library
@pytest.mark.parametrize("fmt", [None, "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_tokens_packed_at_load(checkpoints, kind, fmt):
    runner = open_runner(checkpoints[kind], EngineConfig(format=fmt))
    assert isinstance(runner, NativeRunner)
    assert tokens(runner) == tokens(open_runner(checkpoints["hf"], EngineConfig(format=fmt)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads_to_the_same_module(checkpoints, kind):
    want, got = load_model(checkpoints["hf"]), load_model(checkpoints[kind])
    assert got.config.replace(dtype="bfloat16") == want.config
    for name, value in got.state_dict().items():
        assert torch.equal(value, want.state_dict()[name]), name


def test_a_float32_run_is_computed_in_float32(checkpoints, tmp_path):
    convert(checkpoints["hf"], tmp_path / "dcp", to="dcp", dtype="float32")
    assert isinstance(open_runner(tmp_path / "dcp"), TorchRunner)
    assert tokens(open_runner(tmp_path / "dcp")) == tokens(
        open_runner(checkpoints["hf"], EngineConfig(dtype="float32"))
    )


def test_an_integer_folder_loads_as_the_values_of_its_codes(checkpoints, tmp_path):
    convert(checkpoints["hf"], tmp_path / "int8", to="int8")
    convert(tmp_path / "int8", tmp_path / "bf16", to="bf16")
    got, want = load_model(tmp_path / "int8"), load_model(tmp_path / "bf16")
    for name, value in got.state_dict().items():
        assert torch.equal(value, want.state_dict()[name]), name
    exact = load_model(tmp_path / "int8", "float32").lm_head.weight
    assert not torch.equal(exact, want.lm_head.weight.float())
    assert torch.equal(exact.bfloat16(), want.lm_head.weight)


def test_tokenizer_is_found_where_each_kind_keeps_it(checkpoints, tmp_path):
    assert all(tokenizer_folder(path) is None for path in checkpoints.values())
    run = tmp_path / "run"
    shutil.copytree(checkpoints["run"], run)
    (run / "tokenizer").mkdir()
    (run / "tokenizer/tokenizer.json").write_text("{}")
    for path in (run, step_folder(run, 3)):
        assert tokenizer_folder(path) == run / "tokenizer"
        assert open_source(path).tokenizer_folder == run / "tokenizer"
    with pytest.raises(CheckpointError, match="no such file or folder"):
        tokenizer_folder(tmp_path / "nowhere")


def test_a_reader_of_hugging_face_folders_names_the_command(checkpoints):
    for kind in ("run", "step", "megatron"):
        with pytest.raises(CheckpointError, match=r"`ling convert .* OUT`"):
            SafetensorsFolder(checkpoints[kind])


# ---- a format that no kernel knows -------------------------------------------------------------

TOY = Format(
    name="toy4",
    encoding="levels",
    kernel=None,
    value_bits=4,
    group=128,
    max_nrmse=0.13,
    scale_dtype="bfloat16",
    levels=tuple(range(-120, 121, 16)),
    clips=(-127, -120, -112, 112, 120),
    embedding=EMBEDDING_INT8,
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(FORMATS, TOY.name, TOY)
    return TOY.name


def test_a_row_of_the_table_is_a_format_that_works(toy, checkpoints, tmp_path, caplog, capsys):
    folder = tmp_path / toy
    assert main(["convert", str(checkpoints["hf"]), str(folder), "--to", toy, "--verify"]) == 0
    assert open_source(folder).stored_as("lm_head.weight") == toy
    report = verify(checkpoints["hf"], folder)
    assert 0.01 < report["formats"][toy]["max_nrmse"] < TOY.max_nrmse
    with caplog.at_level(logging.WARNING, "ling"):
        runner = open_runner(folder)
    assert isinstance(runner, TorchRunner)
    assert caplog.messages == [f"running on plain PyTorch: {why()}"]
    want = tokens(open_runner(checkpoints["hf"], EngineConfig(format=toy)))
    convert(folder, tmp_path / "bf16")
    assert len(tokens(runner)) == len(want)
    assert tokens(open_runner(folder)) == tokens(TorchRunner(load_model(tmp_path / "bf16")))
    capsys.readouterr()
    assert main(["generate", str(folder), "-p", "x"]) == 2  # no tokenizer: ids only
    assert "tokenizer" in capsys.readouterr().err


def why():
    built = "no kernel reads the format `toy4`"
    missing = "the kernel library is not built (no C++ compiler at install)"
    return built if native.library() else missing


def test_a_row_of_the_table_is_listed_and_counted(toy, tmp_path, capsys):
    sizes = describe(preset("ling-mini-2.0"))["bytes"]
    assert sizes[toy] < sizes["int4"]
    assert toy in format_names()
    for command in ("convert", "generate", "synth"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert toy in "".join(capsys.readouterr().out.split())
    assert main(["synth", "ling-tiny", str(tmp_path / "m"), "--to", toy]) == 0
    assert isinstance(open_runner(tmp_path / "m"), TorchRunner)


@needs_library
def test_a_format_with_kernels_is_refused_where_they_are_off(checkpoints, monkeypatch):
    monkeypatch.setenv("LING_KERNELS", "reference")
    with pytest.raises(UsageError, match="format `int4` needs the native kernels"):
        open_runner(checkpoints["run"], EngineConfig(format="int4"))


@pytest.mark.parametrize("to", ["bf16", pytest.param("int4", marks=needs_library)])
def test_a_folder_opened_with_yarn_answers_as_one_that_says_so(tmp_path, to):
    plain, edited = tmp_path / "plain", tmp_path / "edited"
    cfg = preset("ling-nano").replace(num_hidden_layers=2, max_position_embeddings=64)
    synth(cfg, plain, to=to, log=str)
    fields = stretched(cfg, 256, 4)
    shutil.copytree(plain, edited)
    written = json.loads((edited / "config.json").read_text())
    (edited / "config.json").write_text(json.dumps(written | fields))
    opened = open_runner(plain, EngineConfig(hf_overrides=fields))
    assert opened.config.rope_scaling == fields["rope_scaling"]
    assert behind(opened) == behind(open_runner(edited))
    assert open_runner(plain).config.rope_scaling is None


def behind(runner):
    """Scores behind a prompt that is longer than the context of training."""
    runner.allocate(4)
    hidden = runner.forward(list(range(200)), [Segment([0, 1, 2, 3], 0, 0, 200)])
    return runner.logits(hidden[-1:]).tolist()
