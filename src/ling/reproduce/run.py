"""Reproducing claims one after the other: each once, and a failing one stops no other."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LingError, UsageError
from ..files.atomic import make_folder, write_atomic
from ..ops.cores import FreeCores
from ..ops.processes import family_cpu_s
from ..text import first_line
from .claim import Claim, Context
from .page import claim_page, index_page, outcome
from .record import Record, commit_here, find_record, made
from .registry import NAMES
from .rows import read_rows

Log = Callable[[str], None]

FULL, QUICK = Path("docs/evidence/claims"), Path("runs/reproduce/quick")
"""Where pages are written unless `--out` says otherwise: quick ones never replace full ones."""
WORK = Path("runs/reproduce/work")
# In a claim's folder of work: what the starts took that did not end.
_SPENT = "seconds"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How claims are reproduced."""

    out: Path
    quick: bool = False
    work: Path = WORK
    again: bool = False
    """Also what was measured before with the same settings."""
    seed: int = 0


def say(text: str) -> None:
    """Print a line, also into a file, now."""
    print(text, flush=True)


def reproduce(claims: Sequence[Claim], options: Options, log: Log = say) -> list[str]:
    """Measure what is not measured yet, write pages and index; returns the names that failed."""
    out = make_folder(options.out)
    try:
        return _each(claims, options, log)
    finally:  # also after an interruption
        write_index(out)


def _each(claims: Sequence[Claim], options: Options, log: Log) -> list[str]:
    failed: list[str] = []
    commit = commit_here()  # before pages change what git tracks
    for at, claim in enumerate(claims, 1):
        where = f"[{at}/{len(claims)}] {claim.name}"
        try:
            if not _is_kept(claim, options, where, log):
                _measure_and_keep(claim, options, commit, where, log)
        except Exception as err:  # whatever went wrong with one claim, the others are measured
            if len(claims) == 1:
                raise
            log(f"{where}: failed: {err if isinstance(err, LingError) else first_line(err)}")
            failed.append(claim.name)
    return failed


def _is_kept(claim: Claim, options: Options, where: str, log: Log) -> bool:
    """Whether the folder has the claim at these settings; writes its page again, as the claim's
    words may be newer. Raises `UsageError` where quick results would replace full ones."""
    out: Path = options.out
    found = find_record(out, claim.name)
    if found is None:
        return False
    same = found.settings == settings_of(claim, options)
    if options.quick and not found.quick and (options.again or not same):
        raise UsageError(
            f"{out}: has `{claim.name}` at full scale, which a quick result would replace; use "
            "another --out"
        )
    # A quick record of a claim with one scale only is made again, to say that it is full.
    if options.again or not same or (found.quick and not options.quick):
        return False
    try:
        _write_page(claim, found, out, is_new=False)
    except (KeyError, TypeError, ValueError, IndexError):
        log(f"{where}: {claim.name}.json is damaged, measured again")
        return False
    when = f"measured on {found.date} with these settings, on {found.machine}"
    log(f"{where}: {when}; --again repeats it here")
    return True


def _measure_and_keep(claim: Claim, options: Options, commit: str, where: str, log: Log) -> None:
    log(f"{where}: {claim.title}, up to {_minutes(claim.scale(options.quick).budget_s)}")
    record = _measured(claim, options, commit, log)
    record.save(options.out)
    _write_page(claim, record, options.out, is_new=True)
    first = record.headline
    log(f"{where}: {first.what}: {first.here}; {outcome(record)}")


def settings_of(claim: Claim, options: Options) -> dict[str, Any]:
    """What a measurement depends on, as a record has it."""
    return {**claim.scale(options.quick).settings, "seed": options.seed}


def write_index(out: Path) -> None:
    """The page with all rows of the table."""
    rows, sources = read_rows()
    write_atomic(out / "README.md", index_page(rows, sources, records_in(out)))


def records_in(out: Path) -> dict[str, Record]:
    """The records of a folder by claim."""
    found = {name: find_record(out, name) for name in NAMES}
    return {name: record for name, record in found.items() if record is not None}


def _measured(claim: Claim, options: Options, commit: str, log: Log) -> Record:
    work = work_folder(claim, options)
    if options.again:
        shutil.rmtree(work, ignore_errors=True)
    context = Context(
        scale=claim.scale(options.quick),
        work=make_folder(work),
        shared=make_folder(options.work / "shared"),
        log=lambda text: log(f"    {text}"),
        seed=options.seed,
    )
    cores, start = FreeCores(own=family_cpu_s), time.monotonic()
    spent = work / _SPENT
    before = float(spent.read_text()) if spent.is_file() else 0.0
    try:
        result = claim.measure(context)
    except BaseException:
        write_atomic(spent, f"{before + time.monotonic() - start:.1f}")
        raise
    spent.unlink(missing_ok=True)
    return made(
        claim.name,
        result,
        quick=options.quick,
        settings=settings_of(claim, options),
        command=command_of(claim, options),
        commit=commit,
        seconds=before + time.monotonic() - start,
        cores=cores,
    )


def work_folder(claim: Claim, options: Options) -> Path:
    """Where runs and weights of these settings are: a run of others could not be continued."""
    settings = json.dumps(settings_of(claim, options), sort_keys=True)
    return options.work / f"{claim.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def command_of(claim: Claim, options: Options) -> str:
    """What to type to get the record again."""
    flags = [" --quick"] if options.quick else []
    flags += [f" --seed {options.seed}"] if options.seed else []
    return f"ling reproduce {claim.name}{''.join(flags)}"


def _write_page(claim: Claim, record: Record, out: Path, *, is_new: bool) -> None:
    picture = out / f"{claim.name}.png"
    if claim.draw is not None:
        try:
            claim.draw(record.data, picture)
        except ImportError:  # no matplotlib: an older record keeps the picture that it has
            if is_new:
                picture.unlink(missing_ok=True)
    write_atomic(out / f"{claim.name}.md", claim_page(claim, record, picture=picture.is_file()))


def _minutes(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
