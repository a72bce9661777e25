"""Cyclic garbage is collected when the last request has ended, and Python's own settings return."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from ling.serve import garbage
from ling.serve.garbage import MANY, OLD_EVERY, Garbage


class Node:
    """An object that refers to itself."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def taken(monkeypatch):
    monkeypatch.setattr(garbage, "IDLE_S", 0.01)
    before = gc.get_threshold()
    made = Garbage()
    made.begin()
    yield made
    made.end()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_all_objects_are_looked_at_seldom_and_those_of_the_start_never(taken):
    assert gc.get_threshold()[2] == OLD_EVERY
    assert gc.get_freeze_count() > 10_000


def left_behind(made, requests, still_running=0):
    """Whether garbage is still there a while after this many requests."""

    async def run():
        gc.disable()
        try:
            for _ in range(requests + still_running):
                made.started()
            node = weakref.ref(Node())
            for _ in range(requests):
                made.ended()
            await asyncio.sleep(0.1)
            return node() is not None
        finally:
            gc.enable()

    return asyncio.run(run())


def test_garbage_goes_when_the_last_request_has_ended(taken):
    assert left_behind(taken, MANY - 1)
    assert not left_behind(taken, 1)
    assert left_behind(taken, 1)
    assert left_behind(taken, MANY, still_running=1)


def test_where_nobody_took_over_nothing_is_collected():
    assert left_behind(Garbage(), MANY)
