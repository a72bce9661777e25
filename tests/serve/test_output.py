"""One thread for the text of all streams, and an event loop that is never far behind."""

from __future__ import annotations

import asyncio

import pytest

from ling.infer.driver import Update
from ling.outputs import StreamChunk
from ling.serve import output
from ling.serve.output import ChoiceStream, OutputThread


class Handle:
    def __init__(self, context):
        self.context, self.num_aborts = context, 0

    def abort(self, reason="abort"):
        self.num_aborts += 1


class Text:
    """Gives events back as they are; "fail" raises."""

    finished, error = False, None

    def feed(self, event):
        if event == "fail":
            raise RuntimeError("no text")
        self.finished = event.finish_reason is not None
        return event


class Generation:
    """Remembers what it got, in calls of the event loop."""

    def __init__(self):
        self.is_closed, self.got = False, []

    def put(self, choice, chunk, error):
        self.got.append((choice, chunk and chunk.text, error and str(error)))


def chunk(text, finish_reason=None):
    return StreamChunk(text, [1], finish_reason=finish_reason)


def handles(generation, count):
    return [Handle(ChoiceStream(generation, i, Text())) for i in range(count)]


def run(work):
    """Run `work(thread, loop)` on an event loop with an output thread; the thread ends."""

    async def body():
        thread = OutputThread(asyncio.get_running_loop())
        try:
            await work(thread)
        finally:
            thread.close()
            await asyncio.to_thread(thread.join)

    asyncio.run(asyncio.wait_for(body(), 30))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_texts_and_errors_reach_their_generation_in_order():
    generation = Generation()
    first, second = handles(generation, 2)

    async def work(thread):
        thread.sink([Update(first, chunk("a")), Update(second, chunk("b"))])
        await until(lambda: len(generation.got) == 2)
        thread.sink([Update(first, chunk("c", "stop")), Update(second, "fail")])
        await until(lambda: len(generation.got) == 4)
        thread.sink([Update(first, chunk("late")), Update(second, chunk("late"))])
        thread.sink([])
        await asyncio.sleep(0.02)

    run(work)
    assert generation.got == [
        (0, "a", None),
        (1, "b", None),
        (0, "c", None),
        (1, None, "no text"),
    ]
    assert (first.num_aborts, second.num_aborts) == (1, 1)  # ends before the engine knows


def test_what_a_busy_loop_has_not_taken_is_joined():
    generation = Generation()
    (one,) = handles(generation, 1)

    async def work(thread):
        thread.sink([Update(one, chunk("a"))])
        await until(lambda: generation.got)
        got, generation.put = [], lambda *piece: got.append(piece)
        # The loop is held up: the thread makes one call, and all later text waits for the next.
        for i in range(20):
            thread.sink([Update(one, chunk(str(i % 10)))])
        while thread._inbox.qsize():
            pass
        await until(lambda: sum(len(p[1].text) for p in got) == 20)
        assert "".join(p[1].text for p in got) == "0123456789" * 2
        assert sum(len(p[1].token_ids) for p in got) == 20
        assert len(got) <= 2

    run(work)


def test_a_call_has_a_bounded_number_of_streams_and_nobody_is_forgotten(monkeypatch):
    monkeypatch.setattr(output, "MAX_STREAMS", 3)
    generation, calls = Generation(), []

    async def work(thread):
        deliver = thread._deliver
        thread._deliver = lambda pieces: (calls.append(len(pieces)), deliver(pieces))
        thread.sink([Update(h, chunk("x")) for h in handles(generation, 8)])
        await until(lambda: len(generation.got) == 8)

    run(work)
    assert calls == [3, 3, 2]
    assert [choice for choice, *_ in generation.got] == list(range(8))


def test_nothing_is_made_for_a_closed_generation():
    generation = Generation()
    (one,) = handles(generation, 1)
    generation.is_closed = True

    async def work(thread):
        thread.sink([Update(one, "fail")])
        await asyncio.sleep(0.02)

    run(work)
    assert generation.got == []


@pytest.mark.parametrize("before", [True, False])
def test_a_loop_that_is_gone_does_not_stop_the_thread(before):
    loop = asyncio.new_event_loop()
    thread = OutputThread(loop)
    if before:
        loop.close()
    for _ in range(3):
        thread.sink([Update(h, chunk("x")) for h in handles(Generation(), 2)])
    if not before:
        loop.close()
    thread.close()
    thread.join()
