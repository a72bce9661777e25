"""Archives as data, within limits."""

from __future__ import annotations

import io
import tarfile
import zipfile

import package_archives as make
import pytest

from ling.data.packages import archive
from ling.data.packages.archive import Archive
from ling.errors import DataError

FILES = {"a/one.txt": b"first\r\n", "a/two.txt": b"second", "b/three.txt": b"third"}
KINDS = [(make.wheel, "x.whl"), (make.npm, "x.tgz"), (make.deb, "x.deb")]


@pytest.fixture(params=KINDS, ids=["wheel", "npm", "deb"])
def path(request, tmp_path):
    write, name = request.param
    return write(tmp_path / name, FILES)


def test_members_are_those_whose_whole_name_matches(path):
    found = list(Archive(path).members(r"a/\w+\.txt"))
    assert [(m.name, m.text) for m in found] == [("a/one.txt", "first\n"), ("a/two.txt", "second")]
    assert not list(Archive(path).members(r"a/one"))


def test_an_archive_that_ends_early_is_refused(path):
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="damaged archive"):
        list(Archive(path).members(".*"))


@pytest.mark.parametrize("data", [b"", b"!<arch>\n", b"PK\3\4 no zip", b"<html>not found</html>"])
@pytest.mark.parametrize("name", ["x.whl", "x.tgz"])
def test_what_is_no_archive_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="damaged archive"):
        list(Archive(tmp_path / name).members(".*"))


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_MEMBERS", 2), ("MAX_MEMBER_BYTES", 6), ("MAX_TOTAL_BYTES", 15)]
)
def test_limits_count_members_that_are_not_wanted_too(path, limit, value, monkeypatch):
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(DataError, match="beyond the limits"):
        list(Archive(path).members("b/three.txt"))


def test_links_and_folders_are_no_members(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"entry{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    (tmp_path / "x.tgz").write_bytes(out.getvalue())
    assert not list(Archive(tmp_path / "x.tgz").members(".*"))


def test_a_member_larger_than_it_says_is_refused(tmp_path):
    path = make.wheel(tmp_path / "x.whl", {"a": b"0" * 5000})
    with zipfile.ZipFile(path) as file:
        at = file.start_dir
    data = bytearray(path.read_bytes())
    for size_at in (22, at + 24):  # in the local header and in the directory
        data[size_at : size_at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged archive"):
        list(Archive(path).members("a"))
