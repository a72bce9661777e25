"""Arrays that are computed once: named by what decides them, made again where they are damaged."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

from ling.data.index_files import NOTE, IndexFolder
from ling.errors import RunError, UsageError


class Counting:
    """Makes an index and counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self, writer):
        self.times += 1
        numbers = writer.new("numbers", np.int32, 1000)
        helper = writer.scratch(np.int64, 10)
        helper[:] = 1
        numbers[:] = np.arange(1000) * helper[0]
        writer.new("nothing", np.int64, 0)
        for k in range(3):
            writer.append("parts", np.full(2, k, np.uint8))


KEY = {"seed": 1, "shares": [0.5, 0.25]}


def check(arrays):
    assert sorted(arrays) == ["nothing", "numbers", "parts"]
    assert (arrays["numbers"] == np.arange(1000)).all()
    assert arrays["parts"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(arrays["nothing"]) == 0


def test_an_index_is_made_once_for_each_key(tmp_path):
    build = Counting()
    for key in (KEY, KEY, {**KEY, "seed": 2}, KEY):
        check(IndexFolder(tmp_path / "index").get(key, build))
    assert build.times == 2


def test_without_a_folder_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check(IndexFolder().get(KEY, Counting()))
    assert not list(tmp_path.iterdir())


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("numbers", cut),
        ("numbers", flip),
        ("parts", lambda p: p.unlink()),
        (NOTE, cut),
        (NOTE, lambda p: p.write_text("[]")),
        (NOTE, lambda p: p.write_text(json.dumps({"key": KEY, "files": {"x": 3}}))),
    ],
)
def test_what_is_damaged_is_said_and_made_again(tmp_path, name, damage):
    build, said = Counting(), []
    index = IndexFolder(tmp_path, said.append)
    index.get(KEY, build)
    assert not said
    damage(next(tmp_path.glob(f"*/{name}")))
    check(index.get(KEY, build))
    check(index.get(KEY, build))
    assert build.times == 2
    assert [line.endswith("damaged, made again") for line in said] == [True]


def test_what_a_killed_process_left_is_removed(tmp_path):
    index = IndexFolder(tmp_path)
    index.get(KEY, Counting())
    final = next(tmp_path.glob("*/numbers")).parent
    final.rename(final.with_name(final.name + ".tmp"))
    build = Counting()
    check(index.get(KEY, build))
    assert build.times == 1
    assert [p.name for p in tmp_path.glob("*") if p.is_dir()] == [final.name]


def test_of_processes_that_meet_one_makes_it(tmp_path):
    build = Counting()
    threads = [
        threading.Thread(target=lambda: check(IndexFolder(tmp_path).get(KEY, build)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.times == 1


def test_a_full_disk_and_a_folder_that_cannot_be_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/index: cannot write here"):
        IndexFolder(tmp_path / "file/index").get(KEY, Counting())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"could not write .*numbers: No space left"):
        IndexFolder(tmp_path).get(KEY, Counting())
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
