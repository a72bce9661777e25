from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ling.errors import UsageError
from ling.text import (
    as_json,
    first_line,
    nearest,
    one_line,
    parse_bytes,
    printable,
    shown,
    size,
    terminal_text,
)

HOSTILE = "red \x1b[31m\n\t back \x08\x7f \u202e \u2028 x"


@given(st.text(max_size=200))
def test_nothing_untrusted_moves_the_cursor(text):
    for line in (one_line(text), first_line(Exception(text)), shown(text), as_json(text)):
        assert line.isprintable()
        assert len(line) <= 300
    assert len(printable(text)) == len(text)


@given(st.text(max_size=200))
def test_a_models_text_keeps_its_lines_and_acts_on_nothing(text):
    shown = terminal_text(text)
    assert not [c for c in shown if c < " " and c not in "\n\t"]
    assert not set(shown) & set("\x7f\x9b\u202e\u2066\u2028")
    assert shown.count("\n") == text.count("\n")
    assert all(c in shown for c in text if c.isprintable())


def test_a_models_text_keeps_all_that_is_writing():
    kept = "tabs\tand\nlines, \u3000全角\u00a0空白, क्\u200dष, 👩\u200d💻"
    assert terminal_text(kept) == kept
    assert terminal_text("a\r\n\x1b[2Jb") == "a\n?[2Jb"


def test_one_line_keeps_the_words_and_is_bounded():
    assert one_line(HOSTILE) == "red ?[31m back ?? ? x"
    assert one_line("  naïve 你好  ") == "naïve 你好"
    assert len(one_line("x" * 5000)) == 2000


def test_first_line_of_an_error():
    assert first_line(ValueError("\n bad \x1b value \n second")) == "bad ? value"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(OSError("\n")) == "OSError"
    assert len(first_line(Exception("x" * 5000))) == 300


def test_values_in_error_lines():
    assert shown(HOSTILE) == "`red ?[31m?? back ?? ? ? x`"
    assert (shown("3"), shown(3), shown(None), shown([1, "a"])) == (
        "`3`",
        "`3`",
        "`null`",
        '`[1, "a"]`',
    )
    assert shown("x" * 100) == f"`{'x' * 80}`"
    assert shown({1, 2}) == '`"{1, 2}"`'  # no JSON: what Python shows


def test_json_values_tell_texts_from_numbers_and_say_where_they_are_cut():
    assert (as_json("3"), as_json(3), as_json(True)) == ('`"3"`', "`3`", "`true`")
    assert as_json("x" * 58) == f'`"{"x" * 58}"`'
    assert as_json("x" * 59) == f'`"{"x" * 59}`...'


def test_nearest_word_is_offered_only_when_it_is_near():
    assert nearest("vocab_siz", ["vocab_size", "hidden_size"]) == " (did you mean `vocab_size`?)"
    assert nearest("q", ["vocab_size"]) == ""
    assert nearest("q", []) == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("2K", 2000), ("7b", 7), (" 3G ", 3 * 10**9)],
)
def test_sizes_are_read_in_decimal_units(text, count):
    assert parse_bytes(text, "--max-memory") == count


@pytest.mark.parametrize("text", ["", "5", "GB", "0GB", "-1GB", "nanGB", "infGB", "5 apples"])
def test_other_sizes_name_the_option(text):
    with pytest.raises(UsageError, match=rf"`--max-memory` is `{text}`, expected a size"):
        parse_bytes(text, "--max-memory")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (2_340_000, "2.3 MB"),
        (8.25e9, "8.2 GB"),
        (2e13, "20000.0 GB"),
    ],
)
def test_sizes_are_written_in_decimal_units(count, text):
    assert size(count) == text
