"""Folders in the released FP8 layout: run as they are, held to the model that their values make."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.hf.folder import SafetensorsFolder
from ling.checkpoint.hf.names import SCALE, float_tensor
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model, packed_weights
from ling.checkpoint.open import open_source
from ling.checkpoint.packed.matrices import unpack_matrix
from ling.checkpoint.packed.names import packed_specs
from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.errors import CheckpointError, UsageError
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner, runner_for
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner
from ling.model.ling import from_config
from ling.ops import limits, native
from ling.ops.formats import FORMATS
from ling.presets import preset

pytestmark = pytest.mark.skipif(native.library() is None, reason="the kernel library is not built")

# Rows and columns that are no multiples of a block, gate and up that end inside one.
CFG = preset("ling-tiny").replace(
    hidden_size=160,
    num_attention_heads=5,
    num_key_value_heads=1,
    head_dim=32,
    intermediate_size=208,
    moe_intermediate_size=144,
    moe_shared_expert_intermediate_size=144,
)
EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("fp8")
    (base / "bf16").mkdir()
    model = from_config(CFG, seed=0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:  # larger than at the start of training: layers that matter
                p.mul_(4)
    save_model(model, CFG, base / "bf16", dtype="bfloat16")
    convert(base / "bf16", base / "fp8", to="fp8")
    return base / "fp8"


def changed(folder, target, change):
    """A copy with other tensors, in one file."""
    target.mkdir()
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def test_matrices_hold_what_the_checkpoint_stands_for(folder):
    runner = open_runner(folder)
    assert isinstance(runner, NativeRunner)
    assert (runner.format_name, runner.head_bits) == ("fp8", 16)
    source, kinds = SafetensorsFolder(folder), {}
    for name, spec in packed_specs(runner.config).items():
        packed = runner.weights.matrix(spec)
        kinds[name.rpartition(".")[2]] = packed.format.name
        for e in range(max(spec.experts, 1)):
            for part, value in zip(spec.parts(e), unpack_matrix(spec, packed, e), strict=True):
                assert torch.equal(value, float_tensor(source, part).float()), part
    wide = ("lm_head", "eh_proj")
    assert kinds == {n: "bf16" if n in wide else "fp8" for n in kinds}
    assert {"query_key_value", "dense", "gate_up_proj", "down_proj", *wide} == set(kinds)


def test_hidden_states_are_those_of_the_dequantised_model(folder):
    ids = torch.randint(CFG.vocab_size, (150,), generator=torch.Generator().manual_seed(0)).tolist()
    hidden = []
    for runner in (open_runner(folder), open_runner(folder, EngineConfig(dtype="float32"))):
        runner.allocate(4)
        hidden.append(runner.forward(ids, [Segment([2, 0, 1], 0, 0, 150)]).clone())
    got, want = hidden
    assert ((got - want).norm(dim=1) / want.norm(dim=1)).median() < 0.02
    # One token at a time gives the same bits.
    runner = open_runner(folder)
    runner.allocate(4)
    for i in range(20):
        row = runner.forward([ids[i]], [Segment([2, 0, 1], i, 0, 1)])
        assert torch.equal(row[0], got[i])


def test_greedy_tokens_are_those_of_the_dequantised_model_where_no_two_are_near(folder):
    e = Engine(open_runner(folder), EngineConfig(speculative="mtp"))
    request = e.add([5, 6, 7], SamplingParams(max_tokens=60, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    ids = [5, 6, 7, *request.output]
    reference = TorchRunner(load_model(folder, "float32"))
    reference.allocate(2)
    logits = reference.logits(reference.forward(ids, [Segment([0], 0, 0, len(ids))]))
    top = logits.topk(2, dim=-1).values
    clear = (top[:, 0] - top[:, 1] > 0.05 * logits.std(-1))[2:-1]
    assert clear.sum() > 40
    same = logits.argmax(-1)[2:-1] == torch.tensor(ids[3:])
    assert same[clear].float().mean() > 0.95  # a flipped expert moves more than rounding does


def test_another_format_is_packed_from_the_values_as_before(folder):
    wide = open_runner(folder, EngineConfig(format="bf16"))
    assert {layer.qkv.format for layer in wide.native_weights.layers} == {FORMATS["bf16"].kernel}
    small = open_runner(folder, EngineConfig(format="int4"))
    assert small.format_name == "int4"
    with pytest.raises(UsageError, match="max_memory"):
        open_runner(folder, EngineConfig(max_memory=f"{10**9}B"))


def test_a_bfloat16_folder_packs_to_fp8_with_blocks_of_each_tensor(folder):
    """Scales are not rounded to powers of two here, the rest is what `convert --to fp8` writes."""
    at_load, stored = (
        open_runner(folder.parent / "bf16", EngineConfig(format="fp8")),
        open_runner(folder),
    )
    for name, spec in packed_specs(stored.config).items():
        a, b = (r.weights.matrix(spec) for r in (at_load, stored))
        assert a.format == b.format
        if not name.endswith(("attention.dense", ".experts.gate_up_proj")):
            assert torch.equal(a.data, b.data), name
            assert a.scales is None or torch.equal(a.scales, b.scales), name


def test_reference_kernels_and_modules_take_the_same_folder(folder, monkeypatch):
    assert isinstance(runner_for(load_model(folder), EngineConfig(format="fp8")), NativeRunner)
    monkeypatch.setenv("LING_KERNELS", "reference")
    assert isinstance(open_runner(folder), TorchRunner)
    with pytest.raises(UsageError, match="format `fp8` needs the native kernels"):
        open_runner(folder, EngineConfig(format="fp8"))


def test_what_is_not_fp8_in_a_folder_stays_bfloat16(folder, tmp_path):
    """One gate of one expert: its whole stack, and the shared expert, which shares its input."""
    name = f"{EXPERTS}.3.gate_proj.weight"
    value = float_tensor(SafetensorsFolder(folder), name).bfloat16()

    def widen(tensors):
        tensors[name] = value
        del tensors[name + SCALE]

    runner = open_runner(changed(folder, tmp_path / "m", widen))
    layer = runner.native_weights.layers[1]
    bf16, fp8 = FORMATS["bf16"].kernel, FORMATS["fp8"].kernel
    assert (layer.gate_up.format, layer.expert_gate_up.format) == (bf16, bf16)
    assert (layer.down.format, layer.expert_down.format, layer.qkv.format) == (fp8, fp8, fp8)
    runner.allocate(2)
    assert runner.forward([1, 2, 3], [Segment([0], 0, 0, 3)]).isfinite().all()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused_in_one_line(folder, tmp_path, bad, capsys):
    name = f"{EXPERTS}.2.down_proj.weight{SCALE}"
    broken = changed(folder, tmp_path / "m", lambda t: t[name][0, 1].fill_(bad))
    with pytest.raises(CheckpointError, match="not a finite number above 0") as err:
        open_runner(broken)
    assert f"`{name}`" in str(err.value)
    assert main(["generate", str(broken), "--prompt", "a"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_byte_that_is_no_number_spoils_what_reads_it(folder, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight"
    runner = open_runner(
        changed(folder, tmp_path / "m", lambda t: t[name].view(torch.uint8)[7].fill_(0x7F))
    )
    runner.allocate(1)
    assert runner.forward([1, 2], [Segment([0], 0, 0, 2)]).isnan().all()


def test_memory_is_checked_for_what_the_folder_takes(folder, monkeypatch):
    runner = open_runner(folder)
    held = [runner.weights.matrix(s).nbytes for s in packed_specs(runner.config).values()]
    need = sum(held) + runner.native_weights.embedding.nbytes
    assert runner.weights.nbytes == need
    monkeypatch.setattr(limits, "memory_available", lambda: need - 1)
    with pytest.raises(UsageError, match="GB in fp8"):
        open_runner(folder)
    monkeypatch.setattr(limits, "memory_available", lambda: need)
    open_runner(folder)


PEAK = """
import json, os, resource, sys
from ling.infer.open import open_runner

def kilobytes(word):
    for line in open("/proc/self/status"):
        if line.startswith(word):
            return int(line.split()[1])

open_runner(sys.argv[1])
before = kilobytes("VmRSS")
runner = open_runner(sys.argv[2])
print(json.dumps([(kilobytes("VmHWM") - before) * 1024, runner.weights.nbytes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_the_model_and_one_tensor(folder, tmp_path):
    cfg = preset("ling-nano").replace(
        hidden_size=512, num_attention_heads=8, num_hidden_layers=3, num_experts=64,
        moe_intermediate_size=512, moe_shared_expert_intermediate_size=512,
    )  # fmt: skip
    synth(cfg, tmp_path / "m", to="fp8", log=str)
    args = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / "m")]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, nbytes = json.loads(done.stdout)
    assert nbytes > 100e6
    assert peak < 1.1 * nbytes + 8e6


def test_fp8_made_at_load_has_the_bits_of_a_converted_folder(tmp_path):
    model = from_config(preset("ling-tiny"), seed=0)
    (tmp_path / "bf16").mkdir()
    save_model(model, model.config, tmp_path / "bf16", dtype="bfloat16")
    convert(tmp_path / "bf16", tmp_path / "fp8", to="fp8")
    made = packed_weights(open_source(tmp_path / "bf16"), FORMATS["fp8"])
    stored = packed_weights(open_source(tmp_path / "fp8"))
    for spec in packed_specs(model.config).values():
        a, b = made.matrix(spec), stored.matrix(spec)
        assert a.format is b.format
        assert torch.equal(a.data, b.data), spec.name
        assert (a.scales is None and b.scales is None) or torch.equal(a.scales, b.scales)
