from __future__ import annotations

import pytest

from ling.outputs import Logprob
from ling.serve.logprobs import chat_logprobs, completion_logprobs, token_name

HALF, OTHER = b"\xe4\xbd", b"\xe4"
CANDIDATES = {
    1: Logprob(-0.5, 1, "\ufffd", HALF),
    2: Logprob(-1.0, 2, "\ufffd", OTHER),
    3: Logprob(-2.0, 3, "a", b"a"),
    4: Logprob(-3.0, 4, "a", b"a"),
    5: Logprob(-4.0, 5, "\ufffd", "\ufffd".encode()),
    6: Logprob(float("-inf"), 6, "", b""),
    7: Logprob(float("-inf"), 7, "", b""),
}


@pytest.mark.parametrize(
    ("text", "data", "name"),
    [
        ("a", b"a", "a"),
        ("\ufffd", HALF, r"bytes:\xe4\xbd"),
        ("\ufffd", "\ufffd".encode(), "\ufffd"),
        (None, None, "token_id:9"),
        ("a", None, "a"),
    ],
)
def test_name_of_a_token(text, data, name):
    assert token_name(9, text, data) == name


def test_no_two_candidates_share_a_key():
    reply = completion_logprobs([4, 1], [CANDIDATES, CANDIDATES], [0, 1])
    first, second = reply.top_logprobs
    assert len(first) == len(second) == len(CANDIDATES)
    # The chosen token has the plain name, and its own score.
    assert (reply.tokens[0], first["a"], first["token_id:3"]) == ("a", -3.0, -2.0)
    assert (reply.tokens[1], second[reply.tokens[1]]) == (r"bytes:\xe4\xbd", -0.5)
    assert second[r"bytes:\xe4"] == -1.0
    assert list(second.values()) == sorted(second.values(), reverse=True)
    assert reply.text_offset == [0, 1]


def test_bytes_are_those_of_the_token():
    (entry,) = chat_logprobs([1], [CANDIDATES], 2).content
    assert (entry.token, entry.bytes) == ("\ufffd", list(HALF))
    assert [t.bytes for t in entry.top_logprobs] == [list(HALF), list(OTHER)]
    (entry,) = chat_logprobs([1], [{1: Logprob(-0.5)}], 0).content
    assert (entry.token, entry.bytes) == ("token_id:1", None)
