from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ling.data import tokenizer_file
from ling.data.tokenizer_file import PATTERN, byte_alphabet, check_pattern, read_backend
from ling.errors import TokenizerError


@pytest.fixture(scope="module")
def sound(tokenizer) -> dict[str, Any]:
    """The object of a file that can be read."""
    return json.loads(tokenizer._source)


@pytest.fixture
def read(tmp_path):
    def read(raw: Any):
        path = tmp_path / "tokenizer.json"
        path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
        return read_backend(path)[0]

    return read


def test_bytes_have_a_letter_each():
    letters = byte_alphabet()
    assert sorted(letters.values()) == list(range(256))
    assert (letters["a"], letters["Ġ"], letters["Ċ"]) == (ord("a"), ord(" "), ord("\n"))


def test_sound_file_encodes_as_the_library_does(sound, read, tokenizer):
    backend = read(sound)
    assert backend.encode("def f 你", add_special_tokens=False).ids == tokenizer.encode("def f 你")


def test_truncation_padding_and_templates_of_the_file_are_left_out(sound, read):
    step = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    backend = read({**sound, "truncation": step})
    assert len(backend.encode("def f(x): return").ids) > 1


@pytest.mark.parametrize("bad", ["", "{}", "[1]", '{"added_tokens": [{"id": -1, "content": "x"}]}'])
def test_damaged_file_is_refused_by_name(read, bad):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
        read(bad)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("model", {"type": "WordPiece"}, "`model.type` is `WordPiece`, expected `BPE`"),
        ("model", {"dropout": 0.1}, "`model.dropout` is set"),
        ("model", {"end_of_word_suffix": "</w>"}, "`model.end_of_word_suffix` is set"),
        ("model", {"vocab": {"a\x1b": "one"}}, r"`model.vocab`: `a\?` has id `one`"),
        ("model", {"vocab": {"a": 1, "b": 1}}, "two tokens have the same id"),
        ("model", {"vocab": {"a": 1}}, "no token for byte 0x21"),
        ("decoder", {"type": "WordPiece"}, "`decoder` is not ByteLevel"),
        ("normalizer", {"type": "Replace"}, "`normalizer`: `Replace` cannot be read"),
        ("pre_tokenizer", {"type": None}, "`pre_tokenizer`: `null` cannot be read"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": []}, "no or too many steps"),
    ],
)
def test_what_byte_level_bpe_has_not_is_named(sound, read, part, change, words):
    with pytest.raises(TokenizerError, match=words):
        read({**sound, part: {**(sound[part] or {}), **change}})


def test_added_tokens_keep_their_ids_or_are_refused(sound, read):
    first, *others = sound["added_tokens"]
    with pytest.raises(TokenizerError, match=r"has id \d+, but the file's order gives"):
        read({**sound, "added_tokens": [{**first, "id": first["id"] + 50}, *others]})
    with pytest.raises(TokenizerError, match="an entry has no `content`"):
        read({**sound, "added_tokens": [{"id": 1}]})


@pytest.mark.parametrize(
    "pattern",
    [r"(a|b)*", r"(a*)*", r"(?:x+y?)+", r"(a)\1", r"(?R)", "x" * 3000, r"(?:(?:a|b)c){2,}"],
)
def test_patterns_that_backtrack_are_refused(pattern):
    with pytest.raises(TokenizerError, match="`pre_tokenizer`"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [PATTERN, r"\p{L}+|\p{N}{1,3}", r"(?:a|b)c", r"[(*]+", r"\(a|b\)+"]
)
def test_patterns_of_released_tokenizers_are_read(pattern):
    check_pattern(pattern)


def test_slow_pattern_is_found_by_its_time(sound, read, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "_PROBE_LIMIT_S", 0.05)  # quadratic: a fraction of a second
    split = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": "a*b"}}
    with pytest.raises(TokenizerError, match=r"`a\*b` is slow on long words"):
        read({**sound, "pre_tokenizer": split})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def test_busy_machine_does_not_make_a_pattern_slow(sound, read, monkeypatch):
    split = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": "a+"}}
    guarded = tokenizer_file.guarded

    def waits(function, *args, **kwargs):
        time.sleep(0.06)
        return guarded(function, *args, **kwargs)

    monkeypatch.setattr(tokenizer_file, "_PROBE_LIMIT_S", 0.05)
    monkeypatch.setattr(tokenizer_file, "guarded", waits)
    steps = {"type": "Sequence", "pretokenizers": [split, BYTES]}
    assert read({**sound, "pre_tokenizer": steps})


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}},
        {"normalizer": {"type": "Sequence", "normalizers": []}},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Sequence"} | {"normalizers": []}],
            }
        },
        {"added_tokens": None},
        {"post_processor": {"type": "Sequence", "processors": []}},
    ],
)
def test_files_that_mean_the_same_are_read(sound, read, change):
    backend = read({**sound, **change})
    assert backend.encode("def f 你").ids == read(sound).encode("def f 你").ids


def test_nested_and_empty_sequences_of_steps_are_read(sound, read):
    steps = sound["pre_tokenizer"]["pretokenizers"]
    empty = {"type": "Sequence", "pretokenizers": []}
    nested = {
        "type": "Sequence",
        "pretokenizers": [empty, {"type": "Sequence", "pretokenizers": steps}],
    }
    backend = read({**sound, "pre_tokenizer": nested})
    assert backend.encode("def f 你").ids == read(sound).encode("def f 你").ids
    alone = read({**sound, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES]}})
    assert (
        alone.encode("def f 你").ids
        == read({**sound, "pre_tokenizer": BYTES}).encode("def f 你").ids
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder": {"type": "Sequence", "decoders": []}}, "`decoder` is not ByteLevel"),
        ({"decoder": None}, "`decoder` is not ByteLevel"),
        ({"pre_tokenizer": None}, "no or too many steps"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "has no ByteLevel step"),
        ({"pre_tokenizer": 3}, "`3` cannot be read"),
    ],
)
def test_files_that_are_no_byte_level_bpe_are_refused(sound, read, change, words):
    with pytest.raises(TokenizerError, match=words):
        read({**sound, **change})


def test_added_tokens_may_come_in_any_order(sound, read):
    assert read({**sound, "added_tokens": sound["added_tokens"][::-1]}).encode("def f").ids


def test_mark_of_utf8_is_no_part_of_the_file(sound, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(sound), "utf-8-sig")
    assert read_backend(path).ids["<role>"] == read_backend(path).added[-2]["id"]
