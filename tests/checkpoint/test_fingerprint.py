"""What tells weights apart, and what does not matter."""

from __future__ import annotations

import os
import shutil

import pytest

from ling.checkpoint.fingerprint import weights_id


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "m"
    made.mkdir()
    (made / "model-1.safetensors").write_bytes(bytes(range(256)) * 4000)
    (made / "model-2.safetensors").write_bytes(b"\1" * 100)
    (made / "config.json").write_text("{}")
    return made


def changed(path, at):
    """Change a byte and nothing else that a listing shows."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_same_weights_have_one_id_wherever_they_are(folder, tmp_path):
    known = weights_id(folder)
    assert weights_id(str(folder)) == known
    shutil.copytree(folder, tmp_path / "copy")  # with times
    assert weights_id(tmp_path / "copy") == known
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert weights_id(snapshot) == known
    (folder / "README.md").write_text("new")
    (folder / "config.json").write_text('{"a": 1}')
    assert weights_id(folder) == known


@pytest.mark.parametrize("at", [0, 1000, 65_535, 4000 * 128, 4000 * 256 - 1])
def test_other_contents_have_another(folder, at):
    known = weights_id(folder)
    changed(folder / "model-1.safetensors", at)
    assert weights_id(folder) != known


def test_other_names_sizes_and_times_have_another(folder):
    known = {weights_id(folder)}
    os.utime(folder / "model-2.safetensors", ns=(1, 1))
    known.add(weights_id(folder))
    (folder / "model-2.safetensors").rename(folder / "model-3.safetensors")
    known.add(weights_id(folder))
    (folder / "checksums.json").write_text("{}")
    known.add(weights_id(folder))
    (folder / "deeper").mkdir()
    (folder / "deeper" / "x.distcp").write_bytes(b"1")
    known.add(weights_id(folder))
    assert len(known) == 5


def test_a_file_has_an_id_too(folder):
    first, second = (weights_id(folder / f"model-{n}.safetensors") for n in (1, 2))
    assert first != second


def test_a_fifo_stalls_nobody(folder):
    known = weights_id(folder)
    os.mkfifo(folder / "pipe")
    assert weights_id(folder) == known
