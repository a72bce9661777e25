from __future__ import annotations

import hashlib

import pytest

from ling.errors import RunError
from ling.hub import files
from ling.hub.files import RemoteFile, needed

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA).hexdigest()
GIT = hashlib.sha1(b"blob 10\0" + DATA).hexdigest()


def test_only_plain_names_of_needed_kinds_are_taken():
    names = [
        "b.json",
        "a.safetensors",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "../b.json",
        "/c.json",
        "d/e.json",
        "x.py",
        "y.bin",
        ".json",
        "notes.txt",
        "a.json\n",
    ]
    found = [f.name for f in needed(RemoteFile(n, 1) for n in names)]
    assert found == sorted(names[:5])


def test_more_files_than_any_model_has_and_doubles_are_refused(monkeypatch):
    twice = [RemoteFile("a.json", 1), RemoteFile("b.json", 1), RemoteFile("a.json", 2)]
    with pytest.raises(RunError, match=r"the hub lists a\.json twice"):
        needed(twice)
    monkeypatch.setattr(files, "MAX_FILES", 2)
    with pytest.raises(RunError, match="lists 3 files of a model, the limit is 2"):
        needed(twice)


@pytest.mark.parametrize(
    "digest", [{"sha256": SHA256}, {"sha256": SHA256.upper()}, {"git_sha1": GIT}]
)
def test_hash_is_that_of_the_bytes(tmp_path, digest):
    path = tmp_path / "x.json"
    path.write_bytes(DATA)
    file = RemoteFile("x.json", len(DATA), **digest)
    assert file.is_whole(tmp_path)
    file.check_hash(path)
    path.write_bytes(DATA[:-1] + b"!")
    assert file.is_whole(tmp_path)
    with pytest.raises(RunError, match=r"the hub lists .*; delete it and download again"):
        file.check_hash(path)
    path.write_bytes(DATA[:-1])
    assert not file.is_whole(tmp_path)
    RemoteFile("x.json", 9).check_hash(path)  # a hub that gives no hash


@pytest.mark.parametrize(
    "entry",
    [
        ("a", -1),
        ("a", 1 << 63),
        ("a", True),
        ("a", "1"),
        (None, 1),
        ("a", 1, "../x"),
        ("a", 1, SHA256[:-1]),
        ("a", 1, None, "g" * 40),
        ("a", 1, None, 7),
    ],
    ids=str,
)
def test_what_no_hub_lists_is_refused(entry):
    with pytest.raises(RunError, match="the hub lists"):
        RemoteFile(*entry)
