"""The World English Bible, kept in the markup of its publishers (USFM), as plain chapters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..archive import Archive

# File 00 has the preface alone.
_BOOKS = r"usr/share/bibledit/demo/(?!00)[0-9]{2}-[0-9A-Z]{3}eng-web\.usfm"
_TITLE = re.compile(r"^\\h (.+)", re.MULTILINE)
_CHAPTER = re.compile(r"^\\c ", re.MULTILINE)
_NOTE = re.compile(r"\\(f|x) .*?\\\1\*", re.DOTALL)
_VERSE = re.compile(r"\\v \S+ ?")
# These begin a line: paragraphs, lines of poetry, headings, items of lists.
_LINE = re.compile(r"\s*\\(?:p|pi\d?|m|mi|nb|b|q\d?|d|sp|li\d?|s\d?|ms\d?|cl|cp)\b ?")
# The space behind a closing marker belongs to the text.
_OTHER = re.compile(r"\\\+?[a-z]+\d?(?:\*| ?)")


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a chapter, headed by the book's name and the chapter's number."""
    for member in archive.members(_BOOKS):
        title = _TITLE.search(member.text)
        book = title[1].strip() if title else member.name.rpartition("/")[2]
        # What is before the first chapter is the licence, the title and a table of contents.
        for chapter in _CHAPTER.split(member.text)[1:]:
            number, _, rest = chapter.partition("\n")
            yield {"text": f"{book} {number.strip()}\n\n{plain(rest)}", "book": book}


def plain(usfm: str) -> str:
    """The words without markers, notes and verse numbers."""
    without = _VERSE.sub("", _NOTE.sub("", usfm)).replace("\n", " ")
    lines = _OTHER.sub("", _LINE.sub("\n", without)).split("\n")
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))
