"""The child that compiles first: ended when it takes too long, and replaced."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from ling.errors import RequestError
from ling.grammar import probe as probe_module
from ling.grammar.library import Vocabulary
from ling.grammar.probe import Probe

BYTES = Vocabulary([bytes([i]) for i in range(256)] + [b"<end>"], [256], [256])


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


# 22 seconds in the library alone; our own bounds keep it away from a client's reach.
BOMB = lark(
    "start: %json "
    + json.dumps(
        {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(24)]}
    )
)


@pytest.fixture
def probe():
    made = Probe(BYTES)
    made.start()
    yield made
    made.close()


def test_a_child_answers_for_many_grammars(probe):
    child = probe._child
    probe.check(lark('start: "a"'))
    with pytest.raises(RequestError, match="nothing") as err:
        probe.check(lark("start: nothing"))
    assert (err.value.status, err.value.code) == (400, "grammar_not_supported")
    probe.check(lark('start: "b"'))
    assert probe._child is child


def test_what_takes_too_long_is_refused_and_the_child_replaced(probe, monkeypatch):
    monkeypatch.setattr(probe_module, "TIMEOUT_S", 0.3)
    child, begin = probe._child, time.monotonic()
    with pytest.raises(RequestError, match=r"takes more than 0\.3 s or 1 GiB") as err:
        probe.check(BOMB)
    assert time.monotonic() - begin < 3  # ten times what is promised: the machine may be busy
    assert (err.value.status, err.value.code) == (400, "grammar_too_complex")
    assert child.process.wait(10) != 0
    monkeypatch.undo()
    probe.start()  # waits for the one that is being started, if there is one
    assert probe._child is not child
    probe.check(lark('start: "a"'))


def test_a_child_that_was_killed_is_replaced(probe):
    probe._child.process.kill()
    probe._child.process.wait(10)
    probe.check(lark('start: "a"'))


def test_a_child_that_is_killed_while_it_works_says_nothing_about_the_grammar(probe):
    child = probe._child.process
    child.send_signal(signal.SIGSTOP)
    timer = threading.Timer(0.1, child.kill)
    timer.start()
    probe.check(lark('start: "a"'))
    timer.join()
    assert probe._child.process is not child


def test_a_child_that_cannot_be_started_is_an_error_of_the_server(monkeypatch):
    def refuse(*_):
        raise OSError(11, "no more processes")

    monkeypatch.setattr(probe_module, "LineChild", refuse)
    with pytest.raises(RequestError, match="no more processes") as err:
        Probe(BYTES).check(lark('start: "a"'))
    assert err.value.status == 503
