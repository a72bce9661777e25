"""GGUF files from strangers: one line, no harm, in seconds and little memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import struct
import time
from pathlib import Path

import pytest
import torch
from gguf_models import named_tensors

from ling.checkpoint.gguf.layout import general_metadata, lay_out
from ling.checkpoint.gguf.metadata import metadata_of
from ling.checkpoint.gguf.names import GGUFSpec, gguf_specs
from ling.checkpoint.gguf.source import GGUFSource
from ling.checkpoint.gguf.vocabulary import vocabulary_metadata
from ling.checkpoint.raw.gguf_header import KINDS, nbytes, read_header
from ling.errors import GGUFError

F32 = KINDS[0]


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def head(tensors: int, entries: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def info(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


ARCH = entry("general.architecture", 8, string("bailingmoe2"))
HUGE = struct.pack("<Q", 1 << 60)
HEADS = {
    "empty": (b"", "truncated"),
    "other file": (b"PK\3\4" + bytes(60), "not a GGUF file"),
    "old version": (head(0, 0, version=1), "version 1"),
    "big-endian": (head(0, 0, version=3 << 24), "big-endian"),
    "2^60 tensors": (head(1 << 60, 0), "tensors, the limit"),
    "2^60 entries": (head(0, 1 << 60), "entries, the limit"),
    "key of 2^60 bytes": (head(0, 1) + HUGE + b"k", "a key of"),
    "value of 2^60 bytes": (head(0, 1) + string("k") + struct.pack("<I", 8) + HUGE, "of `k` of"),
    "value past the end": (
        head(0, 1) + entry("k", 8, struct.pack("<Q", 1 << 20)),
        "truncated: 1048576 bytes wanted",
    ),
    "list of 2^60 items": (head(0, 1) + entry("k", 9, struct.pack("<I", 4) + HUGE), "items"),
    "list past the end": (
        head(0, 1) + entry("k", 9, struct.pack("<IQ", 10, 1 << 20)),
        "truncated",
    ),
    "list of lists": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 9, 1)), "nested"),
    "unknown value type": (head(0, 1) + entry("k", 77, bytes(8)), "type 77"),
    "key not UTF-8": (head(0, 1) + string(b"\xff\xfe"), "not UTF-8"),
    "key twice": (head(0, 2) + ARCH + ARCH, "`general.architecture` appears twice"),
    "alignment 0": (head(0, 1) + entry("general.alignment", 4, bytes(4)), "alignment"),
    "alignment 2^31": (
        head(0, 1) + entry("general.alignment", 4, struct.pack("<I", 1 << 31)),
        "alignment",
    ),
    "name of 2^60 bytes": (head(1, 0) + HUGE, "a tensor name of"),
    "five dimensions": (head(1, 0) + info("x", [1] * 5), "5 dimensions"),
    "no dimension": (head(1, 0) + info("x", []), "0 dimensions"),
    "size zero": (head(1, 0) + info("x", [0, 4]), "sizes"),
    "sizes that wrap": (head(1, 0) + info("x", [1 << 32, 1 << 32]), "truncated"),
    "size 2^63": (head(1, 0) + info("x", [1 << 63]), "sizes"),
    "half a block": (head(1, 0) + info("x", [33], kind=8), "sizes"),
    "unknown tensor type": (head(1, 0) + info("x", [4], kind=99), "type 99"),
    "offset past the end": (head(1, 0) + info("x", [4], offset=1 << 40), "expected 0"),
    "offset misaligned": (head(1, 0) + info("x", [4], offset=4), "expected 0"),
    "tensor twice": (
        head(2, 0) + info("x", [4]) + info("x", [4], offset=32) + bytes(128),
        "`x` appears twice",
    ),
    "overlapping": (head(2, 0) + info("x", [4]) + info("y", [4]) + bytes(128), "expected 32"),
    "hole": (head(2, 0) + info("x", [4]) + info("y", [4], offset=64) + bytes(128), "expected 32"),
    "no tensor data": (head(1, 0) + info("x", [1 << 20]), "truncated: tensor `x` ends"),
    "trailing bytes": (head(1, 0) + info("x", [4]) + bytes(4096), "after the last tensor"),
}


@pytest.mark.parametrize("case", HEADS)
def test_hostile_head_is_refused_naming_the_file(tmp_path, case):
    data, why = HEADS[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(GGUFError, match=r"bad\.gguf: ") as caught:
        GGUFSource(path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_head_bomb_in_a_sparse_file_is_cut_short(tmp_path):
    """Terabytes that cost nothing: lengths that fit the file must still be bounded."""
    path = tmp_path / "bomb.gguf"
    for data in (
        head(0, 60000),
        head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 1 << 21)),
        head(0, 3) + b"".join(entry(k, 9, struct.pack("<IQ", 10, 1 << 20)) for k in "a"),
        head(60000, 0),
    ):
        path.write_bytes(data)
        os.truncate(path, 1 << 42)
        start = time.process_time()
        with pytest.raises(GGUFError):
            GGUFSource(path)
        assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing", "dangling"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        read_header(path)


def model_file(path: Path, cfg, metadata: dict | None = None, drop=(), extra=()) -> Path:
    """A file of zeros with changed metadata or tensors, sparse so that shapes may be any."""
    values = general_metadata("x", 32) | metadata_of(cfg) | vocabulary_metadata(None, 0)
    values = {k: v for k, v in (values | (metadata or {})).items() if v is not None}
    specs = {n: s for n, s in gguf_specs(cfg).items() if n not in drop}
    specs |= {name: GGUFSpec((4,), True) for name in extra}
    layout = lay_out(values, specs, dict.fromkeys(specs, F32))
    path.write_bytes(layout.head)
    os.truncate(path, layout.size)
    return path


KEY = "bailingmoe2."
METADATA = {
    "other architecture": ({"general.architecture": "llama"}, "expected `bailingmoe2`"),
    "no architecture": ({"general.architecture": None}, "expected `bailingmoe2`"),
    "split": ({"split.count": 2}, "split file"),
    "softmax router": ({KEY + "expert_gating_func": 1}, "sigmoid"),
    "no expert count": ({KEY + "expert_count": None}, "`bailingmoe2.expert_count` is missing"),
    "text for a number": ({KEY + "embedding_length": "64"}, "hidden_size"),
    "list for a number": ({KEY + "block_count": [1, 2]}, "block_count"),
    "2^31 blocks": ({KEY + "block_count": 1 << 31}, "num_hidden_layers"),
    "2^20 blocks": ({KEY + "block_count": 1 << 20}, "limit"),
    "tokens a number": (
        {"tokenizer.ggml.tokens": 7, KEY + "vocab_size": None},
        "vocab_size",
    ),
    "text for a factor": (
        {
            KEY + "rope.scaling.type": "yarn",
            KEY + "rope.scaling.factor": 2.0,
            KEY + "rope.scaling.original_context_length": 8,
            KEY + "rope.scaling.attn_factor": "1",
        },
        "attn_factor",
    ),
    "2^31 experts": ({KEY + "expert_count": 1 << 31}, "experts"),
    "no block left": ({KEY + "nextn_predict_layers": 4}, "MTP layers"),
    "rotary above the head": ({KEY + "rope.dimension_count": 256}, "rope.dimension_count"),
    "another rotary size": ({KEY + "rope.dimension_count": 8}, "rotary channels"),
    "NaN": ({KEY + "rope.freq_base": float("nan")}, "rope_theta"),
    "odd rope scaling": (
        {
            KEY + "rope.scaling.type": "linear",
            KEY + "rope.scaling.factor": 2.0,
            KEY + "rope.scaling.original_context_length": 8,
        },
        "rope_scaling",
    ),
    "own key not JSON": ({"ling.config": "{" * 100_000}, "`ling.config`"),
    "own key a number": ({"ling.config": 7}, "`ling.config`"),
    "own key a list": ({"ling.config": "[1]"}, "`ling.config`"),
    "groups unknown": ({KEY + "expert_group_count": None}, "expert_group_count"),
    "wider model": ({KEY + "feed_forward_length": 256}, "shape"),
    "tokens of another model": (
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "bailingmoe2",
            "tokenizer.ggml.tokens": ["a", "b"],
        },
        "2 tokens, but the model has",
    ),
    "tokens of another kind": ({"tokenizer.ggml.model": "llama"}, "expected `gpt2`"),
}


@pytest.mark.parametrize("case", METADATA)
def test_contradicting_metadata_is_refused(tmp_path, tiny, case):
    changes, why = METADATA[case]
    start = time.process_time()
    with pytest.raises(GGUFError) as caught:
        GGUFSource(model_file(tmp_path / "x.gguf", tiny, changes))
    assert why in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "x.gguf"))
    assert len(str(caught.value)) < 400
    assert time.process_time() - start < 2


@pytest.mark.parametrize("change", ["duplicate", "bad id", "missing bytes", "types", "merges"])
def test_damaged_vocabulary_is_refused(tmp_path, tiny, tokenizer_folder, change):
    values = vocabulary_metadata(tokenizer_folder, tiny.vocab_size)
    tokens = values["tokenizer.ggml.tokens"]
    if change == "duplicate":
        tokens[270] = tokens[0]
    elif change == "bad id":
        values["tokenizer.ggml.eos_token_id"] = 1 << 31
    elif change == "missing bytes":
        tokens[:256] = [f"t{i}" for i in range(256)]
    elif change == "types":
        values["tokenizer.ggml.token_type"] = [1]
    else:
        values["tokenizer.ggml.merges"] = ["no such tokens"]
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        GGUFSource(model_file(tmp_path / "x.gguf", tiny, values))


def test_missing_and_unknown_tensors_are_named(tmp_path, tiny):
    path = model_file(tmp_path / "x.gguf", tiny, drop={"blk.1.ffn_up_exps.weight"})
    with pytest.raises(GGUFError, match=r"`blk\.1\.ffn_up_exps\.weight` is missing"):
        GGUFSource(path)
    with pytest.raises(GGUFError, match="unexpected tensor `evil`"):
        GGUFSource(model_file(path, tiny, extra=["evil"]))


def test_file_that_shrinks_while_it_is_read_is_an_error(tmp_path, tiny):
    source = GGUFSource(model_file(tmp_path / "x.gguf", tiny))
    os.truncate(tmp_path / "x.gguf", 4096)
    with pytest.raises(GGUFError, match="shrank"):
        source.tensor("lm_head.weight")


def test_flipped_and_cut_heads_never_end_in_anything_else(export, tiny, tokenizer_folder):
    path = export(tiny, named_tensors(tiny, torch.bfloat16), tokenizer_folder)
    good = path.read_bytes()
    length = min(t.offset for t in read_header(path).tensors.values())
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(length)
            if at < len(data):
                data[at] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(GGUFError):  # nothing else may come out
            GGUFSource(path).close()
            continue
        refused += 1
    assert refused > 50


def test_sizes_in_the_table_are_those_of_the_gguf_package():
    gguf = pytest.importorskip("gguf")
    for i, kind in KINDS.items():
        assert gguf.GGMLQuantizationType(i).name.lower() == kind.name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(i)] == (kind.block, kind.size)
        assert nbytes((2, kind.block), kind) == 2 * kind.size
