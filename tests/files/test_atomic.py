from __future__ import annotations

import errno
import os

import pytest

from ling.errors import RunError, UsageError
from ling.files import atomic
from ling.files.atomic import (
    atomic_folder,
    hash_tree,
    make_folder,
    put_back,
    read_json,
    set_aside,
    stopped,
    write_atomic,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_folder_gets_its_name_when_it_is_complete(tmp_path):
    final = tmp_path / "out"
    with atomic_folder(final) as tmp:
        (tmp / "a").write_text("1")
        assert not final.exists()
        assert tmp.parent == tmp_path
    assert names(tmp_path) == ["out"]
    assert names(final) == ["a"]


def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("1")

    def fill(error):
        with atomic_folder(final, replace=True) as tmp:
            (tmp / "new").write_text("2")
            raise error

    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    with pytest.raises(RunError, match=r"could not save .*out: No space left"):
        fill(OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == ["out"]
    assert names(final) == ["old"]


def test_complete_folder_replaces_the_old_one(tmp_path):
    final = tmp_path / "out"
    for name in ("one", "two"):
        with atomic_folder(final, replace=True) as tmp:
            (tmp / name).write_text("x")
    assert names(tmp_path) == ["out"]
    assert names(final) == ["two"]


def test_two_writers_of_one_folder_do_not_meet(tmp_path):
    with atomic_folder(tmp_path / "out") as tmp:
        with pytest.raises(UsageError, match="another process is writing there"):
            atomic_folder(tmp_path / "out").__enter__()
        (tmp / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]


def test_folders_of_users_are_in_the_way_not_removed(tmp_path):
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp" / "thesis").write_text("x")
    with pytest.raises(UsageError, match="not ours to remove; rename it"):
        atomic_folder(tmp_path / "out").__enter__()
    assert names(tmp_path / "out.tmp") == ["thesis"]


def test_half_a_replacement_is_undone(tmp_path):
    final = tmp_path / "out"
    aside = tmp_path / "out.old"
    (aside / "out").mkdir(parents=True)
    (aside / atomic._MARK).touch()
    (aside / "out" / "a").write_text("1")
    assert set_aside(final) == aside / "out"
    assert stopped(final) == f"; a stopped conversion left it in {aside / 'out'}, move it back"
    assert put_back(final)
    assert names(tmp_path) == ["out"]
    assert names(final) == ["a"]
    assert not put_back(final)
    assert stopped(final) == ""


def test_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomic(path, "[1]")
    write_atomic(path, "[2]")
    assert read_json(path) == [2]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"could not save .*x\.json: No space left"):
        write_atomic(path, "[3]")
    assert names(tmp_path) == ["x.json"]
    assert read_json(path) == [2]
    path.write_text("[")
    with pytest.raises(UsageError, match=r"x\.json: unreadable"):
        read_json(path)


def test_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    inner = tmp_path / "file" / "inner"
    with pytest.raises(UsageError, match="inner: cannot write here: Not a directory"):
        make_folder(inner)
    with pytest.raises(UsageError, match="inner: cannot write here: Not a directory"):
        write_atomic(inner, "x")
    with pytest.raises(UsageError, match="inner: cannot write here: Not a directory"):
        atomic_folder(inner).__enter__()
    assert make_folder(tmp_path / "a" / "b").is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="permission denied"):
        make_folder(tmp_path / "c")


def test_hashes_of_a_folder_are_by_relative_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_tree(tmp_path) == {"sub/a": abc}
