"""Which request has which pages of the KV cache; full pages are shared between equal prefixes.

A page has 64 positions of every attention layer. Requests that start with the same tokens (and
the same salt) share the pages of that prefix. The content of a page is named by the tokens
themselves and by the serial number of the prefix before it, so a hit is a comparison of token ids,
not of hashes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PAGE = 64

# (serial number of the prefix before it, or a root; salt; its 64 tokens)
Content = tuple[int, str, tuple[int, ...]]


def pages_for(positions: int) -> int:
    """Pages that N positions need."""
    return -(-positions // PAGE)


@dataclass
class BlockTable:
    """Pages of a request in order; the first `published` of them are known to the pool by content,
    and `prefix` is the serial number of their content. Pages of requests under adapter k begin at
    `root` -k, so that they are found by requests under that one only."""

    pages: list[int] = field(default_factory=list)
    published: int = 0
    prefix: int = 0
    root: int = 0

    def __post_init__(self) -> None:
        self.prefix = self.prefix or self.root


@dataclass
class Segment:
    """Rows `start` to `stop` of the flat token axis: one request's positions from `first` on."""

    pages: list[int]
    first: int
    start: int
    stop: int
    adapter: int = 0
    """Number of the adapter of its rows; 0 is none."""


class PagePool:
    """`num_pages` pages: free, in use (counted), or cached for their content until evicted."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.free_pages = list(range(num_pages))[::-1]
        self.ref_counts = [0] * num_pages
        self.content: dict[int, Content] = {}  # page → its content
        self.index: dict[Content, tuple[int, int]] = {}  # → (page, serial number)
        # Pages without users whose content may still be wanted, oldest first; those of finished
        # chat turns, which the next turn continues, are evicted after all others.
        self.cached: OrderedDict[int, None] = OrderedDict()
        self.cached_turns: OrderedDict[int, None] = OrderedDict()
        self._serial = 0
        self.clear: Callable[[int], None] | None = None
        """Called with each page that a request gets for new content."""

    @property
    def available(self) -> int:
        """Pages that a request could get now."""
        return len(self.free_pages) + len(self.cached) + len(self.cached_turns)

    def allocate(self, table: BlockTable, positions: int) -> bool:
        """Grow a block table to `positions`; False, and nothing changed, when too few are free."""
        need = pages_for(positions) - len(table.pages)
        if need > self.available:
            return False
        table.pages += [self._fresh() for _ in range(need)]
        return True

    def _fresh(self) -> int:
        if self.free_pages:
            page = self.free_pages.pop()
        else:
            page, _ = (self.cached or self.cached_turns).popitem(last=False)
            # What was built on it can no longer be reached; it leaves when its own turn comes.
            del self.index[self.content.pop(page)]
        self.ref_counts[page] = 1
        if self.clear is not None:
            self.clear(page)
        return page

    def free(self, table: BlockTable) -> None:
        """Empty a block table; its pages without other users become free, or stay cached."""
        self._free(table, self.cached)

    def free_turn(self, table: BlockTable) -> None:
        """`free` for a finished chat turn: what stays cached is evicted last."""
        self._free(table, self.cached_turns)

    def _free(self, table: BlockTable, cached: OrderedDict[int, None]) -> None:
        # Last page first: a prefix outlives what was built on it.
        for page in reversed(table.pages):
            self.ref_counts[page] -= 1
            if not self.ref_counts[page]:
                if page in self.content:
                    cached[page] = None
                else:
                    self.free_pages.append(page)
        table.pages, table.published, table.prefix = [], 0, table.root

    def reuse(self, table: BlockTable, tokens: Sequence[int], salt: str) -> int:
        """Start an empty block table with pages that already have a prefix of `tokens`.

        Returns the number of positions that need no computing; at least one token does.
        """
        for at in range(0, len(tokens) - PAGE, PAGE):
            found = self.index.get((table.prefix, salt, tuple(tokens[at : at + PAGE])))
            if found is None:
                break
            page, table.prefix = found
            self.ref_counts[page] += 1
            self.cached.pop(page, None)
            self.cached_turns.pop(page, None)
            table.pages.append(page)
        table.published = len(table.pages)
        return table.published * PAGE

    def publish(self, table: BlockTable, tokens: Sequence[int], salt: str, computed: int) -> None:
        """Offer a request's full pages below position `computed` to others."""
        while (table.published + 1) * PAGE <= computed:
            at = table.published * PAGE
            content = (table.prefix, salt, tuple(tokens[at : at + PAGE]))
            if content not in self.index:
                self._serial += 1
                page = table.pages[table.published]
                self.index[content] = (page, self._serial)
                self.content[page] = content
            # With another copy of the same content around, the chain continues from that one.
            table.prefix = self.index[content][1]
            table.published += 1
