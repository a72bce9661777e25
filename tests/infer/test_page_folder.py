"""The folder of KV pages: nobody else's, and of use to nobody else."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ling.infer.page_folder import KEY_FILE, open_folder, open_part


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_new_folder_is_private_and_keeps_its_key(tmp_path):
    folder = tmp_path / "a" / "b"
    old = os.umask(0)
    try:
        made = open_folder(folder)
    finally:
        os.umask(old)
    assert (mode(folder), mode(folder / KEY_FILE)) == (0o700, 0o600)
    assert len(made) == 32
    assert open_folder(folder) == made
    assert open_folder(tmp_path / "c") != made


def test_an_empty_folder_becomes_private(tmp_path, caplog):
    folder = tmp_path / "made by hand"
    folder.mkdir(mode=0o755)
    open_folder(folder)
    assert mode(folder) == 0o700
    assert not caplog.messages


def test_what_others_could_have_written_is_not_used(tmp_path, caplog):
    made = open_folder(tmp_path / "f")
    (tmp_path / "f").chmod(0o775)
    with caplog.at_level(logging.WARNING, "ling"):
        assert open_folder(tmp_path / "f") != made
    assert caplog.messages == [
        f"{tmp_path / 'f'}: mode 775 let others in; its KV pages are not used"
    ]
    assert mode(tmp_path / "f") == 0o700


@pytest.mark.parametrize("damage", ["short", "open", "link", "folder"])
def test_a_damaged_key_is_replaced(tmp_path, caplog, damage):
    made = open_folder(tmp_path / "f")
    path = tmp_path / "f" / KEY_FILE
    if damage == "short":
        path.write_bytes(b"short")
    elif damage == "open":
        path.chmod(0o644)
    else:
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved") if damage == "link" else path.mkdir()
    if damage == "folder":
        with pytest.raises(OSError, match="directory"):
            open_folder(tmp_path / "f")
        return
    with caplog.at_level(logging.WARNING, "ling"):
        new = open_folder(tmp_path / "f")
    assert new != made
    assert len(caplog.messages) == 1
    assert open_folder(tmp_path / "f") == new
    assert not path.is_symlink()


def test_a_link_is_refused(tmp_path):
    open_folder(tmp_path / "f")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    with pytest.raises(OSError, match="symbolic link"):
        open_folder(tmp_path / "link")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    open_folder(tmp_path / "f")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="another user"):
        open_folder(tmp_path / "f")


def test_a_folder_of_other_files_stays_as_it_is(tmp_path):
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "letter.txt").touch()
    with pytest.raises(OSError, match="folder of its own"):
        open_folder(tmp_path / "home")
    assert mode(tmp_path / "home") == 0o755


def test_processes_that_start_together_have_one_key(tmp_path):
    barrier = threading.Barrier(8)

    def start(_):
        barrier.wait()
        return open_folder(tmp_path / "f")

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(start, range(8)))
    assert len(keys) == 1
    assert os.listdir(tmp_path / "f") == [KEY_FILE]


def test_a_part_is_a_folder_of_ours(tmp_path):
    open_part(tmp_path / "part")
    assert mode(tmp_path / "part") == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "part")
    with pytest.raises(OSError, match="symbolic link"):
        open_part(tmp_path / "link")
