"""Every failure in OpenAI's shape, and nothing of the server's insides in it."""

from __future__ import annotations

import json

import pytest
from http_replies import CHAT, JSON, problem

from ling.errors import DataError, RequestError, RunError
from ling.serve.problems import (
    MAX_MESSAGE,
    RETRY_AFTER_S,
    as_request_error,
    problem_json,
    problem_response,
)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "authentication_error", None),
        (403, "invalid_request_error", "forbidden"),
        (404, "invalid_request_error", "not_found"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (500, "server_error", "internal_error"),
        (503, "server_error", None),
    ],
)
def test_type_and_code_follow_the_status(status, kind, code):
    body = json.loads(problem_json(RequestError("no", status=status, param="n")))
    assert body == {"error": {"message": "no", "type": kind, "param": "n", "code": code}}
    own = json.loads(problem_json(RequestError("no", status=status, code="mine")))
    assert own["error"]["code"] == "mine"


def test_no_input_can_break_the_body():
    text = problem_json(RequestError("a\r\n\x1b[2J\u2028 ü 世界" + "x" * 10_000))
    assert text.isascii()
    assert text.isprintable()
    assert len(json.loads(text)["error"]["message"]) == MAX_MESSAGE


def test_headers_that_a_status_asks_for():
    def headers(status):
        return problem_response(RequestError("no", status=status), {"X-A": "b"}).headers

    assert headers(503)["retry-after"] == headers(429)["retry-after"] == str(RETRY_AFTER_S)
    assert headers(401)["www-authenticate"] == "Bearer"
    assert "retry-after" not in headers(400)
    assert "www-authenticate" not in headers(400)
    assert headers(400)["x-a"] == "b"
    assert headers(400)["content-type"] == "application/json"


def test_only_what_is_the_inputs_fault_is_told(caplog):
    own = RequestError("no", status=409)
    assert as_request_error(own) is own
    told = as_request_error(DataError("bad text"))
    assert (told.status, str(told)) == (400, "bad text")
    assert not caplog.records
    for error in (RunError("secret"), RuntimeError("secret"), KeyError("secret")):
        hidden = as_request_error(error)
        assert (hidden.status, str(hidden)) == (500, "the server failed on this request")
    assert len(caplog.records) == 3
    assert "secret" in caplog.records[0].getMessage()
    # One line each; what is not ours comes with its traceback.
    assert [bool(r.exc_info) for r in caplog.records] == [False, True, True]


# ---- in the app --------------------------------------------------------------------------------


def test_nan_is_blamed_on_its_field(client):
    body = b'{"model": "fake", "prompt": "x", "temperature": NaN}'
    assert (
        problem(client.post("/v1/completions", content=body, headers=JSON), 400)["param"]
        == "temperature"
    )


def test_a_field_inside_of_a_list_is_named_with_its_index(client):
    messages = [CHAT["messages"][0], {"role": "user", "content": [{"type": "text"}]}]
    error = problem(client.post("/v1/chat/completions", json={**CHAT, "messages": messages}), 400)
    assert error["param"] == "messages[1].content"
    assert error["message"] == "`messages[1].content`: a part needs `type` (`text`) and `text`"


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("seed", 2**63, "less than 9223372036854775808"),
        ("seed", -(2**63) - 1, "greater than or equal to -9223372036854775808"),
        ("max_tokens", 2**63 + 1, "less than or equal to 9223372036854775808"),
        ("temperature", 2.5, "less than or equal to 2"),
        ("top_p", 0, "greater than 0"),
    ],
)
def test_bounds_are_told_as_they_are(client, field, value, bound):
    error = problem(client.post("/v1/chat/completions", json={**CHAT, field: value}), 400)
    assert error["message"] == f"`{field}`: input should be {bound}"


@pytest.mark.parametrize("name", ["abc", "-1", "12345678901", "1.5", "", "٣", "x" * 10_000])
def test_a_bias_of_what_is_no_token_id_is_told_in_words(client, name):
    body = {**CHAT, "logit_bias": {"7": 1, name: 1}}
    error = problem(client.post("/v1/chat/completions", json=body), 400)
    assert error["param"] == f"logit_bias.{name[:100]}"
    assert error["message"].endswith(
        "`: expected a token id, a whole number below 2^31, as the name"
    )
