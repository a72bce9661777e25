"""Page files: what is read is what was written for those tokens, or nothing."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import re
import time
from pathlib import Path

import pytest

from ling.infer.page_files import HEADER, ROOT, PageFiles, PageKey, token_bytes

IDENTITY = bytes(range(20))
PAGE_BYTES = 1000


def opened(folder, identity=IDENTITY, max_bytes=10**9):
    return PageFiles(folder, identity, PAGE_BYTES, max_bytes)


def key(files, n=0, parent=ROOT, salt=""):
    return PageKey(parent, files.salt(salt), token_bytes(range(n, n + 64)))


def data(n=0):
    return random.Random(n).randbytes(PAGE_BYTES)


def put(files, n=0, seconds=None, **options):
    k = key(files, n, **options)
    name = files.name(k)
    assert files.write(k, name, memoryview(data(n)), seconds or time.time(), ())
    return k, name


@pytest.fixture
def files(tmp_path):
    return opened(tmp_path)


def test_a_page_is_read_again_by_others(files, tmp_path):
    put(files)
    again = opened(tmp_path)
    assert again.read(key(again), again.name(key(again))) == data()
    (path,) = tmp_path.glob("*/*.kv")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_name_depends_on_tokens_salt_parent_and_model(files, tmp_path):
    keys = [
        key(files),
        key(files, 1),
        key(files, salt="a"),
        key(files, parent=files.name(key(files))),
    ]
    names = [files.name(k) for k in keys]
    names.append(opened(tmp_path, bytes(20)).name(keys[0]))
    other = opened(tmp_path / "other")
    names.append(other.name(keys[0]))  # another folder has another key
    assert len(set(names)) == len(names)
    assert other.salt("a") != files.salt("a")


@pytest.mark.parametrize("at", [0, 8, 28, 48, 68, 100, HEADER.size - 1, HEADER.size, 900, -33, -1])
def test_a_changed_byte_is_noticed(files, tmp_path, caplog, at):
    k, name = put(files)
    (path,) = tmp_path.glob("*/*.kv")
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with caplog.at_level(logging.WARNING, "ling"):
        assert files.read(k, name) is None
    assert len(caplog.messages) == 1
    assert "computed again" in caplog.text
    assert not path.exists()  # room for a sound one
    put(files)
    assert files.read(k, name) == data()


@pytest.mark.parametrize("length", [0, 1, HEADER.size, HEADER.size + PAGE_BYTES, 10**5])
def test_a_cut_or_longer_file_is_noticed(files, tmp_path, caplog, length):
    k, name = put(files)
    (path,) = tmp_path.glob("*/*.kv")
    os.truncate(path, length)
    with caplog.at_level(logging.WARNING, "ling"):
        assert files.read(k, name) is None
    assert "another size" in caplog.text


def test_a_page_under_another_name_is_noticed(files, tmp_path, caplog):
    """As when a file was copied: names are no proof."""
    put(files)
    k = key(files, 1)
    (path,) = tmp_path.glob("*/*.kv")
    path.rename(path.with_name(f"{files.name(k).hex()}.kv"))
    assert files.read(k, files.name(k)) is None
    assert "other tokens" in caplog.text


@pytest.mark.parametrize("make", ["link", "fifo", "folder"])
def test_what_is_no_file_is_not_read(files, tmp_path, caplog, make):
    k, name = put(files)
    (path,) = tmp_path.glob("*/*.kv")
    elsewhere = path.rename(tmp_path / "elsewhere")
    {"link": lambda: path.symlink_to(elsewhere), "fifo": lambda: os.mkfifo(path),
     "folder": path.mkdir}[make]()  # fmt: skip
    assert files.read(k, name) is None
    assert len(caplog.messages) == 1
    assert elsewhere.exists()


def test_many_damaged_files_are_one_line(files, tmp_path, caplog):
    known = [put(files, n) for n in range(5)]
    for path in tmp_path.glob("*/*.kv"):
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING, "ling"):
        assert [files.read(*k) for k in known] == [None] * 5
    assert len(caplog.messages) == 1


def test_a_missing_page_is_nothing_to_talk_about(files, caplog):
    assert files.read(key(files), files.name(key(files))) is None
    assert not caplog.messages


def test_the_oldest_of_all_models_make_room(tmp_path):
    size = opened(tmp_path).file_bytes
    files, other = (opened(tmp_path, bytes([n] * 20), 6 * size) for n in (1, 2))
    known = [put(files, n, seconds=1000 + n) for n in range(3)]
    known += [put(other, n, seconds=1003 + n) for n in range(3, 5)]
    other.touch(known[0][1], 2000)  # not its own: nothing happens
    files.touch(known[0][1], 2000)
    files.recount()
    put(files, 9)  # up to 95% of six pages stay
    assert [files.has(name) or other.has(name) for _, name in known] == [True, False, *[True] * 3]


def test_pages_of_the_same_round_stay(tmp_path):
    size = opened(tmp_path).file_bytes
    files = opened(tmp_path, max_bytes=4 * size)
    k, name = put(files, 0, seconds=1)
    for n in range(1, 4):
        put(files, n, seconds=1 + n)
    k4 = key(files, 4)
    assert files.write(k4, files.name(k4), memoryview(data(4)), 5, {name})
    assert files.read(k, name) == data(0)
    assert len(list(tmp_path.glob("*/*.kv"))) == 3


def test_only_files_of_ours_are_counted_and_removed(tmp_path):
    files = opened(tmp_path)
    files = opened(tmp_path, max_bytes=2 * files.file_bytes)
    (tmp_path / "notes").mkdir()
    kept = [tmp_path / "notes" / f"{'0' * 40}.kv", tmp_path / IDENTITY.hex() / "mine.txt"]
    for path in kept:
        path.write_bytes(bytes(10**6))
        os.utime(path, (1, 1))
    for n in range(3):
        put(files, n)
    assert all(path.exists() for path in kept)
    assert len(list((tmp_path / IDENTITY.hex()).glob("*.kv"))) == 1


@pytest.mark.parametrize("name", [f"{0:040x}.kv", "old.tmp"])
def test_a_folder_in_place_of_a_file_stops_no_write(tmp_path, name):
    files = opened(tmp_path, max_bytes=3 * opened(tmp_path).file_bytes)
    (part,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (part / name).mkdir()
    os.utime(part / name, (1, 1))
    known = [put(files, n, seconds=1000 + n)[1] for n in range(4)]
    assert [files.has(k) for k in known] == [False, False, True, True]


def test_half_written_files_of_stopped_processes_are_removed(files, tmp_path):
    part = tmp_path / IDENTITY.hex()
    old, new = part / "tmpold.tmp", part / "tmpnew.tmp"
    old.touch(), new.touch()
    os.utime(old, (1, 1))
    put(files)
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_is_one_line(files, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    k = key(files)
    with caplog.at_level(logging.WARNING, "ling"):
        for _ in range(2):
            assert not files.write(k, files.name(k), memoryview(data()), 1, ())
    assert len(caplog.messages) == 1
    assert re.search("cannot be saved: No space left", caplog.text)
    assert [p.suffix for p in (tmp_path / IDENTITY.hex()).iterdir()] == []


def _use(folder: str, seed: int) -> int:
    """Read and write random pages; returns how many were read."""
    files = opened(Path(folder))
    files.max_bytes = 12 * files.file_bytes
    rng, hits = random.Random(seed), 0
    for _ in range(200):
        n = rng.randrange(20)
        k = key(files, n)
        found = files.read(k, files.name(k))
        assert found in (None, data(n))
        hits += found is not None
        if found is None:
            assert files.write(k, files.name(k), memoryview(data(n)), time.time(), ())
    assert "damaged" not in files._said
    return hits


def test_processes_share_a_folder(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        hits = pool.starmap(_use, [(str(tmp_path), n) for n in range(4)])
    assert all(h > 20 for h in hits)
    assert not list(tmp_path.rglob("*.tmp"))
