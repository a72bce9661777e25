"""One safetensors file: however damaged, one error before a tensor is read."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.raw.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from ling.errors import SafetensorsError
from ling.files.guarded import MAX_OBJECTS, MAX_VALUES

KIB = b"\0" * 1024


def pack(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin, end, shape=None, dtype="U8"):
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def entry(**changes):
    return {"a": {**tensor(0, 16), **changes}}


HOSTILE = {
    "empty": (b"", "too short"),
    "seven bytes": (b"\0" * 7, "too short"),
    "header of nothing": (pack(b""), "header of 0 bytes"),
    "header past the end": (pack({}, length=3), "header of 3 bytes"),
    "header of 2^63": (pack({}, length=1 << 63), "header of 9223372036854775808"),
    "header of 3 GB": (pack({}, KIB, length=3 << 30), "header of 3221225472"),
    "header cut off": (pack(entry())[:40], "header of"),
    "not UTF-8": (pack(b'{"a\xff": 1}'), "not UTF-8"),
    "not JSON": (pack(b"{nonsense}"), "not JSON"),
    "not an object": (pack(b"[1, 2]"), "not an object"),
    "deep arrays": (pack(b'{"a": ' + b"[" * 200_000), "nested too deeply"),
    "deep objects": (pack(b'{"a":' * 100_000), "nested too deeply"),
    "deeper objects": (pack(b'{"a":' * 200_000), "objects"),
    "flood of values": (pack(b'{"a": [' + b"[]," * 1_000_000 + b"[]]}"), "values"),
    "number of 5000 digits": (pack(b'{"a": ' + b"9" * 5000 + b"}"), "digits"),
    "two of a name": (
        pack(b'{"a": %s, "a": %s}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), b"1234"),
        "`a` is there twice",
    ),
    "two of a name, one escaped": (pack(b'{"a": 1, "\\u0061": 2}'), "`a` is there twice"),
    "two of a key": (
        pack(b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [0], "data_offsets": [0, 0]}}'),
        "`dtype` is there twice",
    ),
    "negative offset": (pack(entry(data_offsets=[-16, 0]), KIB), "impossible data_offsets"),
    "reversed offsets": (pack(entry(data_offsets=[16, 0]), KIB), "impossible data_offsets"),
    "one offset": (pack(entry(data_offsets=[16]), KIB), "impossible data_offsets"),
    "offset of a fraction": (pack(entry(data_offsets=[0, 16.0]), KIB), "impossible data_offsets"),
    "offset true": (pack(entry(data_offsets=[False, 16]), KIB), "impossible data_offsets"),
    "overlap": (pack({"a": tensor(0, 512), "b": tensor(256, 1024)}, KIB), "overlaps"),
    "twice the same bytes": (pack({"a": tensor(0, 1024), "b": tensor(0, 1024)}, KIB), "overlaps"),
    "hole": (pack({"a": tensor(0, 512), "b": tensor(768, 1024)}, KIB), "hole"),
    "hole at the start": (pack({"a": tensor(512, 1024)}, KIB), "hole"),
    "past the end": (pack({"a": tensor(0, 2048)}, KIB), "should end"),
    "trailing bytes": (pack({"a": tensor(0, 1024)}, KIB + b"PK\3\4"), "should end"),
    "data without tensors": (pack({}, KIB), "should end"),
    "shape wraps 2^64": (pack(entry(shape=[1 << 32, 1 << 32]), KIB), "needs 18446744073709551616"),
    "shape wraps to fit": (
        pack(entry(shape=[(1 << 62) + 4, 4], dtype="U8"), KIB),
        "needs 18446744073709551632",
    ),
    "negative dimension": (pack(entry(shape=[-4, -4]), KIB), "impossible shape"),
    "dimension of text": (pack(entry(shape=["16"]), KIB), "impossible shape"),
    "dimension true": (pack(entry(shape=[True, 16]), KIB), "impossible shape"),
    "huge dimension": (pack(entry(shape=[0, 1 << 64]), KIB), "impossible shape"),
    "a hundred dimensions": (pack(entry(shape=[1] * 100), KIB), "impossible shape"),
    "shape is no list": (pack(entry(shape=16), KIB), "impossible shape"),
    "shape too small": (pack(entry(shape=[15]), b"\0" * 16), "needs 15 bytes"),
    "unknown dtype": (pack(entry(dtype="F4"), KIB), "unknown dtype `F4`"),
    "dtype of a list": (pack(entry(dtype=["F32"]), KIB), "unknown dtype"),
    "wrong size of dtype": (pack(entry(dtype="F32"), b"\0" * 16), "needs 64 bytes"),
    "extra key": (pack(entry(url="http://x"), KIB), "not given by"),
    "missing key": (pack({"a": {"dtype": "U8"}}, KIB), "not given by"),
    "entry of text": (pack({"a": "U8"}), "not given by"),
    "metadata of numbers": (pack({"__metadata__": {"format": 1}}), "__metadata__"),
    "a pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0" + KIB, "header of"),
    "a zip": (b"PK\3\4" + KIB, "header of"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_damaged_file_is_refused_quickly_and_cheaply(tmp_path, data, reason):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(SafetensorsError) as caught:
        SafetensorsFile(path)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    assert seconds < 1
    assert peak < 100 << 20


@pytest.mark.parametrize("value", ["[0]", '"abc"', "10000000000", "1e5"])
def test_largest_hostile_header_stays_within_bounds(tmp_path, value):
    """As many values, and the costliest objects, as the limits let through."""
    path = tmp_path / "x.safetensors"
    objects = ['{"a":"b"}'] * (MAX_OBJECTS - 1)
    left = MAX_VALUES - 2 * MAX_OBJECTS
    text = ",".join([*objects, *[value] * (left // (1 + value.count("[")) - 1)]).encode()
    text = b'{"k":[' + text + b"]}"
    path.write_bytes(pack(text + b" " * (MAX_HEADER_BYTES - len(text))))
    tracemalloc.start()
    with pytest.raises(SafetensorsError, match="not given by"):
        SafetensorsFile(path)
    assert tracemalloc.get_traced_memory()[1] < 120 << 20
    tracemalloc.stop()


def _make(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "dangling", "device", "missing"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind):
    path = _make(tmp_path, kind)
    start = time.process_time()
    with pytest.raises(SafetensorsError, match=r"x\.safetensors: "):
        SafetensorsFile(path)
    assert time.process_time() - start < 1


@pytest.fixture
def good(tmp_path):
    tensors = {
        "w": torch.randn(64, 32, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(3.5),
        "q": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "i": torch.arange(-4, 4, dtype=torch.int8),
        "flag": torch.tensor([True, False]),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "n": "ä"})
    return tmp_path / "x.safetensors", tensors


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float())


def test_good_file_reads_as_the_library_reads_it(good):
    path, tensors = good
    file = SafetensorsFile(path)
    assert file.entries.keys() == tensors.keys()
    assert file.metadata == {"format": "pt", "n": "ä"}
    for name, want in load_file(path).items():
        assert same(file.read(name), want)
        assert same(file.view(name), want)
    into = torch.zeros(4, 64, 32, dtype=torch.bfloat16)
    file.read("w", into[2])
    assert same(into[2], tensors["w"])


def test_unaligned_and_unordered_entries_are_read(tmp_path):
    path = tmp_path / "x.safetensors"
    want = torch.tensor([1.5, -2.0])
    header = {"b": tensor(1, 9, [2], "F32"), "a": tensor(0, 1)}
    text = json.dumps(header).encode()
    path.write_bytes(pack(text + b" " * (-(len(text) + 8) % 8), b"\7" + want.numpy().tobytes()))
    file = SafetensorsFile(path)
    assert torch.equal(file.read("b"), want)
    assert torch.equal(file.view("b"), want)


def test_a_view_is_no_copy_and_never_writes_to_the_file(good):
    path, tensors = good
    file = SafetensorsFile(path)
    first, second = file.view("w"), file.view("w")
    assert first.data_ptr() == second.data_ptr()
    first.zero_()
    assert same(SafetensorsFile(path).read("w"), tensors["w"])


def test_file_that_shrinks_after_opening_is_an_error_not_a_signal(good):
    path, _ = good
    file = SafetensorsFile(path)
    os.truncate(path, 100)
    for read in (file.read, file.view):
        with pytest.raises(SafetensorsError, match="changed since it was opened"):
            read("w")


def test_file_that_shrinks_inside_the_read_is_an_error(good, monkeypatch):
    path, _ = good
    file = SafetensorsFile(path)
    real = os.preadv

    def shrink_first(fd, buffers, offset):
        os.truncate(path, 100)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", shrink_first)
    with pytest.raises(SafetensorsError, match="shrank while being read"):
        file.read("w")


def test_file_swapped_after_opening_is_an_error(good, tmp_path):
    path, tensors = good
    file = SafetensorsFile(path)
    save_file(tensors, tmp_path / "other", metadata={"format": "pt", "n": "ä"})
    os.replace(tmp_path / "other", path)
    with pytest.raises(SafetensorsError, match="changed since it was opened"):
        file.read("w")


def test_fifo_put_in_place_of_an_open_file_does_not_stall(good):
    path, _ = good
    file = SafetensorsFile(path)
    path.unlink()
    os.mkfifo(path)
    start = time.process_time()
    with pytest.raises(SafetensorsError, match="not a regular file"):
        file.read("w")
    assert time.process_time() - start < 1


def test_threads_read_the_same_bytes_and_leave_no_descriptor(good):
    path, tensors = good
    file = SafetensorsFile(path)
    before = len(os.listdir("/proc/self/fd"))
    wrong = []

    def work():
        for _ in range(50):
            wrong.extend(n for n, want in tensors.items() if not same(file.read(n), want))
            wrong.extend(n for n, want in tensors.items() if not same(file.view(n), want))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the map holds one
