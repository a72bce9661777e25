from __future__ import annotations

import re

import pytest

from ling.data.pieces import Pieces


def drive(name, argument, pieces):
    """What a reader returns for these pieces, and what it leaves of those that it took."""
    p, pieces = Pieces(), list(pieces)
    reading = getattr(p, name)(*argument)
    try:
        while True:
            next(reading)
            p.feed(pieces.pop(0), not pieces)
    except StopIteration as end:
        return end.value, p.text[p.at :]


@pytest.mark.parametrize(
    ("name", "argument", "pieces", "result", "left"),
    [
        ("read", re.compile("[ab]*"), ["ab", "", "ba", "cd", "x"], "abba", "cd"),
        ("read", re.compile("[ab]*"), ["ab", ""], "ab", ""),
        ("ahead", 4, ["cd", "e", "fg", "x"], "cdef", "cdefg"),
        ("ahead", 4, ["cd", "e"], "cde", "cde"),
        ("starts_with", "cdef", ["cd", "", "efg", "x"], True, "cdefg"),
        ("starts_with", "cdef", ["cd", "x", "y"], False, "cdx"),
        ("starts_with", "cdef", ["cd", "e"], False, "cde"),
        ("peek", None, ["", "", "ab"], "a", "ab"),
        ("peek", None, ["", ""], "", ""),
        ("more", None, ["a"], True, "a"),
    ],
)
def test_readers_wait_only_for_what_they_need(name, argument, pieces, result, left):
    assert drive(name, [] if argument is None else [argument], pieces) == (result, left)


def test_a_marked_place_is_found_again_over_pieces():
    p = Pieces()
    p.feed("abc", False)
    p.at = 1
    p.mark()
    p.at = 3
    p.feed("def", False)
    p.at = 2
    p.feed("g", False)
    p.rewind()
    assert p.text[p.at :] == "bcdefg"
    p.at += 2
    p.feed("h", True)
    assert p.text[p.at :] == "defgh"
