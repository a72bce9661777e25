"""The evidence on the README's first screen: a marked block, rewritten from committed records."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..errors import UsageError
from ..files.atomic import write_atomic
from .page import outcome, table
from .record import Record
from .registry import claim
from .run import records_in

BEGIN = "<!-- begin of `ling reproduce --readme README.md`: edits between these marks are lost -->"
END = "<!-- end of `ling reproduce --readme README.md` -->"
QUOTED = (
    "decode",
    "throughput",
    "needle",
    "fp8-loss",
    "wsm",
    "mtp",
    "balance",
    "leverage",  # once it was measured
    "sizes",
    "kv-bytes",
    "fp8-states",
    "conversion",
)
"""In this order; the others are in the index."""
PICTURES = ("decode", "fp8-loss", "wsm", "balance")
"""Whose picture is shown: the first of these that there is."""


def write_block(readme: Path, claims: Path) -> str:
    """Rewrite the block of `readme` from the records of the folder `claims`; returns what was done.

    Quoted are records that git tracks, of full scale, whose first figure is no formula. Raises
    `UsageError` for a file without the marks.
    """
    text, count = updated(readme, claims)
    write_atomic(readme, text)
    return f"{readme}: {count} claims"


def updated(readme: Path, claims: Path) -> tuple[str, int]:
    """The text of `readme` with its block as the records have it, and how many are quoted."""
    try:
        text = readme.read_text("utf-8")
    except OSError as err:
        raise UsageError(f"{readme}: cannot be read: {err.strerror}") from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{readme}: no line `{BEGIN}` with `{END}` after it")
    tracked = _tracked(claims)
    found = records_in(claims)
    records = {
        name: found[name]
        for name in QUOTED
        if name in found and f"{name}.json" in tracked and _is_evidence(found[name])
    }
    return f"{head}{BEGIN}\n{block(records, claims, readme)}{END}{tail}", len(records)


def _is_evidence(record: Record) -> bool:
    return not record.quick and record.headline.how not in ("formula", "planned")


def block(records: dict[str, Record], claims: Path, readme: Path) -> str:
    """What is between the marks."""
    if not records:
        return ""
    where = _from(readme, claims)
    rows = []
    for name, record in records.items():
        one, first = claim(name), record.headline
        rows.append(
            (
                f"[{one.title}]({where}/{name}.md)",
                first.published or one.published,
                f"{first.what}: {first.here} ({first.how}; {outcome(record, first)})",
                f"`{record.command}`",
            )
        )
    parts = [
        table(("claim of Ling 2.0", "published", "here", "command"), rows),
        f"Each page says what differs in scale. [All 43 claims]({where}/README.md), also "
        "those that cannot be reproduced here, with the reason.",
    ]
    shown = next((n for n in PICTURES if n in records and (claims / f"{n}.png").is_file()), None)
    if shown is not None:
        parts.append(f"![{claim(shown).title}]({where}/{shown}.png)")
    return "\n" + "\n\n".join(parts) + "\n\n"


def _from(readme: Path, claims: Path) -> str:
    try:
        return claims.resolve().relative_to(readme.resolve().parent).as_posix()
    except ValueError:
        raise UsageError(f"{claims}: not below the folder of {readme}") from None


def _tracked(folder: Path) -> set[str]:
    """Names of the files that git tracks there."""
    found = subprocess.run(
        ["git", "-C", str(folder), "ls-files"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise UsageError(
            f"{folder}: not in a clone of the repository, so nothing is committed there"
        )
    return set(found.stdout.split())
