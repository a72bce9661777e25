"""The engine's log probabilities in OpenAI's two forms."""

from __future__ import annotations

from http_replies import CHAT, streamed

from ling.outputs import Logprob
from ling.serve.logprobs import LEAST, chat_logprobs, completion_logprobs, token_text


def marks(**texts):
    """Candidates `i_text=logprob`: `_7_a` is the token 7, whose text is a."""
    found = {}
    for name, logprob in texts.items():
        _, i, text = name.split("_")
        found[int(i)] = Logprob(logprob=logprob, rank=1, decoded_token=text or None)
    return found


def test_chat_lists_the_token_and_the_best_candidates_by_rank():
    """The token itself is fourth: it is among the candidates, not among the two best."""
    candidates = marks(_5_é=-3.0, _9_b=-1.0, _2_c=-1.0, _4_d=-0.5)
    (entry,) = chat_logprobs([5], [candidates], 3).content
    assert (entry.token, entry.logprob, entry.bytes) == ("é", -3.0, [0xC3, 0xA9])
    # Equal ones in the order of their ids, as in the sampler.
    assert [(t.token, t.logprob) for t in entry.top_logprobs] == [
        ("d", -0.5),
        ("c", -1.0),
        ("b", -1.0),
    ]
    assert chat_logprobs([5], [candidates], 0).content[0].top_logprobs == []


def test_a_token_without_text_is_named_by_its_id_and_has_no_bytes():
    (entry,) = chat_logprobs([5], [marks(_5_=-1.0)], 1).content
    assert (entry.token, entry.bytes) == ("token_id:5", None)
    assert token_text(7, None) == "token_id:7"


def test_what_is_impossible_is_a_finite_number():
    """JSON has no infinity."""
    candidates = marks(_5_a=float("-inf"))
    assert chat_logprobs([5], [candidates], 1).content[0].logprob == LEAST
    reply = completion_logprobs([5], [candidates], 0)
    assert (reply.token_logprobs, reply.top_logprobs) == ([LEAST], [{"a": LEAST}])


def test_completion_lists_have_one_entry_a_token_and_running_offsets():
    reply = completion_logprobs(
        [1, 5, 6], [None, marks(_5_bc=-0.5, _6_d=-1.0), marks(_6_d=-0.25)], 10, "a"
    )
    assert reply.tokens == ["a", "bc", "d"]
    assert reply.text_offset == [10, 11, 13]
    assert reply.token_logprobs == [None, -0.5, -0.25]
    assert reply.top_logprobs == [None, {"bc": -0.5, "d": -1.0}, {"d": -0.25}]
    assert completion_logprobs([1], [None], 0).tokens == ["token_id:1"]


def test_of_ids_with_one_text_the_likelier_stays():
    candidates = marks(_5_x=-2.0, _6_x=-1.0, _7_y=-3.0)
    assert completion_logprobs([5], [candidates], 0).top_logprobs == [{"x": -1.0, "y": -3.0}]


def test_chat_logprobs_list_the_best_tokens(client):
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}
    entries = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"][
        "content"
    ]
    assert [e["token"] for e in entries] == ["G", "r", "\ufffd"]
    assert [t["token"] for t in entries[0]["top_logprobs"]] == ["G", "H"]
    assert entries[0]["bytes"] == [ord("G")]
    events = streamed(client, "/v1/chat/completions", body)
    chunks = [e["choices"][0]["logprobs"] for e in events]
    assert [e for c in chunks if c for e in c["content"]] == entries
    bare = client.post(
        "/v1/chat/completions", json={**CHAT, "logprobs": True, "max_tokens": 1}
    ).json()
    assert bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
