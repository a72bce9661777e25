"""The pins of packages are whole, and names are found."""

from __future__ import annotations

import re

import pytest

from ling.data.packages.catalogue import PACKAGES, default_folder, find
from ling.data.packages.texts import PARSERS
from ling.errors import UsageError

ARCHIVES = [p for p in PACKAGES.values() if p.client != "installed"]


@pytest.mark.parametrize("package", ARCHIVES, ids=lambda p: p.name)
def test_a_row_pins_one_archive_and_has_a_parser(package):
    assert re.fullmatch("[0-9a-f]{64}", package.sha256)
    assert package.version in package.archive
    assert package.archive_bytes > 0
    assert re.compile(package.terms)
    assert package.name in PARSERS


def test_every_parser_is_of_a_package():
    assert set(PARSERS) == {p.name for p in ARCHIVES}


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UsageError, match=r"no package `wordnett` \(did you mean `wordnet`\?\)"):
        find("wordnett")


def test_the_folder_is_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LING_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "packages"
    monkeypatch.delenv("LING_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(default_folder()) == "/home/somebody/.cache/ling/packages"
