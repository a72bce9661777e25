"""Text that comes in pieces, for readers that are generators: they yield where they need more."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
# A reader: its `yield`s wait for `Pieces.feed`, its result is what it has read.
Reading = Generator[None, None, T]


class Pieces:
    """`text[at:]` is what is known and not read yet; readers move `at`."""

    def __init__(self) -> None:
        self.text, self.at, self.is_last = "", 0, False
        self._marked: list[str] | None = None
        self._mark = 0

    def feed(self, text: str, is_last: bool) -> None:
        """Add a piece. What was read is dropped, but for what follows a mark."""
        if self._marked is not None:
            self._marked.append(self.text[self._mark : self.at])
            self._mark = 0
        self.text, self.at, self.is_last = self.text[self.at :] + text, 0, is_last

    def mark(self) -> None:
        """Remember this place for `rewind`."""
        self._marked, self._mark = [], self.at

    def unmark(self) -> None:
        """Forget the place."""
        self._marked = None

    def rewind(self) -> None:
        """Return to the marked place."""
        assert self._marked is not None
        read = "".join(self._marked)
        if read:  # only where a piece has come since: other ways back copy nothing
            self.text, self._mark = read + self.text[self._mark :], 0
        self.at, self._marked = self._mark, None

    def more(self) -> Reading[bool]:
        """Wait for a piece, which may be empty; False where the text has ended."""
        if self.is_last:
            return False
        yield
        return True

    def peek(self) -> Reading[str]:
        """The next character, empty at the end of the text."""
        while self.at == len(self.text):
            if not (yield from self.more()):
                return ""
        return self.text[self.at]

    def ahead(self, count: int) -> Reading[str]:
        """The next `count` characters, fewer at the end of the text; they stay unread."""
        while len(self.text) - self.at < count and (yield from self.more()):
            pass
        return self.text[self.at : self.at + count]

    def starts_with(self, word: str) -> Reading[bool]:
        """Whether `word` is next; waits only while that is open."""
        while not self.text.startswith(word, self.at):
            is_open = len(self.text) - self.at < len(word)
            if not is_open or not word.startswith(self.text[self.at :]):
                return False
            if not (yield from self.more()):
                return False
        return True

    def read(self, run: re.Pattern[str]) -> Reading[str]:
        """Read all that `run`, a repeated class of characters, matches."""
        found = []
        while True:
            matched = run.match(self.text, self.at)
            assert matched is not None
            found.append(matched[0])
            self.at = matched.end()
            if self.at < len(self.text) or not (yield from self.more()):
                return "".join(found)
