"""From steps of the engine to the event loop: one thread makes the text of all streams.

The engine thread leaves what a step brought in a queue. The output thread turns it into text, and
hands it to the event loop in a call for many streams. Until the loop has taken one such call,
further text of a stream is appended to what waits for it, so that a busy loop gets fewer and longer
pieces, and its other work is never behind more than one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..infer.driver import Update
    from ..outputs import IncrementalText, StreamChunk
    from .service import Generation

# Streams in one call to the event loop: their events take it a few milliseconds.
MAX_STREAMS = 16


class ChoiceStream:
    """One choice of a generation on its way to text: the context of its request."""

    def __init__(self, generation: Generation, index: int, text: IncrementalText) -> None:
        self.generation, self.index, self.text = generation, index, text
        # What the event loop has yet to get.
        self._chunk: StreamChunk | None = None
        self._error: Exception | None = None

    def add(self, update: Update) -> bool:
        """Make an update's text; False where nobody wants it any more."""
        if self.generation.is_closed or self.text.finished or self._error is not None:
            return False
        try:
            chunk = self.text.feed(update.event)
            if self.text.error is not None:
                raise self.text.error
        except Exception as error:
            self._error = error
        else:
            if self._chunk is None:
                self._chunk = chunk
            else:
                self._chunk.extend(chunk)
        if self._error is not None:
            update.handle.abort("error")
        elif self.text.finished:
            update.handle.abort("stop")  # a stop string ends the text before the engine knows
        return True

    def take(self) -> Piece:
        """What is new since the last time."""
        chunk, self._chunk = self._chunk, None
        return Piece(self.generation, self.index, chunk, self._error)


class Piece(NamedTuple):
    """What is new of a choice: text, and an error at its end."""

    generation: Generation
    choice: int
    chunk: StreamChunk | None
    error: Exception | None


class OutputThread:
    """The output thread of one event loop; `sink` is for submissions with `ChoiceStream`s."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Updates of a step; an empty list says that the loop has taken a call, None is the end.
        self._inbox: queue.SimpleQueue[list[Update] | None] = queue.SimpleQueue()
        self.sink = self._inbox.put
        self._waiting: dict[ChoiceStream, None] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="ling-output")
        self._thread.start()

    def close(self) -> None:
        """End the thread, after what it has in hand."""
        self._inbox.put(None)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        loop_is_free = True
        while (updates := self._inbox.get()) is not None:
            loop_is_free = loop_is_free or not updates
            for update in updates:
                stream: ChoiceStream = update.handle.context
                if stream.add(update):
                    self._waiting[stream] = None
            if loop_is_free and self._waiting:
                loop_is_free = not self._send()

    def _send(self) -> bool:
        """Hand the streams that wait longest to the event loop; False when it is gone."""
        streams = list(islice(self._waiting, MAX_STREAMS))
        pieces = [stream.take() for stream in streams]
        for stream in streams:
            del self._waiting[stream]
        with contextlib.suppress(RuntimeError):  # nobody listens any more
            self.loop.call_soon_threadsafe(self._deliver, pieces)
            return True
        self._waiting.clear()
        return False

    def _deliver(self, pieces: list[Piece]) -> None:
        """On the event loop: wake who waits; they run before the next call is taken."""
        for generation, choice, chunk, error in pieces:
            generation.put(choice, chunk, error)
        self.loop.call_soon(self._inbox.put, [])
