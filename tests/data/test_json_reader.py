from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.json_reader import BrokenJson, JsonReader
from ling.data.pieces import Pieces

TAG = "</x>"


def read(pieces, name):
    """What a reader of this name emits or returns, and whether the text is sound."""
    p, said = Pieces(), []

    def tag():
        return TAG if (yield from p.starts_with(TAG)) else ""

    reader = JsonReader(p, tag)
    first, *more = [*pieces, ""] if pieces else ["", ""]
    p.feed(first, False)
    reading = reader.key() if name == "key" else getattr(reader, name)(said.append)
    try:
        next(reading)
        for piece in more[:-1]:
            p.feed(piece, False)
            next(reading)
        p.feed("", True)
        next(reading)
    except StopIteration as end:
        return "".join(said) + (end.value or ""), True
    except BrokenJson:
        return "".join(said), False
    raise AssertionError("a reader waits for what cannot come")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values, st.booleans(), st.sampled_from([None, 1]), st.booleans())
def test_values_are_read_to_their_end_as_they_are_written(value, ascii_, indent, by_characters):
    text = json.dumps(value, ensure_ascii=ascii_, indent=indent)
    whole = text + ",rest"
    assert read(whole if by_characters else [whole], "value") == (text, True)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.booleans(), st.booleans())
def test_keys_are_texts(text, ascii_, by_characters):
    raw = json.dumps(text, ensure_ascii=ascii_)
    assert read(raw if by_characters else [raw], "key")[0] == text


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), st.text()), st.booleans(), st.booleans())
def test_objects_in_a_text_are_unwrapped(value, ascii_, by_characters):
    text = json.dumps(value, ensure_ascii=False)
    raw = json.dumps(text, ensure_ascii=ascii_)
    assert read(raw if by_characters else [raw], "wrapped")[0] == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (r'" \n\t{}"', "{}"),
        (r'"\n x"', r'"\n x"'),
        ('""', ""),
        (r'" \n"', ""),
        (r'"{\ud83e}"', "{\ufffd}"),
        (r'"{\ud83e\u0041\udd8a}"', "{\ufffdA\ufffd}"),
        (r'"{\u00zz\q\/}"', r"{\u00zz\q/}"),
        (r'"[1]"', r'"[1]"'),
    ],
)
def test_texts_that_may_hold_an_object(raw, said):
    assert read(raw, "wrapped")[0] == said
    assert read([raw], "wrapped")[0] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1</x>', '{"a": 1'),
        ('{"a": "\n b</x>', '{"a": "\n b'),
        ('{"a": "</x>', '{"a": "</x>'),
        ('"abc', '"abc'),
        ("", ""),
        (", 1", ""),
        ("[1, <", "[1, <"),
    ],
)
def test_broken_values_give_what_was_there(text, said):
    assert read(text, "value") == (said, False)
    assert read([text], "value") == (said, False)


@pytest.mark.parametrize("raw", ['"a', '"a\nb"', '"\\q"', '"\\', '"\\u12"'])
def test_broken_keys_are_refused(raw):
    assert read(raw, "key") == ("", False)
