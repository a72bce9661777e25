"""Text that grows by tokens of which stop strings know nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ling.infer.driver import RequestEvent
from ling.infer.request import SamplingParams
from ling.outputs import IncrementalText, StreamChunk, TextOffsets


class Letters:
    """A tokenizer of one token a character."""

    def incremental(self, skip_special_tokens):
        return self

    def push(self, token):
        return chr(token)

    def finish(self):
        return ""


def shown(text, pieces, reason="length", **params):
    state = IncrementalText(Letters(), SamplingParams(**params))
    chunks, ids = [], [[ord(c) for c in p] for p in pieces]
    for k, piece in enumerate(ids):
        end = k == len(ids) - 1
        chunks.append(state.add(RequestEvent(piece, finish_reason=reason if end else None)).text)
        if state.finished:
            break
    assert "".join(chunks) == state.text == text
    return state, chunks


def test_text_that_may_begin_a_stop_string_waits():
    state, chunks = shown("a", ["a", "b", "cX"], stop="bc")
    assert chunks == ["", "a", ""]
    assert (state.finish_reason, state.stop_reason) == ("stop", "bc")
    assert state.output(0).token_ids == [97, 98, 99]


def test_what_waited_comes_at_the_end():
    state, chunks = shown("ab", ["a", "b"], stop="bcd")
    assert chunks == ["", "ab"]
    assert (state.finish_reason, state.stop_reason) == ("length", None)


@pytest.mark.parametrize(("keep", "text"), [(False, "x"), (True, "xab")])
def test_the_first_stop_string_counts(keep, text):
    shown(text, ["xa", "bcd"], stop=["cd", "ab"], include_stop_str_in_output=keep)


def test_chunks_that_came_one_after_another_are_one():
    ids, weights = np.zeros((2, 1, 1), np.int32), np.zeros((2, 1, 1), np.float32)
    chunk = StreamChunk("a", [1], num_cached_tokens=64)
    chunk.extend(StreamChunk("b", [2], None, "length", None, None, 128, ids, weights))
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("ab", [1, 2], "length")
    assert chunk.num_cached_tokens == 128
    assert chunk.routed_experts is ids
    assert chunk.routed_expert_weights is weights
    chunk.extend(StreamChunk("", routed_experts=ids + 1, routed_expert_weights=weights + 1))
    assert chunk.routed_experts.ravel().tolist() == [0, 0, 1, 1]
    assert chunk.routed_expert_weights.ravel().tolist() == [0, 0, 1, 1]


def test_without_a_tokenizer_text_is_empty():
    state = IncrementalText(None, SamplingParams())
    chunk = state.add(RequestEvent([1, 2], finish_reason="stop", stop_reason=2))
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("", [1, 2], "stop")


def test_no_stop_string_ends_within_min_tokens():
    state, _ = shown("abcab", ["ab", "cabc"], stop="c", min_tokens=3)
    assert (state.finish_reason, len(state.token_ids)) == ("stop", 6)
    # It may begin there: what counts is the token that completes it.
    assert shown("a", ["a", "b", "c"], stop="bc", min_tokens=2)[0].stop_reason == "bc"
    assert shown("abc", ["a", "b", "c"], stop="c", min_tokens=3)[0].finish_reason == "length"


def places(*pieces: bytes) -> list[int]:
    offsets = TextOffsets()
    return [offsets.add(p) for p in pieces]


def test_parts_of_a_character_share_its_place():
    fox, e = "🦊".encode(), "é".encode()
    assert places(b"ab", b"c", "né".encode(), b"x") == [0, 2, 3, 5]
    assert places(b"a", fox[:1], fox[1:3], fox[3:], b"b") == [0, 1, 1, 1, 2]
    assert places(b"a" + e[:1], e[1:] + b"b", b"c") == [0, 1, 3]


def test_broken_characters_are_one_mark_of_the_text():
    half = "é".encode()[:1]
    for pieces in ([half, b"b", b"c"], [half, half, b"b"], [b"\xe0", b"\x80", b"b"]):
        starts = places(*pieces)
        for k, start in enumerate(starts):
            assert start == len(b"".join(pieces[:k]).decode("utf-8", "replace"))


def test_tokens_that_the_text_hides_take_no_place():
    assert places(b"a", b"", b"b") == [0, 1, 1]
