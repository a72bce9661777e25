"""Folders that cannot be renamed: nothing lost, nothing half-written under a checkpoint's name."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.open import open_source
from ling.convert.plan import convert
from ling.convert.ranks import convert_part
from ling.errors import CheckpointError, RunError, UsageError
from ling.files import inplace
from ling.files.atomic import atomic_folder, put_back
from ling.model.ling import from_config
from ling.presets import preset


@pytest.fixture
def mount(tmp_path, monkeypatch):
    folder = tmp_path / "mount"
    folder.mkdir()
    (folder / "lost+found").mkdir()  # as a new ext4 file system has it
    monkeypatch.setattr(inplace, "_is_mount", lambda path: path == folder)
    return folder


@pytest.fixture
def hf(tmp_path):
    model = from_config(preset("ling-tiny"), seed=0)
    (tmp_path / "hf").mkdir()
    save_model(model, model.config, tmp_path / "hf", dtype="bfloat16")
    return tmp_path / "hf"


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("to", ["bf16", "int8", "dcp", "megatron"])
def test_conversion_into_a_mount_point_is_that_into_a_new_folder(hf, mount, tmp_path, to):
    convert(hf, tmp_path / "new", to=to)
    inode = mount.stat().st_ino
    convert(hf, mount, to=to)
    assert mount.stat().st_ino == inode
    assert contents(mount).keys() == contents(tmp_path / "new").keys()
    assert open_source(mount).config == open_source(tmp_path / "new").config
    with pytest.raises(UsageError, match="exists; give another name or --overwrite"):
        convert(hf, mount, to=to)
    convert(hf, mount, to="bf16", overwrite=True)
    assert open_source(mount).kind == "Hugging Face folder"
    assert not [p for p in mount.iterdir() if p.name.startswith(".")]


def test_ranks_share_a_conversion_into_a_mount_point(hf, mount):
    done = [convert_part(hf, mount, rank=r, world_size=2, max_shard_size="200kB") for r in (0, 1)]
    assert done == [False, True]
    assert open_source(mount).kind == "Hugging Face folder"
    assert not [p for p in mount.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("at", range(1, 9))
def test_a_failure_at_any_step_leaves_the_old_files(mount, monkeypatch, at):
    old = {"config.json": b"old", "a": b"1", "b": b"2"}
    for name, data in old.items():
        (mount / name).write_bytes(data)
    rename, calls = os.rename, iter(range(1, 100))

    def fails_once(a, b):
        if next(calls) == at:
            raise OSError(errno.EIO, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(os, "rename", fails_once)

    def replace():
        with atomic_folder(mount, replace=True) as new:
            for name in ("config.json", "b", "c"):
                (new / name).write_bytes(b"new")

    if at <= 6:
        with pytest.raises(RunError, match="Input/output error"):
            replace()
        assert contents(mount) == old
    else:
        replace()
        assert contents(mount) == dict.fromkeys(("config.json", "b", "c"), b"new")


KILLED = """
import os, sys
from pathlib import Path
from ling.files import inplace
from ling.files.atomic import atomic_folder
mount, at = Path(sys.argv[1]), int(sys.argv[2])
inplace._is_mount = lambda path: path == mount
rename, calls = os.rename, iter(range(1, 100))
def killed(a, b):
    if next(calls) == at:
        os._exit(9)
    rename(a, b)
os.rename = killed
with atomic_folder(mount, replace=True) as new:
    for name in ("config.json", "b", "c"):
        (new / name).write_bytes(b"new")
"""


@pytest.mark.parametrize("at", [1, 3, 5, 6])
def test_a_killed_replacement_is_undone_by_the_next_one(mount, at):
    old = {"config.json": b"old", "a": b"1", "b": b"2"}
    for name, data in old.items():
        (mount / name).write_bytes(data)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(mount), str(at)], check=False)
    assert ended.returncode == 9
    # What a reader knows a checkpoint by is there only while all of one is.
    assert not (mount / "config.json").exists() or at == 1
    assert put_back(mount)
    shutil.rmtree(mount / inplace.NEW)
    assert contents(mount) == old


def test_a_failed_conversion_leaves_what_was_there(hf, mount, monkeypatch):
    convert(hf, mount)
    before = contents(mount)
    monkeypatch.setattr("ling.convert.plan.verify", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(hf, mount, to="int8", overwrite=True, verify=True)
    assert contents(mount) == before


def test_a_mount_point_with_a_users_files_is_left_alone(hf, mount):
    (mount / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a checkpoint"):
        convert(hf, mount, overwrite=True)
    assert list(contents(mount)) == ["thesis.tex"]


def test_a_bound_folder_of_the_same_file_system_is_seen(tmp_path, monkeypatch):
    folder = tmp_path / "with space"
    folder.mkdir()
    table = tmp_path / "mountinfo"
    path = str(folder.resolve()).replace(" ", r"\040")
    table.write_text(f"36 35 98:0 /x {path} rw,noatime - ext4 /dev/root rw\n")
    monkeypatch.setattr(inplace, "_MOUNTS", table)
    assert inplace.stays(folder)
    assert not inplace.stays(tmp_path)


def test_a_real_mount_point_is_filled(hf, tmp_path):
    script = (
        f"mkdir {tmp_path}/m && mount -t tmpfs none {tmp_path}/m && "
        f"{sys.executable} -m ling convert {hf} {tmp_path}/m && "
        f"{sys.executable} -m ling convert {hf} {tmp_path}/m --to int8 --overwrite && "
        f"{sys.executable} -m ling inspect {tmp_path}/m"
    )
    probe = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {tmp_path}"]
    if not Path("/usr/bin/unshare").exists() or subprocess.run(probe, check=False).returncode:
        pytest.skip("may not mount here")
    ended = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "int8" in ended.stdout
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "m")  # the mount is gone with its namespace
