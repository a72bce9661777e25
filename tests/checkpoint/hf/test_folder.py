"""A model folder: its index, links and leftovers."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.hf.config import read_config
from ling.checkpoint.hf.folder import INDEX, SINGLE_FILE, SafetensorsFolder
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.errors import CheckpointError, ConfigError, SafetensorsError, ShardIndexError
from ling.model.ling import from_config
from ling.ops.fp8 import dequantise_fp8_block
from ling.presets import preset

EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
QKV = "model.layers.1.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = from_config(preset("ling-tiny"), seed=0)
    save_model(model, model.config, folder, dtype="bfloat16", max_shard_bytes=200_000)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def edit_tensors(folder, change):
    """Rewrite the shard that holds each changed tensor, and the index with it."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    for file in sorted(set(weight_map.values())):
        tensors = load_file(folder / file)
        before = dict(tensors)
        change(tensors)
        weight_map = {n: f for n, f in weight_map.items() if f != file or n in tensors}
        weight_map |= {n: file for n in tensors if n not in before}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def refused(error, folder, *words):
    start = time.process_time()
    with pytest.raises(error) as caught:
        load_model(folder)
    assert time.process_time() - start < 2
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    for word in words:
        assert word in message


# ---- the index ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "https://example.org/model.safetensors",
        "model.safetensors\0.txt",
        "model.safetensors\n",
        "modèle.safetensors",
        "model.bin",
        "..",
        "",
        None,
        7,
        ["model.safetensors"],
        {"a": 1},
    ],
    ids=repr,
)
def test_index_that_leaves_the_folder_is_refused(folder, file):
    edit_index(folder, lambda weight_map: weight_map.update({EXPERT: file}))
    refused(ShardIndexError, folder, EXPERT, INDEX)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "weight_map"),
        (b"{}", "weight_map"),
        (b'{"weight_map": []}', "weight_map"),
        (b'{"weight_map": {}}', "weight_map"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "twice"),
        (b" " * (33 << 20), "larger than"),
    ],
)
def test_damaged_index_is_refused(folder, text, reason):
    (folder / INDEX).write_bytes(text)
    refused(ShardIndexError, folder, reason)


def test_index_with_200_000_entries_is_refused_by_the_first_shard_it_lacks(folder):
    weight_map = {f"t{i}": f"x{i}.safetensors" for i in range(200_000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(SafetensorsError, folder, "x0.safetensors", "No such file")


def test_missing_and_swapped_shards_are_named(folder):
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    aside = folder.parent / "aside"
    first.rename(aside)
    refused(SafetensorsError, folder, first.name)
    shutil.copy(second, first)
    refused(ShardIndexError, folder, "is not in " + first.name)
    first.unlink()
    aside.rename(first)
    load_model(folder)


@pytest.mark.parametrize("name", [INDEX, "shard", SINGLE_FILE, "config.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "dangling", "device"])
def test_what_is_no_file_stalls_nothing(folder, name, kind):
    if name == SINGLE_FILE:
        for path in [folder / INDEX, *folder.glob("*.safetensors")]:
            path.unlink()
    path = sorted(folder.glob("*.safetensors"))[0] if name == "shard" else folder / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path, "dangling": "nowhere", "device": "/dev/zero"}[kind])
    if name == "tokenizer.json" and kind in ("fifo", "folder"):
        load_model(folder)  # weights alone never look at it; data/tokenizer_file.py refuses it
    else:
        refused(CheckpointError, folder, path.name)


# ---- links -------------------------------------------------------------------------------------


def test_link_out_of_the_folder_is_refused(folder, tmp_path):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    refused(SafetensorsError, folder, shard.name, "leads out of the folder")


def test_links_within_the_folder_and_a_link_to_the_folder_are_followed(folder, tmp_path):
    (folder / "..data").mkdir()
    for path in [*folder.glob("*.safetensors"), folder / "config.json"]:
        path.rename(folder / "..data" / path.name)
        path.symlink_to(Path("..data") / path.name)
    (tmp_path / "link").symlink_to(folder)
    load_model(folder)
    load_model(tmp_path / "link")


@pytest.mark.parametrize("shared", [False, True], ids=["repository blobs", "cache-wide blobs"])
def test_snapshot_in_the_hugging_face_cache_loads(folder, tmp_path, shared):
    repository = tmp_path / "hub" / "models--org--name"
    blobs = tmp_path / "hub" / "blobs" if shared else repository / "blobs"
    snapshot = repository / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(i))
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / str(i), snapshot))
    load_model(snapshot)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/hostname")
    refused(CheckpointError, snapshot, "config.json", "leads out of the folder")


# ---- what else is there ------------------------------------------------------------------------


def test_pickles_alone_are_refused_and_beside_safetensors_ignored(folder, tmp_path):
    bomb = b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "canary") + b"'\ntR."
    (folder / "pytorch_model.bin").write_bytes(bomb)
    load_model(folder)
    for path in [folder / INDEX, *folder.glob("*.safetensors")]:
        path.unlink()
    refused(CheckpointError, folder, "pytorch_model.bin", "never opened")
    assert not (tmp_path / "canary").exists()


def test_code_in_the_folder_is_ignored(folder, tmp_path):
    code = f"open({str(tmp_path / 'canary')!r}, 'w')"
    for name in ("modeling_bailing_moe_v2.py", "configuration_bailing_moe_v2.py", "torch.py"):
        (folder / name).write_text(code)
    raw = json.loads((folder / "config.json").read_text())
    raw["auto_map"] = {"AutoModelForCausalLM": "modeling_bailing_moe_v2.X"}
    (folder / "config.json").write_text(json.dumps(raw))
    load_model(folder)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["a b", 'it\'s "x"', "$(touch canary)", "-rf", "модель"])
def test_odd_folder_names_work(made, tmp_path, name):
    shutil.copytree(made, tmp_path / name)
    load_model(tmp_path / name)
    assert not Path("canary").exists()


def test_read_only_folder_loads_and_is_not_changed(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    folder.chmod(0o555)
    try:
        load_model(folder)
    finally:
        folder.chmod(0o755)
    assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir()}


# ---- tensors against the config ----------------------------------------------------------------


def test_every_kind_of_wrong_tensor_is_named_before_the_model_is_made(folder, monkeypatch):
    monkeypatch.setattr("ling.checkpoint.load.Ling", lambda cfg: pytest.fail("model was made"))

    def wrong(change, *words):
        copy = folder.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        edit_tensors(copy, lambda t: change(t) if EXPERT in t else None)
        refused(CheckpointError, copy, EXPERT, *words)

    cast = {torch.int16, torch.float64, torch.uint16, torch.bool, torch.uint8}
    for dtype in cast:
        wrong(lambda t, d=dtype: t.update({EXPERT: t[EXPERT].to(d)}), "has dtype", "expected")
    wrong(lambda t: t.pop(EXPERT), "is missing")
    wrong(lambda t: t.update({EXPERT: t[EXPERT].T.contiguous()}), "has shape", "expected")
    wrong(lambda t: t.update({EXPERT: t[EXPERT][:-1].clone()}), "has shape", "expected")
    wrong(lambda t: t.update({EXPERT: t[EXPERT].flatten()}), "has shape", "expected")
    wrong(lambda t: t.update({EXPERT + "x": t[EXPERT].clone()}), "unexpected tensor")
    wrong(lambda t: t.update({EXPERT + "_scale_inv": torch.ones(1, 1)}), "unexpected tensor")


# ---- FP8 ---------------------------------------------------------------------------------------


@pytest.fixture
def fp8(fixtures, tmp_path):
    return Path(shutil.copytree(fixtures / "dcp/tiny/hf_fp8_mtp", tmp_path / "fp8"))


def test_fp8_folder_loads_as_its_dequantised_values(fp8, fixtures):
    stored = load_file(next(fp8.glob("*.safetensors")))
    exact = load_file(next((fixtures / "dcp/tiny/hf_bf16_mtp").glob("*.safetensors")))
    model = dict(load_model(fp8, "float32").named_parameters())
    q, scale = stored[QKV], stored[QKV + "_scale_inv"]
    blocks = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    want = q.float() * blocks[: q.shape[0], : q.shape[1]]
    assert torch.equal(model[QKV], want)
    # e4m3 keeps three bits after the leading one.
    largest = exact[QKV].float().abs().max()
    assert (model[QKV] - exact[QKV].float()).abs().max() <= largest / 16
    norm = "model.layers.1.input_layernorm.weight"
    assert torch.equal(model[norm], exact[norm].float())


def test_dequantising_scales_every_block_by_its_own_factor():
    q = torch.ones(300, 130).to(torch.float8_e4m3fn)
    scale = torch.arange(1.0, 7.0).view(3, 2)
    x = dequantise_fp8_block(q, scale)
    assert x.shape == (300, 130)
    assert [x[0, 0], x[127, 129], x[128, 0], x[255, 128], x[299, 127]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: t.pop(s), ["is FP8, but its scales", "missing"]),
        (lambda t, s: t.update({s: torch.ones(2, 1)}), ["has shape [2, 1]", "expected"]),
        (lambda t, s: t.update({s: t[s].flatten()}), ["has shape", "expected"]),
        (lambda t, s: t.update({s: t[s].to(torch.bfloat16)}), ["dtype bfloat16", "float32"]),
        (lambda t, s: t[s].fill_(float("nan")), ["not a finite number above 0"]),
        (lambda t, s: t[s].fill_(float("inf")), ["not a finite number above 0"]),
        (lambda t, s: t[s].zero_(), ["not a finite number above 0"]),
        (lambda t, s: t[s].neg_(), ["not a finite number above 0"]),
    ],
    ids=["missing", "shape", "flat", "dtype", "nan", "inf", "zero", "negative"],
)
def test_bad_fp8_scales_are_named(fp8, change, words):
    edit_tensors(fp8, lambda tensors: change(tensors, QKV + "_scale_inv"))
    refused(CheckpointError, fp8, QKV + "_scale_inv", *words)


@pytest.mark.parametrize(
    ("quantization", "word"),
    [
        ({"quant_method": "gptq"}, "quant_method"),
        ({"quant_method": None}, "quant_method"),
        ({}, "quant_method"),
        ("fp8", "quantization_config"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "weight_block_size"),
    ],
)
def test_unknown_quantisation_is_a_config_error(folder, quantization, word):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": quantization}))
    refused(ConfigError, folder, word)


def test_integer_folder_is_refused_as_floats(folder):
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "ling", "format": "int4"}
    (folder / "config.json").write_text(json.dumps(raw))
    refused(CheckpointError, folder, "int4", "convert")


def test_config_with_a_key_twice_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_size": 32,', 1))
    with pytest.raises(ConfigError, match="`hidden_size` is there twice"):
        read_config(folder)


# ---- size --------------------------------------------------------------------------------------


def test_folder_of_30_000_tensors_opens_in_well_under_a_second(tmp_path):
    names = [f"model.layers.{i // 800}.mlp.experts.{i}.up_proj.weight" for i in range(32_000)]
    weight_map = {}
    for k in range(4):
        own = names[k::4]
        entries = {n: {"dtype": "U8", "shape": [1, 2], "data_offsets": [2 * i, 2 * i + 2]}
                   for i, n in enumerate(own)}  # fmt: skip
        text = json.dumps(entries).encode()
        file = f"model-{k}.safetensors"
        (tmp_path / file).write_bytes(
            len(text).to_bytes(8, "little") + text + bytes([1, 2]) * len(own)
        )
        weight_map |= dict.fromkeys(own, file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    start = time.process_time()
    source = SafetensorsFolder(tmp_path)
    assert time.process_time() - start < 1.5
    assert source.shape(names[-1]) == (1, 2)
    assert source.tensor(names[-1]).tolist() == [[1, 2]]
    path, offset, nbytes = source.raw(names[7])
    assert path.read_bytes()[offset : offset + nbytes] == b"\1\2"


def test_metadata_is_that_of_the_files(folder):
    assert SafetensorsFolder(folder).metadata == {"format": "pt"}


@pytest.mark.parametrize(
    "files",
    [
        ["checkpoints/step-4/manifest.json", "config.yaml"],
        [".metadata", "config.json"],
        [".metadata", "common.pt"],
        ["latest_checkpointed_iteration.txt"],
    ],
    ids=" ".join,
)
def test_training_checkpoint_is_refused_with_the_command_that_converts_it(tmp_path, made, files):
    place = tmp_path / "my run"
    for name in files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes((made / name).read_bytes() if name == "config.json" else b"x")
    with pytest.raises(CheckpointError) as told:
        SafetensorsFolder(place)
    assert f"`ling convert '{place}' OUT`" in str(told.value)
    (place / files[0]).unlink()
    with pytest.raises(CheckpointError) as caught:
        load_model(place)
    assert "ling convert" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_from_inside_a_wrapper_are_the_released_ones(made, folder, prefix):
    """A compiled or a distributed module saves its state under longer names."""

    def wrap(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    edit_tensors(folder, wrap)
    want, got = load_model(made).state_dict(), load_model(folder).state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_two_names_for_one_tensor_are_refused(folder):
    edit_tensors(
        folder,
        lambda tensors: tensors.update({f"_orig_mod.{n}": t.clone() for n, t in tensors.items()}),
    )
    refused(CheckpointError, folder, "unexpected tensor `_orig_mod.")
