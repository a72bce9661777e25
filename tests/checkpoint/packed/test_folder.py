"""Folders in our integer formats: written, loaded, run; and refused in one line when not sound."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.packed.names import packed_specs
from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.errors import CheckpointError
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner
from ling.ops import native
from ling.ops.formats import FORMATS
from ling.presets import preset

needs_library = pytest.mark.skipif(
    native.library() is None, reason="the kernel library is not built"
)
# What kernels read; a row without kernel runs in PyTorch (tests/infer/test_open.py).
INTEGER = [f.name for f in FORMATS.values() if f.integer and f.kernel]


def tokens(runner, n=20, **options):
    e = Engine(runner, EngineConfig(max_model_len=128, **options))
    request = e.add([5, 6, 7], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages
    return request.output


@needs_library
@pytest.mark.parametrize("fmt", INTEGER)
@pytest.mark.parametrize("shape", ["ling-tiny", "ling-nano"])
def test_random_model_loads_and_generates(shape, fmt, tmp_path):
    synth(preset(shape), tmp_path / "m", to=fmt, log=str)
    runner = open_runner(tmp_path / "m")
    assert isinstance(runner, NativeRunner)
    assert runner.format_name == fmt
    got = tokens(runner)
    assert len(got) == 20
    assert tokens(open_runner(tmp_path / "m"), speculative="mtp") == got


@needs_library
@pytest.mark.parametrize("fmt", INTEGER)
def test_folder_gives_the_tokens_of_weights_packed_at_load(fmt, tmp_path):
    synth(preset("ling-tiny"), tmp_path / "bf16", to="bf16", log=str)
    convert(tmp_path / "bf16", tmp_path / fmt, to=fmt)
    folder, at_load = (
        open_runner(tmp_path / fmt),
        open_runner(tmp_path / "bf16", EngineConfig(format=fmt)),
    )
    for n in range(folder.config.num_cache_layers):
        for field in ("qkv", "down", "expert_gate_up", "eh_proj"):
            a, b = (getattr(r.native_weights.layers[n], field) for r in (folder, at_load))
            assert (a.format, a.group, a.rows, a.cols) == (b.format, b.group, b.rows, b.cols)
    for name, spec in packed_specs(folder.config).items():
        a, b = (r.weights.matrix(spec) for r in (folder, at_load))
        assert torch.equal(a.data, b.data), name
        assert torch.equal(a.scales, b.scales), name


@needs_library
def test_folder_without_kernels_runs_on_the_module(tmp_path, monkeypatch):
    synth(preset("ling-tiny"), tmp_path / "m", to="int8", log=str)
    native_runner = open_runner(tmp_path / "m")
    monkeypatch.setenv("LING_KERNELS", "reference")
    module_runner = open_runner(tmp_path / "m")
    assert isinstance(module_runner, TorchRunner)
    ids = list(range(30))
    hidden = []
    for runner in (native_runner, open_runner(tmp_path / "m", EngineConfig(dtype="float32"))):
        runner.allocate(1)
        from ling.infer.pages import Segment

        hidden.append(runner.forward(ids, [Segment([0], 0, 0, 30)]).clone())
    rows = (hidden[0] - hidden[1]).norm(dim=1) / hidden[1].norm(dim=1)
    assert rows.median() < 0.04


# ---- damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "m"
    synth(preset("ling-tiny"), folder, to="int4", log=str)
    return folder


def changed(sound, target, tensors=None, config=None):
    """A copy with other tensors (in one file) or another configuration."""
    shutil.copytree(sound, target)
    if config is not None:
        raw = json.loads((target / "config.json").read_text())
        config(raw)
        (target / "config.json").write_text(json.dumps(raw))
    if tensors is not None:
        (target / "model.safetensors.index.json").unlink()
        (file,) = target.glob("model-*.safetensors")
        held = load_file(file)
        tensors(held)
        file.unlink()
        save_file(held, target / "model.safetensors")
    return target


QKV, NORM = "model.layers.1.attention.query_key_value", "model.layers.1.input_layernorm.weight"
EXPERTS, TABLE = "model.layers.1.mlp.experts.down_proj", "model.word_embeddings"


def drop(name):
    return lambda t: t.pop(name)


def edit(name, change):
    return lambda t: t.update({name: change(t[name]).contiguous()})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{QKV}.qweight", drop(f"{QKV}.qweight")),
        (f"{QKV}.scales", drop(f"{QKV}.scales")),
        (NORM, drop(NORM)),
        ("lm_head.qweight", drop("lm_head.qweight")),
        (f"{TABLE}.scales", drop(f"{TABLE}.scales")),
        (f"{QKV}.qweight", edit(f"{QKV}.qweight", lambda x: x[1:])),
        (f"{QKV}.qweight", edit(f"{QKV}.qweight", lambda x: x.flatten())),
        (f"{QKV}.scales", edit(f"{QKV}.scales", lambda x: x[..., :8])),
        (f"{EXPERTS}.qweight", edit(f"{EXPERTS}.qweight", lambda x: x[:-1])),
        (NORM, edit(NORM, lambda x: x[:-1])),
        (f"{TABLE}.qweight", edit(f"{TABLE}.qweight", lambda x: x[:-1])),
        (f"{QKV}.qweight", edit(f"{QKV}.qweight", lambda x: x.view(torch.int8))),
        (f"{QKV}.scales", edit(f"{QKV}.scales", lambda x: x.half())),
        (f"{EXPERTS}.scales", edit(f"{EXPERTS}.scales", lambda x: x.float())),
        (f"{TABLE}.qweight", edit(f"{TABLE}.qweight", lambda x: x.view(torch.uint8))),
        (NORM, edit(NORM, lambda x: x.to(torch.int32))),
    ],
)
def test_a_tensor_that_is_missing_or_unlike_is_named_in_one_line(sound, tmp_path, name, change):
    folder = changed(sound, tmp_path / "m", tensors=change)
    with pytest.raises(CheckpointError) as err:
        open_runner(folder)
    assert f"`{name}`" in str(err.value)
    assert str(folder) in str(err.value)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layout_version", 2),
        ("layout_version", None),
        ("layout_version", "1"),
        ("format", "int2"),
        ("format", None),
        ("format", ["int4"]),
        ("format", {"int4": 1}),
        ("format", "bf16"),
        ("format", "int8"),
        ("group_size", 32),
        ("symmetric", False),
    ],
)
def test_a_layout_that_is_not_ours_is_refused_in_one_line(sound, tmp_path, key, value):
    folder = changed(
        sound, tmp_path / "m", config=lambda c: c["quantization_config"].update({key: value})
    )
    with pytest.raises(CheckpointError) as err:
        open_runner(folder)
    assert str(folder) in str(err.value)
    assert "\n" not in str(err.value)


def test_another_shape_than_the_weights_is_refused(sound, tmp_path):
    for i, (key, value) in enumerate(
        [("num_hidden_layers", 4), ("num_experts", 16), ("vocab_size", 400), ("hidden_size", 96)]
    ):
        folder = changed(
            sound, tmp_path / str(i), config=lambda c, k=key, v=value: c.update({k: v})
        )
        with pytest.raises(CheckpointError, match="tensor"):
            open_runner(folder)


def test_the_command_line_says_it_in_one_line(sound, tmp_path, capsys):
    folder = changed(sound, tmp_path / "m", tensors=drop(f"{QKV}.scales"))
    assert main(["generate", str(folder), "--prompt", "a"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.strip().splitlines()) == 1
