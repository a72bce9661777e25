"""How a generation waits on the event loop: signs of life after silence, and few timers."""

from __future__ import annotations

import asyncio

from ling.outputs import StreamChunk
from ling.serve.output import OutputThread
from ling.serve.service import Generation, Terms


async def pieces(silences, idle_s):
    """What a stream yields where each piece comes after a silence; timers that this took."""
    loop, timers = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when, callback, *args, **options):
        timers.append(callback)
        return call_at(when, callback, *args, **options)

    output = OutputThread(loop)
    generation = Generation(output, 1, Terms(None), lambda _: None)
    got = []

    async def read():
        async for piece in generation.pieces(idle_s):
            got.append(piece[0].text if piece else None)

    loop.call_at = counted
    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    try:
        for i, silence in enumerate(silences):
            await (asyncio.sleep(silence) if silence else asyncio.sleep(0))
            last = i == len(silences) - 1
            generation.put(0, StreamChunk(str(i), finish_reason="stop" if last else None), None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await reading
    finally:
        del loop.call_at
        output.close()
        output.join()
    assert generation._timer is None or generation._timer.cancelled()
    return got, sum(getattr(c, "__self__", None) is generation for c in timers)


def test_a_stream_of_tokens_takes_one_timer():
    got, timers = asyncio.run(pieces([0] * 200, 5.0))
    assert got == [str(i) for i in range(200)]
    assert timers == 1


def test_silence_is_told_as_often_as_it_lasts():
    got, _ = asyncio.run(pieces([0, 0.35, 0], 0.1))
    assert [g for g in got if g is not None] == ["0", "1", "2"]
    assert got[:1] == ["0"]
    assert 2 <= got.count(None) <= 3


def test_a_shorter_wait_is_not_held_up_by_the_timer_of_a_longer_one():
    async def waits():
        output = OutputThread(asyncio.get_running_loop())
        generation = Generation(output, 1, Terms(None), lambda _: None)
        loop = output.loop
        loop.call_later(0.01, lambda: generation.put(0, StreamChunk("a"), None))
        assert await generation._wait(60.0)
        generation._pieces = {}
        begin = loop.time()
        assert not await generation._wait(0.05)
        assert loop.time() - begin < 5
        generation.close()
        output.close()

    asyncio.run(waits())
