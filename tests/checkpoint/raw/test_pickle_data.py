"""Pickles as data: what is read, and that a hostile one neither runs nor hangs nor fills memory."""

from __future__ import annotations

import collections
import os
import pickle
import resource
import struct
import time
from pathlib import PurePosixPath

import pytest

from ling.checkpoint.raw.pickle_data import Global, read_pickle
from ling.errors import DCPError

PATH = Global("pathlib", "PurePosixPath")


def nothing(name):
    return False


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_pickle_reads_them(protocol):
    value = {
        "none": None,
        "flags": [True, False],
        "numbers": [0, 255, 256, 65536, -1, -(2**31), 2**40, -(2**70), 1.5, -0.0, 10**18],
        "texts": ["", "ä", "x" * 300, b"", b"\0\xff" * 200]
        if protocol > 2
        else ["", "ä", "x" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "nested": {"a": {"b": [[], {}]}},
        ("key", 1): "tuple key",
        5: "int key",
    }
    assert read_pickle(pickle.dumps(value, protocol), nothing) == value


@pytest.mark.parametrize("protocol", [2, 4])
def test_containers_become_plain(protocol):
    names = ("OrderedDict", "defaultdict", "deque", "set", "frozenset", "list")
    value = [
        collections.OrderedDict(a=1),
        collections.deque([1, 2]),
        {3},
        collections.defaultdict(list, b=2),
    ]
    found = read_pickle(pickle.dumps(value, protocol), lambda g: g.name in names)
    assert found == [{"a": 1}, [1, 2], [3], {"b": 2}]


def test_object_stays_a_record_of_its_parts():
    record = read_pickle(pickle.dumps(PurePosixPath("a/b")), {PATH}.__contains__)
    assert (record.kind, record.args) == (PATH, ("a", "b"))


def test_shared_objects_stay_shared():
    inner = [1]
    a, b = read_pickle(pickle.dumps([inner, inner]), nothing)
    assert a is b


class Call:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def hostile():
    """(name, pickle) of everything that would run, with the canary's path for CANARY."""
    system = Call(os.system, "touch CANARY")
    for protocol in (0, 1, 2, 4):
        yield f"system {protocol}", pickle.dumps(system, protocol)
    yield "eval", pickle.dumps(Call(eval, "open('CANARY', 'w')"))
    yield "hidden in front", pickle.dumps([system, {"good": 1}])
    dotted = b"\x8c\x07pathlib\x8c\x0fos.path.os.open"
    yield "dotted name", b"\x80\x04" + dotted + b"\x93\x8c\x06CANARY\x85R."
    yield "inst", b"(S'touch CANARY'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nX\x0c\0\0\0touch CANARYo."
    yield "ext", b"\x80\x02\x82\x01."
    yield "persistent id in text", b"P1\n."
    call_result = b"\x80\x02cpathlib\nPurePosixPath\n)R)R."
    yield "call of an object", call_result
    yield "state of a class", b"\x80\x02cpathlib\nPurePosixPath\nN}X\x01\0\0\0aK\x01s\x86b."


@pytest.mark.parametrize(
    ("name", "data"), list(hostile()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_nothing_in_a_pickle_runs(name, data, tmp_path):
    canary = tmp_path / "canary"
    data = data.replace(b"CANARY", str(canary).encode())
    with pytest.raises(DCPError) as err:
        read_pickle(data, {PATH}.__contains__)
    assert "\n" not in str(err.value)
    assert not canary.exists()


def bombs():
    yield "empty", b""
    yield "cut", pickle.dumps(list(range(1000)))[:-500]
    yield "text of 2^60 bytes", b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x."
    yield "bytes of 4 GB", b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x."
    yield "byte array", b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."
    yield "memo at 2^32", b"\x80\x02Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff."
    yield "deep key", b"\x80\x02}" + b")" + b"\x85" * 400_000 + b"K\x01s."
    yield "deep and cut", b"\x80\x02" + b"]" * 200_000 + b"a" * 100_000
    yield "endless lists", b"\x80\x02" + b"]" * 7_000_000
    yield "huge key", b"\x80\x02}\x8a\x09" + b"\x7f" * 9 + b"K\x01s."
    yield "stack underflow", b"\x80\x02\x87."
    yield "protocol 9", b"\x80\x09N."


@pytest.mark.parametrize(
    ("name", "data"), list(bombs()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_bombs_end_soon_and_small(name, data):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(DCPError):
        read_pickle(data, nothing)
    assert time.process_time() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_deep_nesting_as_a_value_does_no_harm():
    value = read_pickle(b"\x80\x02" + b")" + b"\x85" * 300_000 + b".", nothing)
    assert len(value) == 1
