"""The documentation of Python as its authors write it (reStructuredText)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..archive import Archive

_SOURCES = "usr/share/doc/python3.11/html/_sources/"
_PAGES = re.escape(_SOURCES) + r"[\w./-]+\.rst\.txt"
# :mod:`bisect`, :func:`~os.path.join`, :ref:`the tutorial <tutorial-index>`
_ROLE = re.compile(r":[a-z][\w:+.-]*:`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`")


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a page; links are their words in backticks."""
    for member in archive.members(_PAGES):
        name = member.name.removeprefix(_SOURCES).removesuffix(".rst.txt")
        yield {"text": _ROLE.sub(r"`\1`", member.text).strip(), "name": name}
