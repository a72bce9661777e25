"""Every format from the fixture checkpoint; what is written, when, and what stays when it fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ling.checkpoint import source as sources
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source
from ling.checkpoint.packed.matrices import EMBEDDING_ROWS, pack_embedding
from ling.convert import ranks, transfer
from ling.convert.plan import convert
from ling.convert.ranks import convert_part
from ling.convert.synth import synth
from ling.data.tokenizer import train_tokenizer
from ling.errors import CheckpointError, RunError, UsageError
from ling.files.atomic import hash_tree
from ling.model.names import tensor_specs
from ling.ops.formats import EMBEDDING_INT8, FORMATS
from ling.ops.packing import quantise
from ling.presets import preset

TOOL = Path(__file__).parents[2] / "tools" / "convert_dcp_to_safe_tensors.py"
FROM_UPSTREAM = {
    "hf_bf16": {"mtp": "drop"},
    "hf_bf16_mtp": {},
    "hf_fp8_mtp": {"to": "fp8"},
    "hf_mtp_separate": {"mtp": "separate"},
}


@pytest.mark.parametrize("name", FROM_UPSTREAM)
def test_safetensors_files_are_upstreams_byte_for_byte(name, tiny, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "out", **FROM_UPSTREAM[name])
    out = tmp_path / "out" / ("mtp" if name == "hf_mtp_separate" else "")
    (expected,) = (tiny / name).glob("*.safetensors")
    assert (out / expected.name).read_bytes() == expected.read_bytes()
    index, theirs = (
        json.loads((f / "model.safetensors.index.json").read_text()) for f in (out, tiny / name)
    )
    assert index["weight_map"] == theirs["weight_map"]


@pytest.mark.parametrize("name", ["hf_bf16", "hf_bf16_mtp", "hf_fp8_mtp"])
def test_config_says_what_upstreams_says(name, tiny, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "out", **FROM_UPSTREAM[name])
    ours, theirs = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", tiny / name)
    )
    for key in ("auto_map", "transformers_version"):
        del theirs[key]
    assert {k: ours.get(k) for k in theirs} == theirs


def test_total_size_of_fp8_is_that_of_the_output(tiny, tmp_path, tensors):
    convert(tiny / "dcp_in", tmp_path / "out", to="fp8")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    written = tensors(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in written.values())


def test_separate_mtp_model_has_the_config_of_one_layer(tiny, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "out", mtp="separate")
    config = json.loads((tmp_path / "out/mtp/config.json").read_text())
    shape = ("num_hidden_layers", "first_k_dense_replace", "num_nextn_predict_layers")
    assert [config[k] for k in shape] == [1, 0, 1]
    assert json.loads((tmp_path / "out/config.json").read_text())["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize("to", ["megatron", "dcp"])
def test_round_trip_gives_the_same_files(to, tiny, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "a", max_shard_size="100KB")
    convert(tmp_path / "a", tmp_path / "between", to=to)
    convert(tmp_path / "between", tmp_path / "b", max_shard_size="100KB")
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")


@pytest.mark.parametrize("to", ["bf16", "float32", "fp8", "dcp", "megatron"])
def test_twice_is_the_same_bytes_for_any_number_of_workers(to, tiny, tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        convert(tiny / "dcp_in", tmp_path / name, to=to, workers=workers, max_shard_size="50KB")
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")


@pytest.mark.parametrize("to", ["bf16", "float32", "fp8", "dcp", "megatron"])
def test_dry_run_tells_files_and_sizes_and_writes_nothing(to, tiny, tmp_path):
    lines = []
    options = {"to": to, "max_shard_size": "100KB"}
    files = convert(tiny / "dcp_in", tmp_path / "a", dry_run=True, log=lines.append, **options)
    assert not list(tmp_path.iterdir())
    assert all(any(name in line for line in lines) for name in files)
    convert(tiny / "dcp_in", tmp_path / "a", **options)
    written = {
        str(p.relative_to(tmp_path / "a")): p.stat().st_size
        for p in (tmp_path / "a").rglob("*")
        if p.is_file()
    }
    assert files == written


def test_fp8_source_comes_as_bf16_within_the_formats_error(tiny, tmp_path):
    lines = []
    convert(tiny / "dcp_in", tmp_path / "fp8", to="fp8", verify=True, log=lines.append)
    assert "verified: " in lines[-1]
    assert "121 tensors" in lines[-1]
    convert(tmp_path / "fp8", tmp_path / "back")
    a, b = open_source(tiny / "dcp_in"), open_source(tmp_path / "back")
    for name in tensor_specs(b.config):
        original, back = a.tensor(name).float(), b.tensor(name).float()
        assert (back - original).abs().max() <= original.abs().max() / 16, name
    from_fp8, from_bf16 = (load_model(tmp_path / n, "bfloat16") for n in ("fp8", "back"))
    for x, y in zip(from_fp8.state_dict().values(), from_bf16.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_verify_names_a_tensor_that_was_written_wrong(tiny, tmp_path, monkeypatch):
    from ling.checkpoint.hf import sink as hf

    def spoilt(self, name, tensor):
        wrong = tensor + 1 if name == "lm_head.weight" else tensor
        for key, value in self._layout.encode(name, wrong).items():
            self._out.put(key, value)

    monkeypatch.setattr(hf.SafetensorsSink, "put", spoilt)
    monkeypatch.setattr(hf.SafetensorsSink, "put_extent", lambda *_: False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        convert(tiny / "dcp_in", tmp_path / "out", verify=True)
    assert not list(tmp_path.iterdir())


def test_file_to_file_copies_fall_back_where_the_kernel_refuses(tiny, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    convert(tiny / "dcp_in", tmp_path / "a")
    monkeypatch.setattr(os, "copy_file_range", refuse)
    convert(tiny / "dcp_in", tmp_path / "b")
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")


def test_shards_keep_to_their_size(tiny, tmp_path):
    convert(tiny / "dcp_in", tmp_path / "out", max_shard_size="60KB")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 4
    assert all(p.stat().st_size < 64_000 for p in shards)
    assert shards[-1].name == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"


def test_error_half_way_leaves_nothing_and_the_old_target_as_it_was(tiny, tmp_path, tensors):
    broken = tmp_path / "source"
    shutil.copytree(tiny / "hf_bf16", broken)
    (shard,) = broken.glob("*.safetensors")
    convert(tiny / "hf_bf16", tmp_path / "out")
    before = hash_tree(tmp_path / "out")
    source = open_source(broken)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="model-00001"):
        source.tensor("model.norm.weight")
    with pytest.raises(CheckpointError):
        convert(broken, tmp_path / "out", overwrite=True)
    assert hash_tree(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_killed_conversion_leaves_no_target_and_the_next_run_completes(tiny, tmp_path):
    code = (
        "import sys, time; from ling.checkpoint.hf import sink as hf\n"
        "from ling.convert.plan import convert\n"
        "put = hf.SafetensorsSink.put\n"
        "def slow(self, *a): put(self, *a); print('put', flush=True); time.sleep(0.2)\n"
        "hf.SafetensorsSink.put = slow\n"
        "convert(*sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, str(tiny / "dcp_in"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"put" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    convert(tiny / "dcp_in", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("suffix", [".tmp", ".old"])
def test_a_folder_of_the_users_is_not_removed_for_its_name(tiny, tmp_path, suffix):
    convert(tiny / "hf_bf16", tmp_path / "out")
    mine = tmp_path / f"out{suffix}"
    mine.mkdir()
    (mine / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match=rf"out\{suffix}: in the way") as err:
        convert(tiny / "hf_bf16_mtp", tmp_path / "out", overwrite=True)
    assert "\n" not in str(err.value)
    assert (mine / "thesis.txt").exists()
    assert open_source(tmp_path / "out").config.num_nextn_predict_layers == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", mine.name]


def killed_at(rename, *arguments):
    """Convert in another process that is killed before its so-manieth `os.rename`."""
    code = (
        "import os, signal, sys; from ling.convert.plan import convert\n"
        "rename, count = os.rename, [0]\n"
        "def stop(*a):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {rename}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(*a)\n"
        "os.rename = stop\n"
        "convert(*sys.argv[1:], overwrite=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("rename", [1, 2])
def test_kill_while_replacing_loses_neither_target(tiny, tmp_path, rename):
    out = tmp_path / "out"
    convert(tiny / "hf_bf16", out)
    before = hash_tree(out)
    killed_at(rename, tiny / "hf_bf16_mtp", out)
    lines = []
    if rename == 2:
        assert not out.exists()
        for read in (open_source, load_model):
            with pytest.raises(CheckpointError, match="a stopped conversion left it in"):
                read(out)
    with pytest.raises(UsageError, match="exists"):
        convert(tiny / "hf_bf16_mtp", out, log=lines.append)
    assert hash_tree(out) == before
    assert [line for line in lines if "put back" in line] == lines
    assert len(lines) == (rename == 2)
    convert(tiny / "hf_bf16_mtp", out, overwrite=True)
    assert open_source(out).config.num_nextn_predict_layers == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_that_only_look_like_parts_stay(tiny, tmp_path):
    mine = tmp_path / "out.parts-of-my-thesis"
    mine.mkdir()
    assert convert_part(tiny / "dcp_in", tmp_path / "out", rank=0, world_size=1)
    assert mine.exists()
    assert not list((tmp_path / "out").glob(".*"))


def test_existing_target_needs_overwrite_and_must_be_a_checkpoint(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    convert(tiny / "hf_bf16", tmp_path / "empty")
    with pytest.raises(UsageError, match="exists"):
        convert(tiny / "hf_bf16", tmp_path / "empty")
    convert(tiny / "hf_bf16_mtp", tmp_path / "empty", overwrite=True)
    assert open_source(tmp_path / "empty").config.num_nextn_predict_layers == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="not a checkpoint"):
        convert(tiny / "hf_bf16", tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="holds the source"):
        convert(tmp_path / "empty", tmp_path / "empty", overwrite=True)
    convert(tiny / "hf_bf16", tmp_path / "training", to="megatron")
    with pytest.raises(UsageError, match="holds the source or is a part of it"):
        convert(tmp_path / "training", tmp_path / "training" / "iter_0000001", overwrite=True)
    shutil.rmtree(tmp_path / "training")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "mine"]


@pytest.mark.parametrize("to", ["bf16", "gguf"])
def test_folder_with_the_name_of_a_gguf_file_is_never_replaced(to, tiny, tmp_path):
    (tmp_path / "a.gguf").mkdir()
    (tmp_path / "a.gguf" / "thesis.txt").write_text("")
    (tmp_path / "b.gguf").mkdir()
    with pytest.raises(UsageError, match=r"is a folder|not a checkpoint"):
        convert(tiny / "hf_bf16", tmp_path / "a.gguf", to=to, overwrite=True)
    if to == "gguf":
        with pytest.raises(UsageError, match="is a folder"):
            convert(tiny / "hf_bf16", tmp_path / "b.gguf", to=to)
    assert (tmp_path / "a.gguf" / "thesis.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_file_is_not_replaced_by_a_folder(tiny, tmp_path):
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(UsageError, match="not a checkpoint"):
        convert(tiny / "hf_bf16", tmp_path / "model.gguf", overwrite=True)
    assert (tmp_path / "model.gguf").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_link_as_target_stands_for_what_it_points_to(tiny, tmp_path):
    convert(tiny / "hf_bf16_mtp", tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    (tmp_path / "new").symlink_to("v2")
    convert(tiny / "hf_bf16", tmp_path / "latest", overwrite=True)
    convert(tiny / "hf_bf16", tmp_path / "new")
    assert hash_tree(tmp_path / "v1") == hash_tree(tmp_path / "v2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "new", "v1", "v2"]
    assert (tmp_path / "latest").is_symlink()


def test_two_conversions_to_one_target_do_not_mix(tiny, tmp_path):
    from ling.files.atomic import atomic_folder

    with atomic_folder(tmp_path / "out") as first:
        (first / "half").write_text("")
        with pytest.raises(UsageError, match="another process"):
            convert(tiny / "hf_bf16", tmp_path / "out")
        assert (first / "half").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["half"]


def test_more_shards_than_open_files_are_allowed(tiny, tmp_path):
    code = (
        "import resource, sys; from ling.convert.plan import convert\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "convert(*sys.argv[1:], max_shard_size='1KB')\n"
    )
    command = [sys.executable, "-c", code, str(tiny / "dcp_in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 64


def test_values_that_a_format_cannot_hold_are_refused(tiny, tmp_path, tensors):
    source = tmp_path / "source"
    shutil.copytree(tiny / "hf_bf16", source)
    (shard,) = source.glob("*.safetensors")
    weights = tensors(source)
    weights["model.layers.0.attention.dense.weight"][1, 2] = 1e6
    save_file(weights, shard)
    for options in ({"dtype": "float16"}, {"to": "dcp", "dtype": "float16"}):
        with pytest.raises(CheckpointError, match=r"attention\.dense\.weight.*65504"):
            convert(source, tmp_path / "out", **options)
    weights["model.layers.0.attention.dense.weight"][1, 2] = float("nan")
    save_file(weights, shard)
    for to in ("int4", "int8", "fp8"):
        with pytest.raises(CheckpointError, match=r"attention\.dense\.weight.*NaN"):
            convert(source, tmp_path / "out", to=to)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_tokenizer_larger_than_the_vocabulary_is_refused(tiny, tmp_path):
    train_tokenizer([f"word{i} " * 9 for i in range(999)], 2000).save(tmp_path)
    with pytest.raises(UsageError, match=r"\d+ tokens, but the model has \d+"):
        convert(tiny / "hf_bf16", tmp_path / "out", tokenizer=tmp_path)


def test_names_that_are_numbers_nobody_means_are_refused(tiny, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-last").mkdir(parents=True)
    (run / "checkpoints" / "step-last" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_source(run)
    source = tmp_path / "source"
    shutil.copytree(tiny / "hf_bf16", source)
    (shard,) = source.glob("*.safetensors")
    name = f"model.layers.{'9' * 5000}.x"
    save_file({name: torch.zeros(2)}, shard)
    (source / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: shard.name}})
    )
    with pytest.raises(CheckpointError, match="missing"):
        open_source(source)


def test_full_disk_is_told_before_anything_is_written(tiny, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(RunError, match=r"needs 2.*KB, 1\.0 KB are free"):
        convert(tiny / "hf_bf16", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"to": "fp9"}, "fp9"),
        ({"mtp": "keep"}, "keep"),
        ({"mtp": "separate", "to": "dcp"}, "separate"),
        ({"workers": 0}, "workers"),
        ({"max_shard_size": "5 bananas"}, "bananas"),
        ({"max_shard_size": "0GB"}, "0GB"),
        ({"dtype": "int3"}, "int3"),
        ({"to": "float32", "dtype": "bfloat16"}, "contradicts"),
        ({"to": "int4", "dtype": "float16"}, "no effect"),
        ({"to": "gguf", "dtype": "float16"}, "no effect"),
        ({"gguf_type": "q8_0"}, "for `--to gguf`"),
    ],
)
def test_impossible_wishes_are_refused(options, word, tiny, tmp_path):
    with pytest.raises(UsageError, match=word):
        convert(tiny / "dcp_in", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_dtype_sets_what_stays_floating_point(tiny, tmp_path, tensors):
    convert(tiny / "dcp_in", tmp_path / "out", to="fp8", dtype="float32")
    written = tensors(tmp_path / "out")
    assert written["model.norm.weight"].dtype == torch.float32
    assert written["model.layers.0.attention.dense.weight"].dtype == torch.float8_e4m3fn
    convert(tiny / "dcp_in", tmp_path / "dcp", to="dcp", dtype="float32")
    assert open_source(tmp_path / "dcp").config.dtype == "float32"


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A model of 180 MB in shards of 20 MB: reading and writing it takes less than two shards."""
    code = """
import resource, sys, torch
from ling.presets import preset
from ling.model.names import tensor_specs
from ling.convert.options import Options
from ling.convert.plan import plan
from ling.convert import plan as c
cfg = preset("ling-nano-bench").replace(vocab_size=4096, hidden_size=512, moe_intermediate_size=256)
class Made:
    kind, config, tokenizer_folder = "made", cfg, None
    def tensor(self, name): return torch.full(tensor_specs(cfg)[name].shape, 0.5)
    def stored_bytes(self, name): return 1
    def close(self): pass
from pathlib import Path
out = Path(sys.argv[1]); out.mkdir()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = Made()
plan(made, out, Options(max_shard_size="20MB", workers=2)).write(out, None)
written = sum(p.stat().st_size for p in out.iterdir())
before = peak()
c.convert(out, sys.argv[2], max_shard_size="20MB", workers=2)
print(written, (peak() - before) * 1024)
"""
    arguments = [str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written, grown = map(int, done.stdout.split())
    assert written > 150e6
    assert grown < 40e6


@pytest.mark.parametrize("fmt", ["int8", "int4", "int4_g32"])
def test_integer_folders_stay_within_their_bounds_and_come_back(fmt, tiny, tmp_path):
    convert(tiny / "hf_bf16", tmp_path / fmt, to=fmt, verify=True)
    convert(tmp_path / fmt, tmp_path / "bf16", verify=True)
    head = [open_source(p).tensor("lm_head.weight") for p in (tiny / "hf_bf16", tmp_path / "bf16")]
    error = float((head[1].float() - head[0].float()).norm() / head[0].float().norm())
    assert error < FORMATS[fmt].of_matrix("lm_head").max_nrmse


def test_packed_folder_that_shrinks_is_an_error_not_a_signal(tmp_path):
    synth(preset("ling-tiny"), tmp_path / "int4", to="int4", log=str)
    source = open_source(tmp_path / "int4")
    names = list(tensor_specs(source.config))
    first = [source.tensor(name) for name in names]
    (shard,) = (tmp_path / "int4").glob("*.safetensors")
    convert(tmp_path / "int4", tmp_path / "bf16")
    back = open_source(tmp_path / "bf16")
    assert all(torch.equal(x, back.tensor(n)) for n, x in zip(names, first, strict=True))
    os.truncate(shard, 10_000)
    for name in names:
        with pytest.raises(CheckpointError, match="changed since it was opened"):
            source.tensor(name)


def test_embedding_is_packed_by_rows_as_the_whole_would_be():
    w = torch.randn(2 * EMBEDDING_ROWS + 5, 64, generator=torch.Generator().manual_seed(0))
    q, scales = pack_embedding(w)
    expected, expected_scales = quantise(w, EMBEDDING_INT8)
    assert torch.equal(q.long(), expected)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("stored", ["bf16", "fp8"])
def test_matrices_read_a_few_rows_at_a_time_are_those_read_whole(tmp_path, monkeypatch, stored):
    cfg = preset("ling-tiny").replace(vocab_size=300, moe_intermediate_size=144)
    synth(cfg, tmp_path / "in", to=stored, log=str)
    source = open_source(tmp_path / "in")
    monkeypatch.setattr(sources, "PIECE_VALUES", 1)  # pieces of 128 rows
    convert(tmp_path / "in", tmp_path / "by_rows", to="int4_g32", workers=2)
    monkeypatch.undo()
    for name in ("lm_head.weight", "model.layers.1.mlp.experts.3.up_proj.weight"):
        rows, whole = source.rows(name), source.tensor(name)
        assert torch.equal(rows.read(128, 10), whole[128:138])
    monkeypatch.setattr(transfer, "RowSource", str)
    convert(tmp_path / "in", tmp_path / "whole", to="int4_g32")
    assert hash_tree(tmp_path / "by_rows") == hash_tree(tmp_path / "whole")


def test_ranks_share_the_shards_in_any_order(tiny, tmp_path):
    options = {"max_shard_size": "60KB"}
    convert(tiny / "dcp_in", tmp_path / "one", **options)
    completed = [
        convert_part(tiny / "dcp_in", tmp_path / "many", rank=rank, world_size=3, **options)
        for rank in (1, 0, 1, 2)
    ]
    assert completed == [False, False, False, True]
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "many")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many", "one"]


def test_parts_of_another_conversion_are_not_mixed_in(tiny, tmp_path):
    parts = {"world_size": 2, "max_shard_size": "60KB"}
    assert not convert_part(tiny / "dcp_in", tmp_path / "out", rank=0, to="fp8", **parts)
    assert not convert_part(tiny / "dcp_in", tmp_path / "out", rank=1, **parts)
    assert convert_part(tiny / "dcp_in", tmp_path / "out", rank=0, **parts)
    convert(tiny / "dcp_in", tmp_path / "one", max_shard_size="60KB")
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "out")


def test_rank_killed_after_the_last_rename_does_not_empty_the_target(tiny, tmp_path, monkeypatch):
    convert(tiny / "hf_bf16", tmp_path / "out")
    parts = {"world_size": 2, "max_shard_size": "60KB", "overwrite": True}
    with monkeypatch.context() as patched:
        patched.setattr(ranks.shutil, "rmtree", lambda *a, **k: None)  # as if killed just before
        assert not convert_part(tiny / "dcp_in", tmp_path / "out", rank=0, **parts)
        assert convert_part(tiny / "dcp_in", tmp_path / "out", rank=1, **parts)
    before = hash_tree(tmp_path / "out")
    assert convert_part(tiny / "dcp_in", tmp_path / "out", rank=1, **parts)
    assert hash_tree(tmp_path / "out") == before
    assert len(before) > 4
    assert not list(tmp_path.glob("*.parts-*"))


def test_ranks_refuse_what_they_cannot_share(tiny, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny / "dcp_in", source)
    with pytest.raises(UsageError, match="separate"):
        convert_part(source, tmp_path / "out", rank=0, world_size=2, mtp="separate")
    with pytest.raises(UsageError, match="into the source"):
        convert_part(source, source / "out", rank=0, world_size=2)


# ---- the original tool's command line ----------------------------------------------------------


def tool(*args, **environment):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--force-bf16"], "hf_bf16"),
        (["--force-bf16", "--mtp-as-extra-layer"], "hf_bf16_mtp"),
        (["--mtp-as-extra-layer"], "hf_fp8_mtp"),  # as it was trained
        (["--force-fp8", "--force-bf16", "--mtp-as-extra-layer"], "hf_fp8_mtp"),
    ],
)
def test_original_flags_give_the_originals_files(flags, expected, tiny, tmp_path):
    out = tmp_path / "deep" / "out"
    done = tool("--checkpoint-path", tiny / "dcp_in", "--target-path", out, *flags)
    assert done.returncode == 0, done.stderr
    (theirs,) = (tiny / expected).glob("*.safetensors")
    assert (out / theirs.name).read_bytes() == theirs.read_bytes()


def test_original_mtp_path_writes_weights_and_config(tiny, tmp_path):
    flags = ["--mtp-path", tmp_path / "mtp", "--force-bf16", "--megatron-path", "/nowhere"]
    done = tool("--checkpoint-path", tiny / "dcp_in", "--target-path", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    (theirs,) = (tiny / "hf_mtp_separate").glob("*.safetensors")
    assert (tmp_path / "mtp" / theirs.name).read_bytes() == theirs.read_bytes()
    assert (tmp_path / "mtp" / "config.json").is_file()
    assert (tmp_path / "out" / "config.json").is_file()


def test_original_tool_splits_between_processes(tiny, tmp_path):
    base = ["--checkpoint-path", tiny / "dcp_in", "--target-path", tmp_path / "out"]
    for rank in ("0", "1"):
        done = tool(*base, "--force-bf16", RANK=rank, WORLD_SIZE="2")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out").exists() == (rank == "1")
    (theirs,) = (tiny / "hf_bf16").glob("*.safetensors")
    assert (tmp_path / "out" / theirs.name).read_bytes() == theirs.read_bytes()


def test_stopped_rank_that_wrote_the_mtp_model_runs_again(tiny, tmp_path):
    base = ["--checkpoint-path", tiny / "dcp_in", "--target-path", tmp_path / "out"]
    base += ["--mtp-path", tmp_path / "mtp"]
    for rank in ("0", "0", "1"):
        done = tool(*base, RANK=rank, WORLD_SIZE="2")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--mtp-path", "x", "--mtp-as-extra-layer"], "exclude each other"),
        (["--checkpoint-path", "nowhere"], "nowhere"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_original_tool_refuses_in_one_line(flags, word, tiny, tmp_path):
    base = ["--checkpoint-path", tiny / "dcp_in", "--target-path", tmp_path / "out"]
    done = tool(*base, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_command_line_prints_rate_and_target(tiny, tmp_path):
    command = [sys.executable, "-m", "ling", "convert", tiny / "dcp_in", tmp_path / "out"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/s" in done.stdout
    assert f"wrote {tmp_path / 'out'}: bf16, " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: ")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("to", ["bf16", "int8", "dcp"])
def test_every_end_of_turn_is_written_on(tmp_path, to):
    source = tmp_path / "source"
    synth(preset("ling-tiny"), source, to="bf16", log=str)
    tokenizer = train_tokenizer(["def f(x):"] * 9, 300)
    tokenizer.save(source)
    config = json.loads((source / "config.json").read_text())
    ends = [tokenizer.eod_token_id, 7, 99999]
    (source / "config.json").write_text(json.dumps({**config, "eos_token_id": ends}))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    (source / "chat_template.jinja").write_text("{% broken")  # no reason to refuse a conversion
    out = tmp_path / "out"
    convert(source, out, to=to)
    if to != "dcp":
        assert json.loads((out / "config.json").read_text())["eos_token_id"] == ends
    own = tokenizer.token_to_id("<|role_end|>")
    (generation,) = out.rglob("generation_config.json")
    written = json.loads(generation.read_text())["eos_token_id"]
    assert written == [9, own, tokenizer.eod_token_id, 7]
    assert open_source(out).config.end_token_ids == tuple(ends)
