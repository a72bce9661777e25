"""The engine's thread: nobody waits for a step, and every request hears how it ends."""

from __future__ import annotations

import queue
import threading

import pytest
from small_engine import small_engine

from ling.errors import RequestError
from ling.infer.driver import Driver, Submission
from ling.infer.request import SamplingParams

LONG = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)


@pytest.fixture
def engine():
    return small_engine()


class Box:
    """A sink of one request, and what came through it."""

    def __init__(self):
        self.updates = queue.SimpleQueue()
        self.sink = self.updates.put

    def tokens(self):
        """Ids up to the end, and the last event."""
        ids = []
        while True:
            ((_, event),) = self.updates.get(timeout=30)
            ids += event.token_ids
            if event.finish_reason is not None or event.error is not None:
                return ids, event


class Gate:
    """Holds steps up until it is opened."""

    def __init__(self, engine):
        self.entered, self.open = threading.Event(), threading.Event()
        step = engine.step

        def slow_step():
            self.entered.set()
            assert self.open.wait(30)
            return step()

        engine.step = slow_step


def test_sink_gets_the_tokens_of_the_engine_alone(engine):
    alone = engine.add([1, 2, 3], LONG)
    while engine.has_work:
        engine.step()
    box = Box()
    handle = Driver(engine).submit([1, 2, 3], LONG, box.sink)
    ids, end = box.tokens()
    assert ids == alone.output == handle.request.output
    assert end.finish_reason == "length"


def test_nobody_waits_for_a_running_step(engine):
    gate, driver, first, second = Gate(engine), Driver(engine), Box(), Box()
    handle = driver.submit([1, 2, 3], LONG, first.sink)
    assert gate.entered.wait(30)
    driver.submit([4, 5], SHORT, second.sink)  # these return though the step cannot end
    with pytest.raises(RequestError, match="empty"):
        driver.submit([], SHORT, second.sink)
    handle.abort()
    gate.open.set()
    assert len(second.tokens()[0]) == 3
    assert handle.request.finish_reason == "abort"
    assert engine.pool.available == engine.pool.num_pages


def test_all_of_a_submission_or_none(engine):
    driver, box = Driver(engine), Box()
    with pytest.raises(RequestError, match="vocabulary"):
        driver.submit_all([Submission([1], SHORT, box.sink), Submission([-1], SHORT, box.sink)])
    assert not engine.has_work
    assert box.updates.empty()


def test_a_failed_step_ends_all_requests_with_its_error_and_the_next_one_runs(engine):
    step, boxes, driver = engine.step, [Box(), Box()], Driver(engine)

    def broken():
        engine.step = step
        raise RuntimeError("broken")

    engine.step = broken
    driver.submit_all([Submission([1, 2], SHORT, b.sink) for b in boxes])
    assert [str(b.tokens()[1].error) for b in boxes] == ["broken", "broken"]
    after = Box()
    driver.submit([1, 2], SHORT, after.sink)
    assert after.tokens()[1].finish_reason == "length"
    assert engine.pool.available == engine.pool.num_pages


@pytest.mark.parametrize("broken", ["runner.forward", "scheduler.end_step"])
def test_requests_that_ended_in_a_failed_step_are_dropped_with_their_pages(engine, broken):
    def fails(*_):
        raise RuntimeError("broken")

    part, method = getattr(engine, broken.split(".")[0]), broken.split(".")[1]
    works, boxes, driver = getattr(part, method), [Box(), Box(), Box()], Driver(engine)
    setattr(part, method, fails)
    one = SamplingParams(temperature=0, max_tokens=1)
    driver.submit_all([Submission([1, 2], one, b.sink) for b in boxes])
    assert [str(b.tokens()[1].error) for b in boxes] == ["broken"] * 3
    setattr(part, method, works)
    after = Box()
    driver.submit([1, 2], SHORT, after.sink)
    assert len(after.tokens()[0]) == 3
    assert not engine.has_work
    assert engine.pool.available == engine.pool.num_pages


def test_a_step_is_one_call_of_each_sink_with_the_contexts_of_its_requests(engine):
    calls, box = queue.SimpleQueue(), Box()
    driver = Driver(engine)
    driver.submit_all(
        [Submission([1, i], SHORT, calls.put, context=i) for i in range(3)]
        + [Submission([7], SHORT, box.sink)]
    )
    assert len(box.tokens()[0]) == 3
    batches = [calls.get(timeout=30) for _ in range(3)]
    assert [[u.handle.context for u in batch] for batch in batches] == [[0, 1, 2]] * 3
    assert all(len(u.event.token_ids) == 1 for batch in batches for u in batch)
    assert calls.empty()


def test_a_sink_that_fails_loses_its_own_requests_only(engine, caplog):
    def broken(updates):
        raise RuntimeError("no listener")

    driver, box = Driver(engine), Box()
    first, _ = driver.submit_all(
        [Submission([1, 2], LONG, broken), Submission([1, 2], LONG, box.sink)]
    )
    assert len(box.tokens()[0]) == 100
    assert first.request.finish_reason == "abort"
    assert len(first.request.output) == 1
    assert "a sink failed" in caplog.text


def test_an_engine_that_fails_again_and_again_is_dead_and_says_so(engine, monkeypatch):
    def broken():
        raise RuntimeError("broken")

    step, engine.step = engine.step, broken
    driver = Driver(engine)

    def ask():
        box = Box()
        driver.submit([1, 2], SHORT, box.sink)
        return box.tokens()[1]

    for _ in range(2):
        assert str(ask().error) == "broken"
    engine.step = step
    assert ask().finish_reason == "length"  # a step that runs starts the count again
    engine.step = broken
    for _ in range(3):
        assert driver.failure is None
        ask()
    assert str(driver.failure) == "broken"
    with pytest.raises(RequestError, match="several times in a row") as refused:
        ask()
    assert refused.value.status == 503


@pytest.mark.parametrize("num_bad", [1, 3])
def test_clients_cannot_end_the_engine_with_requests_that_it_fails_on(engine, caplog, num_bad):
    """Also where a step has no others, so that it fails as a whole."""
    forward, bad = engine.runner.forward, 300

    def fails_on_some(tokens, segments):
        if bad in tokens:
            raise RuntimeError("broken")
        return forward(tokens, segments)

    engine.runner.forward = fails_on_some
    driver, boxes = Driver(engine), [Box() for _ in range(num_bad)]
    for _ in range(5):
        driver.submit_all([Submission([1, bad], SHORT, b.sink) for b in boxes])
        assert [str(b.tokens()[1].error) for b in boxes] == ["broken"] * num_bad
    after = Box()
    driver.submit([1, 2], SHORT, after.sink)
    assert after.tokens()[1].finish_reason == "length"
    assert driver.failure is None
    assert engine.pool.available == engine.pool.num_pages
    assert "of its own" not in caplog.text


def test_an_engine_that_never_answers_is_dead_too(engine):
    """As when steps no longer bring anything, without an error."""
    step, engine.step = engine.step, lambda: []

    def broken():
        engine.step = lambda: []
        raise RuntimeError("broken")

    driver = Driver(engine)
    for _ in range(3):
        engine.step, box = broken, Box()
        driver.submit([1, 2], SHORT, box.sink)
        assert str(box.tokens()[1].error) == "broken"
    assert str(driver.failure) == "broken"
    engine.step = step
    assert engine.pool.available == engine.pool.num_pages


def test_an_idle_thread_ends_and_another_one_starts(engine, monkeypatch):
    monkeypatch.setattr("ling.infer.driver.IDLE_S", 0.05)
    driver, box = Driver(engine), Box()
    driver.submit([1], SHORT, box.sink)
    box.tokens()
    thread = driver._thread
    if thread is not None:
        thread.join(30)
    assert driver._thread is None
    driver.submit([1], SHORT, box.sink)
    assert box.tokens()[1].finish_reason == "length"


def test_at_the_end_of_the_process_the_running_step_is_the_last(engine):
    gate, driver, box = Gate(engine), Driver(engine), Box()
    driver.submit([1, 2, 3], LONG, box.sink)
    assert gate.entered.wait(30)
    ending = threading.Thread(target=driver._end)  # what Python calls when it ends
    ending.start()
    thread = driver._thread
    gate.open.set()
    ending.join(30)
    assert not thread.is_alive()
    ((_, event),) = box.updates.get(timeout=1)
    assert len(event.token_ids) == 1
    assert box.updates.empty()


def test_at_the_end_of_the_process_an_idle_thread_is_woken(engine):
    driver, box = Driver(engine), Box()
    driver.submit([1], SHORT, box.sink)
    box.tokens()
    thread = driver._thread
    driver._end()
    assert not thread.is_alive()


def test_behind_the_end_of_the_process_requests_are_refused_and_leaving_one_is_silent(engine):
    gate, driver, box = Gate(engine), Driver(engine), Box()
    gate.open.set()
    handle = driver.submit([1, 2, 3], LONG, box.sink)
    assert gate.entered.wait(30)
    driver._end()
    handle.abort()  # as a stream that Python collects at its end; no thread can be started then
    with pytest.raises(RequestError, match="Python is ending"):
        driver.submit([1], SHORT, box.sink)
    assert not driver._thread.is_alive()
