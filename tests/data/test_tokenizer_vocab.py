from __future__ import annotations

import pytest

from ling.data.tokenizer_vocab import (
    byte_alphabet,
    checked_added,
    checked_merges,
    checked_vocab,
    is_control,
    merge_added,
)
from ling.errors import TokenizerError

VOCAB = byte_alphabet() | {"ab": 256}


def added(i, content, **flags):
    (token,) = checked_added([{"id": i, "content": content, **flags}])
    return token


def test_names_and_marks_tell_control_tokens():
    for name in ("<role>", "<|anything|>", "[CLS]"):
        assert is_control(added(1, name))
    assert is_control(added(1, "x", special=True))
    assert not is_control(added(1, "<think>"))


def test_vocabulary_is_taken_as_it_is():
    assert checked_vocab({"vocab": VOCAB}) == VOCAB


def test_tokens_of_other_files_are_merged_by_id():
    own = [added(257, "<a>"), added(259, "<c>")]
    merged = merge_added(VOCAB, own, [added(258, "<b>"), added(257, "<a>", special=True)])
    assert [t["content"] for t in merged] == ["<a>", "<b>", "<c>"]
    assert [t["special"] for t in merged] == [True, False, False]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (added(258, "<a>"), "`<a>` has id 257, but a file beside it says 258"),
        (added(300, "<b>"), "`<b>` has id 300, but the file's order gives 258"),
        (added(3, "ab"), "`ab` has id 3, but the file's order gives 256"),
    ],
)
def test_contradicting_ids_are_named(more, words):
    with pytest.raises(TokenizerError, match=words):
        merge_added(VOCAB, [added(257, "<a>")], [more])


@pytest.mark.parametrize("merges", [["a b", "ab c"], [["a", "b"], ["ab", "c"]]])
def test_merges_are_pairs(merges):
    assert checked_merges({"merges": merges}, set()) == [("a", "b"), ("ab", "c")]
    assert checked_merges({"merges": merges}, {"abc"}) == [("a", "b")]
    assert checked_merges({"merges": merges}, {"ab"}) == []


@pytest.mark.parametrize("bad", [3, None, [["a"]], [["a", "b", "c"]], [3], ["ab"], [["a", 1]]])
def test_what_is_no_merge_is_refused(bad):
    with pytest.raises(TokenizerError, match=r"`model\.merges`"):
        checked_merges({"merges": bad}, set())
