"""Prefixes that outlive the process: which cached pages are saved, and when they are read again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.engine import EngineConfig
from ..errors import UsageError
from .page_files import ROOT, PageFiles, PageKey, token_bytes
from .pages import PAGE, BlockTable, Content, PagePool
from .runner import Runner

log = logging.getLogger("ling")

# Read in one step, so that running requests wait a tenth of a second at most.
LOAD_BYTES = 64 << 20
# Of the order in which pages were used only as much is kept as a file's time can tell.
TICK_S = 1e-6


class _Page(NamedTuple):
    """A page of the pool that can be found from the start of a prompt."""

    number: int
    serial: int
    key: PageKey
    name: bytes


class PageStore:
    """Moves pages between the pool of an engine and files; used by the engine's thread only."""

    def __init__(self, runner: Runner, pool: PagePool, files: PageFiles) -> None:
        self.runner, self.pool, self.files = runner, pool, files
        self._roots = runner.adapters.roots(ROOT)
        # Serial numbers of contents that are known to be on disk.
        self._saved: set[int] = set()
        self._budget = 0
        self.seconds = 0.0
        """What reading took in this step."""

    # ---- reading -------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """A new step, which may read again."""
        self._budget, self.seconds = max(1, LOAD_BYTES // self.runner.page_bytes()), 0.0

    def load(self, table: BlockTable, tokens: Sequence[int], salt: str) -> bool:
        """Continue a block table of cached pages with those on disk, as `PagePool.reuse` would.

        Returns False when there is more than a step should read for all its requests: the pages so
        far are in the pool, and a call in the next step continues.
        """
        begin = time.perf_counter()
        first, now, whole = len(table.pages), time.time(), True
        for i, (key, name) in enumerate(self._chain(tokens, salt, self._roots[-table.root])):
            if i < first:
                continue
            if not self._budget:
                whole = not self.files.has(name)
                break
            if not self._load_page(table, i, key, name):
                break
            self._budget -= 1
            self.files.touch(name, now - i * TICK_S)
        self.pool.publish(table, tokens, salt, len(table.pages) * PAGE)
        self._saved |= {self._serial(page) for page in table.pages[first:]} - {0}
        self.seconds += time.perf_counter() - begin
        return whole

    def _chain(
        self, tokens: Sequence[int], salt: str, parent: bytes = ROOT
    ) -> Iterator[tuple[PageKey, bytes]]:
        """The full pages of a prompt, of which at least one token is to be computed."""
        hashed = self.files.salt(salt)
        for at in range(0, len(tokens) - PAGE, PAGE):
            key = PageKey(parent, hashed, token_bytes(tokens[at : at + PAGE]))
            parent = self.files.name(key)
            yield key, parent

    def _load_page(self, table: BlockTable, i: int, key: PageKey, name: bytes) -> bool:
        if not self.pool.available or (data := self.files.read(key, name)) is None:
            return False
        self.pool.allocate(table, (i + 1) * PAGE)
        fill(self.runner.page(table.pages[i]), data)
        return True

    def _serial(self, page: int) -> int:
        """The serial number of a page's content; 0 for a copy that the pool does not offer."""
        content = self.pool.content.get(page)
        return 0 if content is None else self.pool.index[content][1]

    # ---- writing -------------------------------------------------------------------------------

    def save(self, *, again: bool = False) -> Iterator[None]:
        """Write what is not on disk yet, a page a turn, those of use last first.

        `again` also looks whether pages are still there that were saved before, and tells other
        processes that they were of use.
        """
        pages, now = self._ranked(), time.time()
        self._saved &= {page.serial for page in pages}
        wanted = pages[: self.files.most_pages]
        keep = {page.name for page in wanted}
        if again:
            self.files.recount()
        for rank, page in enumerate(wanted):
            if page.serial in self._saved and not again:
                continue
            if not self._save_page(page, now - rank * TICK_S, keep):
                return
            self._saved.add(page.serial)
            yield

    def _save_page(self, page: _Page, seconds: float, keep: set[bytes]) -> bool:
        if self._is_there(page):
            self.files.touch(page.name, seconds)
            return True
        data = joined(self.runner.page(page.number)).numpy().data
        return self.files.write(page.key, page.name, data, seconds, keep)

    def _is_there(self, page: _Page) -> bool:
        """Whether a page needs no writing. A file that this process neither read nor wrote is
        checked: behind a damaged page others may be, which no request has read."""
        if page.serial in self._saved:
            return self.files.has(page.name)
        return self.files.read(page.key, page.name) is not None

    def _ranked(self) -> list[_Page]:
        """Pages that a prompt can reach, those of use last first; a prefix before what is built on
        it."""
        known = sorted((serial, content, page) for content, (page, serial) in self._index())
        order = {page: i for i, page in enumerate((*self.pool.cached, *self.pool.cached_turns))}
        rank: dict[int, int] = {}
        for serial, content, page in reversed(known):
            rank[serial] = max(rank.get(serial, 0), order.get(page, len(order)))
            rank[content[0]] = max(rank.get(content[0], 0), rank[serial])
        names = {-k: root for k, root in enumerate(self._roots)}
        salts, pages = dict[str, bytes](), list[_Page]()
        for serial, (prefix, salt, tokens), page in known:
            if prefix not in names:  # evicted, so nothing finds this one any more
                continue
            if salt not in salts:
                salts[salt] = self.files.salt(salt)
            key = PageKey(names[prefix], salts[salt], token_bytes(tokens))
            names[serial] = self.files.name(key)
            pages.append(_Page(page, serial, key, names[serial]))
        return sorted(pages, key=lambda p: (-rank[p.serial], p.serial))

    def _index(self) -> list[tuple[Content, tuple[int, int]]]:
        return list(self.pool.index.items())


def joined(parts: list[Tensor]) -> Tensor:
    """The bytes of a page, part after part, in the CPU's memory."""
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in parts]).cpu()


def fill(parts: list[Tensor], data: bytearray) -> None:
    """Write the bytes of `joined` into a page."""
    at = 0
    for part in parts:
        values = torch.frombuffer(data, dtype=part.dtype, count=part.numel(), offset=at)
        part.copy_(values.view(part.shape))
        at += values.nbytes


def identity(runner: Runner, config: EngineConfig) -> bytes:
    """A hash of all that decides the keys and values of given tokens: weights, configuration,
    formats, what computes them, and whether the MTP layers have theirs."""
    facts = {
        # Of the package, which this layer does not import.
        "version": sys.modules[__name__.partition(".")[0]].__version__,
        "weights": runner.weights_id,
        "adapter": None,  # pages of one have its hash as their root
        "model": dataclasses.asdict(runner.config),
        "computed by": runner.numerics(),
        "format": [config.format, config.dtype, config.kv_cache_dtype],
        "page": [PAGE, runner.page_bytes()],
        "mtp": config.uses_mtp,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).digest()[: len(ROOT)]


def open_store(runner: Runner, pool: PagePool, config: EngineConfig) -> PageStore | None:
    """The store of the config's `cache_dir`; None without one, or with one log line where the
    folder is not to be used. Raises `UsageError` for weights that no checkpoint has."""
    if config.cache_dir is None:
        return None
    if not runner.weights_id:
        raise UsageError("`cache_dir` needs a model that is opened from a checkpoint")
    folder = Path(config.cache_dir)
    most = config.cache_dir_bytes
    try:
        files = PageFiles(folder, identity(runner, config), runner.page_bytes(), most)
    except OSError as err:
        log.warning("%s: KV pages are not kept: %s", folder, err.strerror or err)
        return None
    files.check_size()
    return PageStore(runner, pool, files)
