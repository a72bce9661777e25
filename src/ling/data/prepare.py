"""`ling data prepare`: documents → tokenizer, Megatron token files and a held-out part.

A corpus is read twice, and a third time where a tokenizer is trained. What the first reading finds
becomes a plan of units (`plan.py`); the second one turns units to parts, in any order, on any
machine; the parts are then joined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from ..files.atomic import make_folder
from ..text import size
from .corpus import Corpus
from .dedupe import Dedupe, without_duplicates
from .folder import PARTS, PREPARED
from .join import join
from .measure import measure
from .plan import Plan
from .pool import run_units
from .prepared import Prepared, Request, find_prepared
from .progress import Log, Progress
from .reading import Document, Seen, fraction
from .split import Measured, Split, choose_split, require_two_words
from .tally import Tally
from .tokenise import long_parts
from .tokenizer import Tokenizer, train_tokenizer
from .units import Unit, units

MAX_TOKENIZER_BYTES = 16 << 20
Engine = Literal["processes", "ray"]


class Preparation:
    """A corpus on its way to token files in `out`.

    `sources` are "stdlib", or files and folders. Documents are held out by a hash of `seed` and
    their names, so none is on both sides. `json_key` is the key or column with the text. Of
    documents with the same text ("exact"), or nearly ("near"), `dedupe` keeps the first. Nothing
    that it writes depends on `workers`, on the engine or on shards. Raises `DataError` for an empty
    corpus or one that cannot be read, and `UsageError` when `out` was prepared with other settings
    or from other text.
    """

    def __init__(
        self,
        sources: str | Sequence[str | Path],
        out: str | Path,
        *,
        tokenizer: str | Path | None = None,
        vocab_size: int = 4096,
        max_bytes: int | None = None,
        valid_fraction: float = 0.02,
        seed: int = 0,
        json_key: str | None = None,
        dedupe: Dedupe | None = None,
        workers: int | None = None,
        log: Log = print,
    ) -> None:
        if not 0 < valid_fraction < 1:
            raise UsageError(f"`valid_fraction` is {valid_fraction}, expected a number in (0, 1)")
        for name, value in (("max_bytes", max_bytes), ("workers", workers)):
            if value is not None and value < 1:
                raise UsageError(f"`{name}` is {value}, expected at least 1")
        settings = {
            "vocab_size": None if tokenizer else vocab_size,
            "max_bytes": max_bytes,
            "valid_fraction": valid_fraction,
            "seed": seed,
            "json_key": json_key,
            **({} if dedupe is None else {"dedupe": dedupe}),
        }
        self._request = Request(sources, tokenizer, settings)
        self._out, self._workers, self._log = Path(out), workers, log
        self._vocab_size, self._dedupe = vocab_size, dedupe
        self._split = Split(valid_fraction, seed)

    def run(self, engine: Engine = "processes") -> Prepared:
        """All of the work; what an earlier try finished is used."""
        if ready := self._finished():
            return ready
        plan = self._plan()
        with _one_at_a_time(self._out):
            if ready := self._request.find(self._out):  # another process was faster
                return ready
            self._work(plan, plan.units, engine)
            return join(plan, self._log)

    def run_shard(self, index: int, count: int) -> Prepared | None:
        """The work of one of `count` jobs; `join_parts` makes the token files once all have ended.

        Data that is finished is returned.
        """
        if not 0 <= index < count:
            raise UsageError(f"shard {index}/{count}: expected 0/{count} to {count - 1}/{count}")
        if ready := self._finished():
            return ready
        plan = self._plan()
        self._work(plan, plan.units[index::count], "processes")
        done = len(plan.units) - len(plan.todo())
        self._log(f"shard {index}/{count}: done; {done} of {len(plan.units)} parts are there")
        return None

    def _finished(self) -> Prepared | None:
        ready = self._request.find(self._out)
        if ready:
            again = f"delete {PREPARED} to prepare it again"
            self._log(f"{self._out}: prepared before, used as it is; {again}")
        return ready

    # ---- the plan ------------------------------------------------------------------------------

    def _plan(self) -> Plan:
        """The plan of an earlier try, or a new one."""
        plan = self._earlier_plan()
        if plan is not None:
            done = len(plan.units) - len(plan.todo())
            self._log(f"{self._out}: continues, {done} of {len(plan.units)} parts are there")
            return plan
        plan, tok = self._new_plan()
        with _one_at_a_time(make_folder(self._out)):
            earlier = self._earlier_plan()
            if earlier is not None or self._request.find(self._out):
                return earlier or plan
            tok.save(Prepared(self._out, {}).tokenizer_folder)
            plan.save()
        return plan

    def _earlier_plan(self) -> Plan | None:
        plan = Plan.find(self._out)
        if plan is not None:
            self._request.require_same(self._out, plan.note)
            if plan.note["fingerprint"] != self._request.fingerprint():
                raise UsageError(
                    f"{self._out}: the sources have changed since this was begun; "
                    f"delete {self._out / PARTS} to begin again"
                )
        return plan

    def _new_plan(self) -> tuple[Plan, Tokenizer]:
        """Read the corpus once, and train a tokenizer before any folder exists: unusable settings
        leave nothing behind."""
        request, log = self._request, self._log
        given = self._given_tokenizer()
        corpus = Corpus(
            request.sources, request.settings["max_bytes"], request.settings["json_key"]
        )
        work, duplicates = self._units(corpus)
        with Progress(corpus.size, "reading", log) as progress:
            total, each = measure(corpus, work, self._split, self._workers, progress)
        left_out = corpus.left_out + duplicates
        require_two_words(total, left_out, request.sources)
        split, hint = choose_split(_documents(corpus, work), total, self._split)
        _report(total, {"read": corpus.notes, "left out": left_out}, hint, log)
        tok = given or self._train_tokenizer(_documents(corpus, work), total, split)
        log(f"tokenizer: {tok.vocab_size} tokens")
        sized = [u._replace(size=m.bytes) for u, m in zip(work, each, strict=True)]
        note = request.note({"left_out": left_out, "notes": corpus.notes})
        return Plan(self._out, corpus.reading, split, sized, total.documents, note), tok

    def _units(self, corpus: Corpus) -> tuple[list[Unit], Tally]:
        work = units(corpus)
        if self._dedupe is None:
            return work, Tally()
        with Progress(corpus.size, "looking for duplicates", self._log) as progress:
            return without_duplicates(corpus.reading, work, self._dedupe, self._workers, progress)

    def _train_tokenizer(
        self, documents: Iterable[Document], total: Measured, split: Split
    ) -> Tokenizer:
        with Progress(total.bytes, "reading for the tokenizer", self._log) as progress:
            return train_tokenizer(_sample(documents, total, split, progress), self._vocab_size)

    def _given_tokenizer(self) -> Tokenizer | None:
        folder = self._request.tokenizer
        if folder is None:
            return None
        tok = Tokenizer.from_folder(folder)
        if tok.eod_token_id is None:
            raise UsageError(
                f"{folder}: the tokenizer has no `<|endoftext|>` to end documents with"
            )
        return tok

    # ---- the work ------------------------------------------------------------------------------

    def _work(self, plan: Plan, wanted: Sequence[Unit], engine: Engine) -> None:
        left = {u.number for u in plan.todo()}
        todo = [u for u in wanted if u.number in left]
        with Progress(sum(u.size for u in todo), "tokenising", self._log) as progress:
            if engine == "ray":
                from .ray_pool import run_units_on_ray

                run_units_on_ray(plan.task, todo, progress)
                return
            for _ in run_units(plan.task, todo, self._workers, progress):
                pass


def prepare(
    sources: str | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocab_size: int = 4096,
    max_bytes: int | None = None,
    valid_fraction: float = 0.02,
    seed: int = 0,
    json_key: str | None = None,
    dedupe: Dedupe | None = None,
    workers: int | None = None,
    log: Log = print,
) -> Prepared:
    """Tokenise `sources` ("stdlib", or files and folders) into `out`; a finished one is reused.

    `workers` processes do the work, by default one on each core; more text than a few seconds' work
    is needed for more than this one. What was left out is counted in the log and in
    `prepared.json`. Options and errors as `Preparation`.
    """
    return Preparation(
        sources,
        out,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        max_bytes=max_bytes,
        valid_fraction=valid_fraction,
        seed=seed,
        json_key=json_key,
        dedupe=dedupe,
        workers=workers,
        log=log,
    ).run()


def join_parts(out: str | Path, *, log: Log = print) -> Prepared:
    """The token files from the parts that all shards left in `out`.

    Of finished data nothing is done again. Raises `UsageError` when there are no parts or one is
    missing.
    """
    out = Path(out)
    if (out / PARTS).is_dir():
        with _one_at_a_time(out):
            plan = None if find_prepared(out) else Plan.find(out)  # another join may have ended
            if plan is not None:
                return join(plan, log)
    ready = find_prepared(out)
    if ready is None:
        raise UsageError(f"{out}: nothing to join; `ling data prepare --shard i/n` makes parts")
    log(f"{out}: joined before, used as it is")
    return ready


def _documents(corpus: Corpus, work: Sequence[Unit]) -> Iterator[Document]:
    return chain.from_iterable(u.documents(corpus.reading, Seen()) for u in work)


def _report(total: Measured, tallies: dict[str, Tally], hint: str, log: Log) -> None:
    log(f"corpus: {total.documents:,} documents, {size(total.bytes)} of text")
    for what, tally in tallies.items():
        for line in tally.lines():
            log(f"{what} {line}")
    if hint:
        log(hint)


def _sample(
    documents: Iterable[Document], total: Measured, split: Split, progress: Progress
) -> Iterator[str]:
    """Enough text to train a tokenizer on, spread over what is not held out."""
    share = MAX_TOKENIZER_BYTES / total.bytes
    for d in split.divided(documents):
        if not split.is_held_out(d) and (share >= 1 or fraction(f"{d.name}#bpe") < share):
            yield from long_parts(d.text)
        progress.add(len(d.text.encode()))


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Several processes of one training job prepare the same folder: the others wait."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
