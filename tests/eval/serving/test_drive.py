from __future__ import annotations

import asyncio
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai_stand_in import NAME, TEMPLATE_TOKENS, TOKENS_PER_WORD, OpenAIStandIn

from ling.errors import RunError
from ling.eval.serving.client import Client
from ling.eval.serving.drive import calibrate, measure, target, warm_up
from ling.eval.serving.requests import LoadOptions, Point, Words

WORDS = Words(fixed=TEMPLATE_TOKENS, each=TOKENS_PER_WORD)
HELPER = Path(__file__).parents[2] / "helpers" / "openai_stand_in.py"


def run(url: str, options: LoadOptions, point: Point, words: Words = WORDS):
    async def work():
        server = await target(Client(url, timeout_s=options.timeout_s), None)
        return await measure(server, options, point, "x", words)

    return asyncio.run(work())


def load(**options) -> LoadOptions:
    return LoadOptions(
        **{"num_prompts": 6, "random_input_len": 20, "random_output_len": 4, **options}
    )


def test_all_are_answered_and_no_more_run_at_once_than_asked():
    with OpenAIStandIn(token_s=0.005) as server:
        found = run(server.url, load(num_prompts=12), Point(math.inf, 3))
        assert server.most_in_flight == 3
    assert [r.fault for r in found.replies] == [None] * 12
    assert all(abs(r.prompt_tokens - 20) <= TOKENS_PER_WORD for r in found.replies)
    longest = max(r.end_s for r in found.replies) - min(r.sent_s for r in found.replies)
    assert found.wall_s == pytest.approx(longest, abs=0.05)
    # Without a limit all are under way together.
    with OpenAIStandIn(token_s=0.02) as server:
        run(server.url, load(num_prompts=12), Point(math.inf, None))
        assert server.most_in_flight > 6


def test_requests_wait_for_their_time():
    with OpenAIStandIn() as server:
        found = run(server.url, load(burstiness=1e6), Point(20.0, None))
    sent = sorted(r.sent_s for r in found.replies)
    assert all(b - a > 0.03 for a, b in itertools.pairwise(sent))
    assert found.wall_s >= 0.24


def test_the_same_seed_sends_the_same_requests_to_two_servers():
    bodies = []
    for _ in range(2):
        with OpenAIStandIn() as server:
            run(server.url, load(sampling={"temperature": 0.7}), Point(math.inf, 1))
            bodies.append(server.bodies)
    assert bodies[0] == bodies[1]
    assert len({b["seed"] for b in bodies[0]}) == 6


def test_a_chat_grows_by_its_answers_and_the_next_message():
    options = load(backend="openai-chat", dataset_name="multi-turn", num_turns=3, num_prompts=1)
    with OpenAIStandIn() as server:
        found = run(server.url, options, Point(math.inf, 1))
        first, second, third = (b["messages"] for b in server.bodies)
    assert [r.fault for r in found.replies] == [None] * 3
    assert second[: len(first)] == first
    assert second[1] == {"role": "assistant", "content": " w0 w1 w2 w3"}
    assert third[: len(second)] == second
    assert [m["role"] for m in third] == ["user", "assistant"] * 2 + ["user"]


def test_a_chat_ends_at_an_answer_that_is_wrong():
    options = load(backend="openai-chat", dataset_name="multi-turn", num_turns=3, num_prompts=2)
    with OpenAIStandIn("short") as server:
        found = run(server.url, options, Point(math.inf, 1))
    assert [r.fault for r in found.replies] == ["fewer tokens than asked"] * 2


def test_words_are_weighed_by_the_servers_own_count():
    async def work(url, options):
        server = await target(Client(url), None)
        words = await calibrate(server, options)
        await warm_up(server, options, words)
        return server, words

    with OpenAIStandIn() as server:
        found, words = asyncio.run(work(server.url, load()))
        assert (found.model, found.pid) == (NAME, os.getpid())
        assert words == WORDS
        assert len(server.bodies) == 3
    with OpenAIStandIn("no-usage") as server:
        assert asyncio.run(work(server.url, load()))[1] == Words()
    with (
        OpenAIStandIn("busy") as server,
        pytest.raises(RunError, match="first request failed: HTTP"),
    ):
        asyncio.run(work(server.url, load()))


def test_a_server_that_ends_is_said_to_have_after_how_many_answers():
    with OpenAIStandIn() as free:
        port = free.port
    process = subprocess.Popen([sys.executable, str(HELPER), str(port), "die"])
    url = f"http://127.0.0.1:{port}"
    try:
        client = Client(url)
        asyncio.run(client.wait_until_ready(10.0, lambda: None))
        with pytest.raises(RunError, match=rf"{url}: the server ended after 4 of 6 answers"):
            run(url, load(), Point(math.inf, 1))
        assert process.wait(timeout=10) == 3
    finally:
        process.kill()
        process.wait()


def test_what_runs_beside_is_apart_from_the_measured_requests():
    options = load(background_input_len=50, probe=True, num_prompts=3, random_output_len=20)
    with OpenAIStandIn(token_s=0.005) as server:
        found = run(server.url, options, Point(math.inf, 1))
    assert len(found.replies) == 3
    assert found.background
    assert all(abs(r.prompt_tokens - 50) <= TOKENS_PER_WORD for r in found.background)
    assert set(found.probes_s) == {"/health", "/tokenize"}
    assert all(0 < s < 5 for seconds in found.probes_s.values() for s in seconds)


def test_the_servers_processor_time_and_the_clients_are_seen():
    with OpenAIStandIn() as server:
        found = run(server.url, load(num_prompts=40), Point(math.inf, 4))
    assert found.after.cpu_s >= found.before.cpu_s > 0
    assert found.after.rss_bytes > 1 << 20
    assert found.client_cpu_s > 0
    assert found.taken is None or found.taken >= 0
