"""DCP folders: torch's and dcp_folder, regions, and what is refused before any tensor is read."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
import types
import warnings
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import metadata as meta
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan

from ling.checkpoint.dcp import folder as dcp_folder
from ling.checkpoint.dcp import layout
from ling.checkpoint.dcp.folder import DCPFolder, read_tensors
from ling.checkpoint.dcp.writer import DCPWriter
from ling.checkpoint.raw import shards
from ling.checkpoint.raw.shards import Stored, raw_bytes
from ling.checkpoint.raw.torch_zip import archive_around, place_tensor
from ling.convert.plan import convert
from ling.errors import DCPError, RunError


@pytest.fixture
def folder(fixtures, tmp_path):
    return shutil.copytree(fixtures / "dcp" / "tiny" / "dcp_in", tmp_path / "dcp")


@pytest.fixture
def saved(tmp_path):
    def save(state):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(state, checkpoint_id=tmp_path / "saved", no_dist=True)
        return tmp_path / "saved"

    return save


def test_every_tensor_of_torchs_writer_is_read(folder, fixtures):
    held = DCPFolder(folder)
    expected = load_file(fixtures / "dcp" / "tiny" / "megatron_state.safetensors")
    for name, value in expected.items():
        assert torch.equal(held.tensor(name), value), name


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).view(2, 3, 4),
        torch.arange(24.0).view(4, 6).t(),
        torch.arange(24, dtype=torch.int64)[::2],
        torch.tensor(3.5),
        torch.empty(0, 5),
        torch.randn(3, 3).bfloat16(),
        torch.nn.Parameter(torch.randn(2, 2)),
        torch.tensor([True, False]),
    ],
    ids=lambda t: f"{tuple(t.shape)} {t.dtype}",
)
def test_layouts_and_types_of_torchs_writer(value, saved):
    assert torch.equal(DCPFolder(saved({"x": value})).tensor("x"), value.detach())


def test_region_reads_its_bytes_only(saved, monkeypatch):
    value = torch.randn(8, 64, 32)
    held = DCPFolder(saved({"x": value}))
    held.region("x", (0,), (1, 1, 1))
    read = []
    original = dcp_folder.read_into
    monkeypatch.setattr(
        dcp_folder, "read_into", lambda fd, t, at: (read.append(len(t)), original(fd, t, at))
    )
    assert torch.equal(held.region("x", (3, 16), (1, 16, 32)), value[3:4, 16:32])
    assert sum(read) == 16 * 32 * 4


def test_region_over_several_chunks(tmp_path):
    value = torch.randn(6, 5)
    boxes = [("x", (i, j), (2, n)) for i in (0, 2, 4) for j, n in ((0, 3), (3, 2))]
    writer = DCPWriter(tmp_path, {"x": Stored(torch.float32, (6, 5))}, boxes)
    for _, (i, j), (m, n) in reversed(boxes):
        writer.put("x", (i, j), value[i : i + m, j : j + n])
    writer.finish()
    held = DCPFolder(tmp_path)
    assert torch.equal(held.tensor("x"), value)
    assert torch.equal(held.region("x", (1, 2), (4, 2)), value[1:5, 2:4])


def test_extent_is_given_only_for_bytes_in_one_piece(saved):
    value = torch.randn(4, 6, 8)
    folder = saved({"x": value, "turned": value.transpose(0, 2)})
    held = DCPFolder(folder)
    found = held.extent("x", (2, 3, 0), (1, 3, 8))
    assert found is not None
    raw = os.pread(found.fd, found.stored.nbytes, found.offset)
    assert raw == bytes(raw_bytes(value[2:3, 3:6]))
    assert held.extent("x", (0, 3, 0), (2, 3, 8)) is None


def test_large_boxes_are_cut_and_torch_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_BYTES", 1000)
    value = torch.randn(1, 50, 16)
    writer = DCPWriter(
        tmp_path,
        {"x": Stored(torch.bfloat16, (3, 50, 16))},
        [("x", (i, 0, 0), (1, 50, 16)) for i in range(3)],
    )
    for i in range(3):
        writer.put("x", (i, 0, 0), value + i)
    writer.finish()
    held = DCPFolder(tmp_path)
    assert len(held.tensors["x"].chunks) > 3
    into = {"x": torch.empty(3, 50, 16, dtype=torch.bfloat16)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(into, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(into["x"], held.tensor("x"))
    assert torch.equal(into["x"][2], (value[0] + 2).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_our_archives_are_sound_zip_files_and_torch_loads_them(dtype):
    value = torch.arange(15).view(3, 5).to(dtype)
    head, tail = archive_around(dtype, (3, 5), raw_bytes(value))
    data = head + bytes(raw_bytes(value)) + tail
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert torch.equal(torch.load(io.BytesIO(data), weights_only=True), value)
    placed = place_tensor(lambda at, n: data[at : at + n], len(data))
    assert placed.position % 64 == 0


def test_read_tensors_names_what_is_missing_or_of_another_shape(folder):
    with pytest.raises(DCPError, match="`nothing` is missing"):
        read_tensors(folder, {"nothing": torch.empty(1)})
    with pytest.raises(DCPError, match=r"has shape \[128, 64\], expected \[2\]"):
        read_tensors(folder, {"output_layer.weight": torch.empty(2)})


# ---- hostile folders ---------------------------------------------------------------------------


class Call:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def run_with(function, *arguments):
    return lambda good, canary: pickle.dumps(
        [Call(function, *(a.replace("CANARY", str(canary)) for a in arguments)), good]
    )


def in_front(good, canary):
    call = pickle.dumps(Call(os.system, f"touch {canary}"), 4)[:-1]
    return call + b"0" + pickle.dumps(good, 4)[2:]


def dotted(good, canary):
    module, name = b"torch.distributed.checkpoint.metadata", b"os.system"
    text = f"touch {canary}".encode()
    parts = (bytes([0x8C, len(p)]) + p for p in (module, name))
    return b"\x80\x04" + b"".join(parts) + b"\x93\x8c" + bytes([len(text)]) + text + b"\x85R."


CALLS = {
    "os.system": run_with(os.system, "touch CANARY"),
    "eval": run_with(eval, "open('CANARY', 'w')"),
    "exec": run_with(exec, "open('CANARY', 'w')"),
    "runpy": run_with(__import__("runpy").run_path, "CANARY"),
    "torch.load": run_with(torch.load, "CANARY"),
    "partial": run_with(__import__("functools").partial(os.system, "touch CANARY")),
    "popen": run_with(subprocess.Popen, "touch CANARY"),
    "hidden in front": in_front,
    "dotted": dotted,
    "inst": lambda good, canary: f"(S'touch {canary}'\nios\nsystem\n.".encode(),
    "obj": lambda good, canary: b"(cos\nsystem\nX\x01\0\0\0xo.",
}


@pytest.mark.parametrize("name", CALLS)
def test_metadata_that_calls_is_refused_and_not_run(name, folder, tmp_path):
    canary = tmp_path / "canary"
    good = dcp.FileSystemReader(folder).read_metadata()
    (folder / ".metadata").write_bytes(CALLS[name](good, canary))
    start = time.process_time()
    with pytest.raises(DCPError, match=r"\.metadata: .*not allowed") as err:
        convert(folder, tmp_path / "out")
    assert "\n" not in str(err.value)
    assert not canary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dcp"]
    assert time.process_time() - start < 10


def test_metadata_of_megatrons_own_classes_is_read(folder, monkeypatch):
    """Megatron is not installed here; while we write, a module stands for it."""
    name = "megatron.core.dist_checkpointing.strategies.torch"
    module = types.ModuleType(name)
    for base in (meta.Metadata, SavePlan):
        kind = type(f"MCore{base.__name__}", (base,), {"__module__": name})
        setattr(module, kind.__name__, kind)
    good = dcp.FileSystemReader(folder).read_metadata()
    theirs = module.MCoreMetadata(**vars(good))
    theirs.mcore_data = {"x": {"nd_reformulated_orig_global_shape": (1, 2)}}
    theirs.all_local_plans = [module.MCoreSavePlan(items=[])]
    with monkeypatch.context() as patch:
        for parent in ("megatron", "megatron.core", "megatron.core.dist_checkpointing"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, name, module)
        (folder / ".metadata").write_bytes(pickle.dumps(theirs))
    assert "output_layer.weight" in DCPFolder(folder).tensors
    assert "megatron" not in sys.modules


def test_enums_as_python_3_11_2_pickles_them_are_read(folder, monkeypatch):
    before = DCPFolder(folder)
    values = {key: before.tensor(key) for key in before.tensors}
    kind = meta._MEM_FORMAT_ENCODING
    monkeypatch.setattr(kind, "__reduce_ex__", lambda self, _: (getattr, (kind, self.name)))
    rewritten(folder, lambda metadata: None)
    assert b"getattr" in (folder / ".metadata").read_bytes()
    after = DCPFolder(folder)
    assert all(torch.equal(after.tensor(key), value) for key, value in values.items())


def rewritten(folder, change):
    """The metadata of the folder after `change(metadata)`, in place."""
    good = dcp.FileSystemReader(folder).read_metadata()
    change(good)
    (folder / ".metadata").write_bytes(pickle.dumps(good))


def first(metadata):
    return next(iter(metadata.storage_data))


def info(**changes):
    def change(metadata):
        index = first(metadata)
        old = metadata.storage_data[index]
        values = {**vars(old), **changes}
        metadata.storage_data[index] = _StorageInfo(**values)

    return change


def shape(*size):
    def change(metadata):
        metadata.state_dict_metadata["output_layer.weight"].size = torch.Size(size)

    return change


def chunk(offsets, sizes):
    def change(metadata):
        chunk = meta.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        metadata.state_dict_metadata["output_layer.weight"].chunks = [chunk]

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (info(relative_path="../dcp/__0_0.distcp"), "outside the folder"),
        (info(relative_path="/etc/passwd"), "outside the folder"),
        (info(relative_path=".."), "outside the folder"),
        (info(relative_path=""), "outside the folder"),
        (info(relative_path="a\0b"), "outside the folder"),
        (info(relative_path="gone.distcp"), "gone.distcp"),
        (info(offset=-5), "is in no file: offset -5"),
        (info(offset=2**60), "should end"),
        (info(length=2**50), "should end"),
        (info(length=3), "larger than its data"),
        (info(transform_descriptors=["zstd"]), "compressed"),
        (shape(2**35, 2**35), "do not fill"),
        (shape(128, 2**70), "impossible shape"),
        (shape(64, 64), "outside its shape"),
        (chunk((0, 0), (64, 64)), "do not fill"),
        (chunk((64, 0), (128, 64)), "no data"),
        (lambda m: m.storage_data.clear(), "no data"),
    ],
    ids=lambda c: None,
)
def test_metadata_that_does_not_fit_the_files_is_refused(change, word, folder):
    rewritten(folder, change)
    with pytest.raises(DCPError, match=word):
        DCPFolder(folder)


@pytest.mark.parametrize("data", [b"", b"\x80", os.urandom(4096), pickle.dumps([1, 2])])
def test_metadata_that_is_none_is_refused(data, folder):
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(DCPError, match=r"\.metadata"):
        DCPFolder(folder)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "fifo", "folder", "link out", "loop"])
def test_data_file_that_is_none_is_refused_at_once(kind, folder, tmp_path):
    data = folder / "__0_0.distcp"
    content = data.read_bytes()
    data.unlink()
    if kind == "empty":
        data.write_bytes(b"")
    elif kind == "cut":
        data.write_bytes(content[:-100])
    elif kind == "fifo":
        os.mkfifo(data)
    elif kind == "folder":
        data.mkdir()
    elif kind == "link out":
        (tmp_path / "elsewhere").write_bytes(content)
        data.symlink_to(tmp_path / "elsewhere")
    elif kind == "loop":
        data.symlink_to(data)
    start = time.process_time()
    with pytest.raises(DCPError, match="__0_0"):
        DCPFolder(folder)
    assert time.process_time() - start < 1


def test_swapped_tensors_are_noticed(folder):
    rewritten(
        folder,
        lambda m: m.storage_data.update(
            {first(m): m.storage_data[meta.MetadataIndex("decoder.final_layernorm.weight", (0,))]}
        ),
    )
    with pytest.raises(DCPError, match="larger than its data"):
        DCPFolder(folder)


def test_file_that_shrinks_while_open_is_an_error(folder):
    held = DCPFolder(folder)
    os.truncate(folder / "__0_0.distcp", 1000)
    with pytest.raises(DCPError, match="ends early"):
        held.tensor("output_layer.weight")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: bytes(len(raw)),
        lambda raw: raw[::-1],
        lambda raw: raw.replace(b"PK\1\2", b"PK\1\3"),
        lambda raw: raw.replace(b"BFloat16Storage", b"BFloat17Storage"),
        lambda raw: raw.replace(b"_rebuild_tensor_v2", b"_rebuild_qtensor_2"),
        lambda raw: raw[:-42] + bytes(20) + b"PK\5\6" + b"\xff" * 18,
        lambda raw: raw[:-6] + b"\xff\xff\xff\x7f\0\0",
    ],
    ids=["zero", "reversed", "directory", "storage", "rebuild", "zip64", "offset"],
)
def test_damaged_archive_is_one_error(damage, folder):
    held = DCPFolder(folder)
    part = held.tensors["output_layer.weight"].chunks[0, 0]
    with (folder / "__0_0.distcp").open("r+b") as file:
        file.seek(part.begin)
        raw = file.read(part.length)
        file.seek(part.begin)
        file.write(damage(raw))
    with pytest.raises(DCPError, match=r"output_layer\.weight"):
        held.tensor("output_layer.weight")


def test_pickle_in_a_data_file_is_not_run(saved, tmp_path):
    canary = tmp_path / "canary"
    folder = saved({"x": torch.zeros(64, 64), "state": Call(os.system, f"touch {canary}")})
    held = DCPFolder(folder)
    assert list(held.tensors) == ["x"]
    part = held.tensors["x"].chunks[0, 0]
    with pytest.raises(DCPError, match="missing"):
        read_tensors(folder, {"state": torch.zeros(1)})
    with (folder / part.file).open("r+b") as file:
        file.seek(part.begin)
        raw = file.read(part.length)
        hostile = raw.replace(
            b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem\n".ljust(33, b"0")
        )
        assert len(hostile) == len(raw)
        assert hostile != raw
        file.seek(part.begin)
        file.write(hostile)
    with pytest.raises(DCPError):
        held.tensor("x")
    assert not canary.exists()


def test_command_line_refuses_in_one_line(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Call(os.system, "true")))
    command = [sys.executable, "-m", "ling", "convert", folder, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_disk_full_while_writing_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "write_all", full)
    with pytest.raises(RunError, match="No space left"):
        convert(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dcp"]


def pickled_record(kind, **state):
    """A pickle's code for an object of `kind` with these attributes, each given as code."""
    code = b"c" + "\n".join((*kind, "")).encode() + b")R}("
    return code + b"".join(text_code(k) + v for k, v in state.items()) + b"ub"


def text_code(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize("where", ["fqn", "dtype", "file", "storage key", "storage type"])
def test_tuple_of_a_million_tuples_does_not_end_the_process(where, folder, tmp_path):
    """Python's hash of it overflows the stack, hence another process."""
    deep, of = b")" + b"\x85" * 1_000_000, "torch.distributed.checkpoint.metadata"
    size = b"ctorch\nSize\n(K\x01t\x85R"
    key = pickled_record(
        (of, "MetadataIndex"), fqn=deep if where == "fqn" else text_code("a"), offset=size
    )
    kind = ("torch.distributed.checkpoint.filesystem", "_StorageInfo")
    info = pickled_record(kind, relative_path=deep, offset=b"K\0", length=b"K\0")
    dtype = deep if where == "dtype" else b"ctorch\nfloat32\n"
    tensor = pickled_record(
        (of, "TensorStorageMetadata"),
        chunks=b"]("
        + pickled_record((of, "ChunkStorageMetadata"), offsets=size, sizes=size)
        + b"e",
        properties=pickled_record((of, "TensorProperties"), dtype=dtype),
        size=size,
    )
    tensors = b"}(" + text_code("a") + tensor + b"u"
    storage = b"}(" + key + info + b"u"
    data = pickled_record((of, "Metadata"), storage_data=storage, state_dict_metadata=tensors)
    run = "DCPFolder(Path(sys.argv[1]))"
    if where.startswith("storage"):
        parts = {"storage type": b"ctorch\nFloatStorage\n", "storage key": text_code("0")}
        parts[where] = deep
        storage = (
            b"(" + text_code("storage") + b"".join(parts.values()) + text_code("cpu") + b"K\1tQ"
        )
        data = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\1\x85K\1\x85\x89NtR"
        with zipfile.ZipFile(tmp_path / "x", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + data + b".")
        run = "d = open(sys.argv[2], 'rb').read(); place_tensor(lambda i, n: d[i:i+n], len(d))"
    (folder / ".metadata").write_bytes(b"\x80\x04" + data + b".")
    code = (
        "import sys; from pathlib import Path\n"
        "from ling.checkpoint.raw.torch_zip import place_tensor\n"
        "from ling.errors import DCPError; from ling.checkpoint.dcp.folder import DCPFolder\n"
        f"try: {run}\nexcept DCPError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr[-500:]


def in_pieces(folder, boxes, shape):
    writer = DCPWriter(folder, {"x": Stored(torch.int8, shape)}, [("x", *box) for box in boxes])
    whole = torch.arange(torch.Size(shape).numel()).view(shape).to(torch.int8)
    for start, size in boxes:
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        writer.put("x", start, whole[box])
    writer.finish()
    return whole


def test_thousands_of_regular_chunks_are_read_without_comparing_pairs(tmp_path, monkeypatch):
    boxes = [((i, 2 * j), (1, 2)) for i in range(60) for j in range(50)]
    whole = in_pieces(tmp_path, boxes, (60, 100))
    monkeypatch.setattr(dcp_folder, "_pairs_apart", None)
    assert torch.equal(DCPFolder(tmp_path).tensor("x"), whole)


@pytest.mark.parametrize("by_column", [False, True])
def test_a_region_looks_only_at_the_chunks_around_it(tmp_path, monkeypatch, by_column):
    """Else reading a stack expert by expert goes over all chunks for each."""
    boxes = [((i, j), (1, 1)) for i in range(200) for j in range(10)]
    shape = (200, 10)
    if by_column:
        boxes, shape = [(b[::-1], n) for b, n in boxes], shape[::-1]
    whole = in_pieces(tmp_path, boxes, shape)
    held, seen, near = DCPFolder(tmp_path), [], dcp_folder._ChunkIndex.near

    def counted(self, *box):
        seen.append(near(self, *box))
        return seen[-1]

    monkeypatch.setattr(dcp_folder._ChunkIndex, "near", counted)
    for i in range(200):
        start, size = ((0, i), (10, 1)) if by_column else ((i, 0), (1, 10))
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        assert torch.equal(held.region("x", start, size), whole[box])
        held.extent("x", start, size)
    assert sum(map(len, seen)) <= 2 * len(boxes)


@pytest.mark.parametrize("cells", [1 << 24, 0])
def test_chunks_that_overlap_are_refused_on_the_grid_and_in_pairs(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(dcp_folder, "_MAX_CELLS", cells)
    # As many elements as there are, but one row twice and one not at all.
    in_pieces(tmp_path, [((0, 0), (2, 3)), ((1, 0), (1, 3)), ((3, 0), (1, 3))], (4, 3))
    with pytest.raises(DCPError, match="overlap or leave a hole"):
        DCPFolder(tmp_path).tensor("x")
    other = tmp_path / "other"
    other.mkdir()
    whole = in_pieces(other, [((0, 0), (2, 1)), ((0, 1), (1, 2)), ((1, 1), (1, 2))], (2, 3))
    assert torch.equal(DCPFolder(other).tensor("x"), whole)


def test_thousands_of_irregular_chunks_are_not_compared_in_pairs(tmp_path, monkeypatch):
    count = dcp_folder._MAX_PARTS + 1
    in_pieces(tmp_path, [((i,), (1,)) for i in range(count)], (count,))
    monkeypatch.setattr(dcp_folder, "_MAX_CELLS", count)
    with pytest.raises(DCPError, match="the limit is"):
        DCPFolder(tmp_path).tensor("x")


def test_twenty_thousand_chunks_are_found_in_time_that_grows_with_their_number(tmp_path):
    boxes = [((i, j), (1, 1)) for i in range(1000) for j in range(20)]
    path = tmp_path / "many"
    path.mkdir()
    writer = DCPWriter(path, {"x": Stored(torch.int8, (1000, 20))}, [("x", *b) for b in boxes])
    writer.finish()
    with (path / DCPWriter.FILE).open("r+b") as file:
        file.truncate(1 << 30)  # sparse: places are looked up, values are not read
    start = time.process_time()
    held = DCPFolder(path)
    for i in range(1000):
        assert len(list(held._near("x", (i, 0), (1, 20)))) == 20
    assert time.process_time() - start < 30
