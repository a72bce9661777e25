"""A server as a scorer: ours in this process, and one that answers as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from app_server import served
from random_llm import random_llm

from ling.errors import RunError, UsageError
from ling.eval.scorer import Ask, Row
from ling.eval.scorers.choose import ScorerOptions, Subject
from ling.eval.scorers.engine import EngineScorer
from ling.eval.scorers.server import WAITS_S, ServerScorer
from ling.eval.serving.client import Client, Unreachable


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Our engine's scorer, and a server over the same engine."""
    with random_llm(context=512) as llm:
        folder = tmp_path_factory.mktemp("tokenizer")
        llm.tokenizer.save(folder)
        with served(llm, "tiny") as url:
            yield EngineScorer(llm), url, folder


def test_scores_and_answers_of_our_server_are_the_engines(ours):
    engine, url, folder = ours
    scorer = ServerScorer(Client(url), tokenizer=str(folder))
    assert (scorer.model, scorer.max_length, scorer.end_id) == ("tiny", 511, engine.end_id)
    text = "weather in Paris, get_weather city unit"
    ids = engine.encode(text)
    rows = [Row(ids[:n], ids[n : n + 2]) for n in range(1, 6)]
    for theirs, own in zip(scorer.score(rows), engine.score(rows), strict=True):
        assert theirs.logprob == pytest.approx(own.logprob, abs=1e-4)
        assert theirs.is_greedy == own.is_greedy
    (longest,) = scorer.score([Row(ids * 200, [5])])  # cut to what the server takes
    assert longest.logprob == pytest.approx(
        engine.score([Row(ids * 200, [5])])[0].logprob, abs=1e-4
    )
    messages = [{"role": "user", "content": "The weather?"}]
    asks = [Ask("The weather", 8), Ask(messages, 8)]
    assert scorer.generate(asks) == engine.generate(asks)
    assert scorer.render(messages) == engine.render(messages)


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_what_is_longer_than_the_context_is_cut_as_our_engine_cuts_it(ours, has_tokenizer):
    engine, url, folder = ours
    scorer = ServerScorer(Client(url), tokenizer=str(folder) if has_tokenizer else None)
    long, half = "weather in Paris " * 200, "weather in Paris " * 30
    asks = [Ask(long, 8), Ask(half, 10_000), Ask(long, 10_000)]
    assert scorer.generate(asks) == engine.generate(asks)


def test_tokens_come_from_the_server_where_no_tokenizer_is_given(ours):
    engine, url, _ = ours
    scorer = ServerScorer(Client(url))
    assert scorer.encode("weather in Paris") == engine.encode("weather in Paris")
    with pytest.raises(UsageError, match="need `--tokenizer FOLDER`"):
        scorer.render([])
    with pytest.raises(UsageError, match="no model `other`; the server has `tiny`"):
        ServerScorer(Client(url), "other")


class Told(BaseHTTPRequestHandler):
    """Answers by the server's `answer(path, body)`: a status and a JSON value."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._send(200, {"data": [{"id": "m"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.server.answer(self.path, body))

    def _send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def told(answer):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    server.answer = answer
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def completion(**choice):
    return 200, {"choices": [{"text": " hi", **choice}]}


def test_a_busy_server_is_asked_again_after_growing_pauses():
    seen, pauses = [], []

    def answer(path, body):
        seen.append(path)
        return (503, {}) if len(seen) < 4 else completion()

    with told(answer) as url:
        scorer = ServerScorer(Client(url), sleep=pauses.append)
        assert scorer.generate([Ask("a")]) == [" hi"]
    assert pauses == [1, 2, 4]


def test_a_server_that_is_gone_is_said_in_one_line_after_all_tries():
    pauses = []
    with told(lambda path, body: completion()) as url:
        scorer = ServerScorer(Client(url), sleep=pauses.append)
    with pytest.raises(Unreachable, match=r"no answer \(.*\); tried 7 times") as caught:
        scorer.generate([Ask("a")])
    assert "\n" not in str(caught.value)
    assert pauses == list(WAITS_S)


def test_a_server_that_hangs_is_asked_again_after_the_time_that_it_may_take():
    seen, forever = [], threading.Event()

    def answer(path, body):
        seen.append(path)
        if len(seen) == 1:
            forever.wait(20)
        return completion()

    with told(answer) as url:
        start = time.monotonic()
        scorer = Subject(url, ScorerOptions(timeout_s=0.3)).open()
        assert scorer.generate([Ask("a")]) == [" hi"]
        assert len(seen) == 2
        assert time.monotonic() - start < 15
        forever.set()


def test_a_refusal_is_not_repeated():
    def answer(path, body):
        return 400, {"error": {"message": "too long"}}

    with told(answer) as url:
        scorer = ServerScorer(Client(url), sleep=lambda s: pytest.fail("waited"))
        with pytest.raises(RunError, match="HTTP 400, too long"):
            scorer.generate([Ask("a")])


def test_a_chat_that_is_refused_is_asked_for_a_shorter_answer(ours):
    engine, _, folder = ours
    messages = [{"role": "user", "content": "The weather?"}]
    room = 511 - len(engine.encode(engine.render(messages), special=True))
    asked = []

    def answer(path, body):
        asked.append(body["max_tokens"])
        if body["max_tokens"] > room:
            return 400, {"error": {"message": "too long"}}
        return completion(message={"content": "Fine."})

    with told(answer) as url:
        scorer = ServerScorer(Client(url), tokenizer=str(folder), max_length=512)
        assert scorer.generate([Ask(messages, 5000)]) == ["Fine."]
        assert asked == [5000, room]
        with pytest.raises(RunError, match="HTTP 400, too long"):  # no room for any answer
            scorer.generate([Ask([{"role": "user", "content": "weather " * 600}], 5000)])


def test_scores_are_read_from_prompt_logprobs_where_there_is_no_echo():
    def answer(path, body):
        if "prompt_logprobs" not in body:
            return completion(logprobs=None)
        rows = [{str(i): {"logprob": -float(i), "rank": i}} for i in body["prompt"]]
        return completion(prompt_logprobs=[None, *rows[1:]])

    with told(answer) as url:
        scorer = ServerScorer(Client(url))
        assert scorer.score([Row([5, 6], [1]), Row([5], [1, 2])]) == [(-1.0, True), (-3.0, False)]


def test_a_server_without_scores_says_what_can_be_run_there():
    with told(lambda path, body: completion()) as url:
        scorer = ServerScorer(Client(url))
        with pytest.raises(UsageError, match=r"no log-probabilities of a prompt.*generated"):
            scorer.score([Row([5, 6], [1])])
        with pytest.raises(UsageError, match=r"no token ids .*--tokenizer FOLDER"):
            scorer.encode("a")


def test_more_stops_than_a_server_takes_end_the_answer_all_the_same():
    bodies = []

    def answer(path, body):
        bodies.append(body)
        return completion(text="one five two")

    with told(answer) as url:
        found = ServerScorer(Client(url)).generate([Ask("a", stop=("1", "2", "3", "4", " five"))])
    assert found == ["one"]
    assert bodies[0]["stop"] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("choice", [{"text": None}, "x", {"message": {}}, {"message": None}])
def test_an_answer_without_a_text_is_not_taken_for_an_empty_one(choice):
    with told(lambda path, body: (200, {"choices": [choice]})) as url:
        scorer = ServerScorer(Client(url))
        for ask in (Ask("a"), Ask([{"role": "user", "content": "a"}])):
            with pytest.raises(RunError, match="an answer without its text"):
                scorer.generate([ask])


def test_a_chat_that_was_cut_off_in_its_thoughts_said_nothing():
    with told(lambda path, body: (200, {"choices": [{"message": {"content": None}}]})) as url:
        assert ServerScorer(Client(url)).generate([Ask([{"role": "user"}])]) == [""]


def test_a_failure_does_not_wait_for_requests_that_are_never_answered():
    forever = threading.Event()

    def answer(path, body):
        if body["prompt"] == "a":
            return 400, {"error": {"message": "no"}}
        forever.wait(20)
        return completion()

    with told(answer) as url:
        start = time.monotonic()
        with pytest.raises(RunError, match="HTTP 400, no"):
            ServerScorer(Client(url)).generate([Ask("b"), Ask("a"), Ask("c")])
        assert time.monotonic() - start < 10
        forever.set()
