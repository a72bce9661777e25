"""Which pages of the KV cache belong to whom; full pages are shared between equal prefixes.

A page holds 64 positions of every attention layer. Requests that start with the same tokens (and
the same salt) share the pages of that prefix. What a page holds is named by the tokens themselves
and by the serial number of the prefix before it, so a hit is a comparison of token ids, not of
hashes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

PAGE = 64

# (serial number of the prefix before it, salt, its 64 tokens)
Content = tuple[int, str, tuple[int, ...]]


def pages_for(positions: int) -> int:
    """Pages that hold so many positions."""
    return -(-positions // PAGE)


@dataclass
class Holding:
    """A request's pages in order; the first `published` of them are known to the pool by content,
    and `prefix` is the serial number of what these hold."""

    pages: list[int] = field(default_factory=list)
    published: int = 0
    prefix: int = 0


@dataclass
class Segment:
    """Rows `start` to `stop` of the flat token axis: one request's positions from `first` on."""

    pages: list[int]
    first: int
    start: int
    stop: int


class PagePool:
    """`num_pages` pages: free, in use (counted), or kept for their content until space runs out."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.free = list(range(num_pages))[::-1]
        self.users = [0] * num_pages
        self.content: dict[int, Content] = {}  # page → what it holds
        self.index: dict[Content, tuple[int, int]] = {}  # → (page, serial number)
        # Pages without users whose content may still be wanted, oldest first.
        self.kept: OrderedDict[int, None] = OrderedDict()
        self._serial = 0

    @property
    def available(self) -> int:
        """Pages that a request could take now."""
        return len(self.free) + len(self.kept)

    def take(self, held: Holding, positions: int) -> bool:
        """Grow a holding to `positions`; False, and nothing taken, when there are too few pages."""
        need = pages_for(positions) - len(held.pages)
        if need > self.available:
            return False
        held.pages += [self._fresh() for _ in range(need)]
        return True

    def _fresh(self) -> int:
        if self.free:
            page = self.free.pop()
        else:
            page, _ = self.kept.popitem(last=False)
            # What was built on it can no longer be reached; it leaves when its own turn comes.
            del self.index[self.content.pop(page)]
        self.users[page] = 1
        return page

    def give_back(self, held: Holding) -> None:
        """Drop a request's hold on its pages."""
        # Last page first: a prefix outlives what was built on it.
        for page in reversed(held.pages):
            self.users[page] -= 1
            if not self.users[page]:
                if page in self.content:
                    self.kept[page] = None
                else:
                    self.free.append(page)
        held.pages, held.published, held.prefix = [], 0, 0

    def reuse(self, held: Holding, tokens: Sequence[int], salt: str) -> int:
        """Start an empty holding with pages that already hold a prefix of `tokens`.

        Returns the number of positions that need no computing; at least one token does.
        """
        for at in range(0, len(tokens) - PAGE, PAGE):
            found = self.index.get((held.prefix, salt, tuple(tokens[at : at + PAGE])))
            if found is None:
                break
            page, held.prefix = found
            self.users[page] += 1
            self.kept.pop(page, None)
            held.pages.append(page)
        held.published = len(held.pages)
        return held.published * PAGE

    def publish(self, held: Holding, tokens: Sequence[int], salt: str, computed: int) -> None:
        """Offer a request's full pages below position `computed` to others."""
        while (held.published + 1) * PAGE <= computed:
            at = held.published * PAGE
            content = (held.prefix, salt, tuple(tokens[at : at + PAGE]))
            if content not in self.index:
                self._serial += 1
                page = held.pages[held.published]
                self.index[content] = (page, self._serial)
                self.content[page] = content
            # With another copy of the same content around, the chain goes on from that one.
            held.prefix = self.index[content][1]
            held.published += 1
