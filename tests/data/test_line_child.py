"""A child that answers lines, and ends when it does not."""

from __future__ import annotations

import gc
import sys
import time

import pytest

from ling.data.line_child import LineChild

ECHO = """
from ling.data.line_child import limit, serve_lines
import time

def work(value):
    if value == "hang":
        time.sleep(60)
    if value == "memory":
        return {"got": len(bytearray(1 << 31))}
    if value == "file":
        try:
            open("/etc/hostname")
        except OSError as err:
            return {"error": err.strerror}
    return {"got": "x" * value if isinstance(value, int) else value}

def main():
    limit(1 << 30)
    serve_lines(work, 5)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "echoing.py").write_text(ECHO)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    made = LineChild("echoing", 1 << 20)
    yield made
    made.end()


def test_lines_are_answered_in_turn(child):
    assert child.ask('{"a": "é"}', 30) == {"got": {"a": "é"}}
    assert child.ask("200000", 30) == {"got": "x" * 200000}
    assert child.ask('"file"', 30) == {"error": "Too many open files"}
    assert child.process.poll() is None


@pytest.mark.parametrize("request_", ['"hang"', '"memory"', "2000000", "no JSON"])
def test_a_child_that_does_not_answer_has_ended(child, request_):
    assert child.ask("1", 30) == {"got": "x"}
    begin = time.monotonic()
    assert child.ask(request_, 1.0) is None
    assert time.monotonic() - begin < 10
    assert child.process.poll() is not None
    assert child.ask("1", 1.0) is None


def test_a_child_ends_with_its_owner(tmp_path, monkeypatch):
    (tmp_path / "echoing.py").write_text(ECHO)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    made = LineChild("echoing", 1 << 20)
    process = made.process
    del made
    gc.collect()
    assert process.poll() is not None
