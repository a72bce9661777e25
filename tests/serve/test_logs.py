from __future__ import annotations

import asyncio
import io
import json
import logging
import re

import pytest

from ling.serve.logs import JsonLines, TextLines
from ling.serve.problems import request_id
from ling.serve.service import Service

BODY = {"model": "fake", "prompt": "private", "max_tokens": 3}


@pytest.fixture
def lines():
    """Reads what our loggers have written in a style since it was asked for that style."""
    logger, out = logging.getLogger("ling"), io.StringIO()
    handler, level = logging.StreamHandler(out), logger.level

    def begin(formatter):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        logger.setLevel("INFO")
        return lambda: out.getvalue().splitlines()

    yield begin
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_line_has_the_requests_id_and_no_prompt_and_cannot_be_forged(client, lines):
    read = lines(TextLines())
    reply = client.post("/v1/completions", json=BODY)
    client.get("/%0d%0aforged%1b[2J", headers={"X-Request-Id": "own-1"})
    name = reply.headers["x-request-id"]
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO ling\.serve"
    first, second = read()
    assert re.fullmatch(rf"{stamp} {name} POST /v1/completions 200 7\+3 tokens \d+\.\d\d s", first)
    assert re.fullmatch(rf"{stamp} own-1 GET /%0d%0aforged%1b\S* 404 \d+\.\d\d s", second)


def test_json_lines_have_fields(client, lines):
    read = lines(JsonLines())
    client.post("/v1/completions", json=BODY, headers={"X-Request-Id": "own-2"})
    (event,) = map(json.loads, read())
    assert event.pop("seconds") >= 0
    assert event.pop("time").endswith("Z")
    assert event.pop("message").startswith("POST /v1/completions 200")
    assert event == {
        "level": "info",
        "logger": "ling.serve",
        "request_id": "own-2",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "prompt_tokens": 7,
        "completion_tokens": 3,
    }


@pytest.mark.parametrize("style", [TextLines, JsonLines])
def test_an_error_that_quotes_its_input_stays_within_its_event(lines, style):
    read = lines(style())
    request_id.set("own-3")
    try:
        raise RuntimeError("bad\nINFO ling.serve forged\x1b[2J")
    except RuntimeError:
        logging.getLogger("ling.infer").exception("failed on %s", "a\r\nb\x1b]0;x")
    first, *rest = read()
    assert "own-3" in first
    assert all(line.isprintable() for line in (first, *rest))
    if style is TextLines:
        assert first.endswith("failed on a??b?]0;x")
        assert all(line.startswith("    ") for line in rest)
    else:
        assert not rest
        assert json.loads(first)["traceback"][-1] == "INFO ling.serve forged?[2J"


def test_bad_input_has_no_traceback(client, lines):
    read = lines(TextLines())
    assert client.post("/v1/completions", json={"prompt": {}}).status_code == 400
    assert (
        client.post(
            "/v1/completions", content=b"\xff", headers={"Content-Type": "application/json"}
        ).status_code
        == 400
    )
    assert len(read()) == 2


def test_lines_of_the_work_in_threads_have_the_requests_id(lines):
    read = lines(TextLines())

    async def work():
        request_id.set("own-4")
        service = Service(None, "name")
        await service.call(lambda: logging.getLogger("ling.serve").warning("from a thread"))
        service.close()

    asyncio.run(work())
    (line,) = read()
    assert line.endswith(" own-4 from a thread")
