"""Whose turn it is: requests by priority and share key, and the order of the prompts of each key.

A turn of a key is a step in which it got rows for its prompts; among the keys of one priority the
one whose last turn is longest ago is first. Within a key a prompt keeps its turn for `QUANTUM`
tokens, so that short ones go through in the order of their arrival and long ones alternate.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .request import Request

QUANTUM = 512


@dataclass(slots=True)
class ShareKey:
    """The requests of one share key and priority that are not finished."""

    waiting: list[Request] = field(default_factory=list)
    """In the order of their numbers, so a preempted request has its old position."""
    running: int = 0
    last_turn: int = 0
    passed_over: bool = False
    """Whether the prompt whose turn it was got nothing in the last step."""


class Turns:
    """Requests that wait, by (priority, share key), and the turns of them and of the running."""

    def __init__(self) -> None:
        self._keys: dict[tuple[int, str], ShareKey] = {}
        self._groups: Counter[int] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return sum(len(key.waiting) for key in self._keys.values())

    def __iter__(self) -> Iterator[Request]:
        """Those that wait, best priority first."""
        for name in sorted(self._keys, key=lambda name: name[0]):
            yield from self._keys[name].waiting

    def key(self, request: Request) -> ShareKey:
        """The key of a request that is not finished."""
        return self._keys[request.priority, request.share_key]

    @property
    def has_several_callers(self) -> bool:
        """Whether the unfinished requests come from more than one caller."""
        return len(self._groups) > 1

    def add(self, request: Request) -> None:
        """A new request: it waits, and its turn comes behind those that were here before."""
        name = request.priority, request.share_key
        if name not in self._keys:
            self._keys[name] = ShareKey(last_turn=self._count)
        request.turn = self._count
        self._groups[request.group] += 1
        self._keys[name].waiting.append(request)

    def start(self, request: Request) -> None:
        """A waiting request runs."""
        key = self.key(request)
        key.waiting.remove(request)
        key.running += 1

    def stop(self, request: Request) -> None:
        """A running request waits again, in its old position."""
        key = self.key(request)
        key.running -= 1
        insort(key.waiting, request, key=lambda r: r.id)

    def end(self, request: Request, was_running: bool) -> None:
        """A request has finished, and is neither waiting nor running any more."""
        key = self.key(request)
        if was_running:
            key.running -= 1
        else:
            key.waiting.remove(request)
        if not key.running and not key.waiting:
            del self._keys[request.priority, request.share_key]
        self._groups[request.group] -= 1
        if not self._groups[request.group]:
            del self._groups[request.group]

    def priorities(self) -> list[int]:
        """The priorities of unfinished requests, best (lowest) first."""
        return sorted({priority for priority, _ in self._keys})

    def in_turn(self, priority: int) -> list[ShareKey]:
        """The keys of a priority, the one that waits longest for its turn first; of equal ones the
        one with fewer running requests."""
        keys = [key for (p, _), key in self._keys.items() if p == priority]
        return sorted(keys, key=lambda key: (key.last_turn, key.running))

    def served(self, key: ShareKey, parts: Iterable[tuple[Request, int]]) -> None:
        """A key had its turn: the tokens that each of its prompts got."""
        self._count += 1
        key.last_turn = self._count
        for request, num_tokens in parts:
            request.turn_tokens += num_tokens
            if request.turn_tokens >= QUANTUM:
                request.turn, request.turn_tokens = self._count, 0


def first_in_turn(requests: Iterable[Request]) -> Request | None:
    """Of one key's requests the one whose turn it is."""
    return min(requests, key=lambda r: (r.turn, r.id), default=None)
