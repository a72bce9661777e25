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
PICTURES = ("decode", "fp8-loss", "wsm", "balance")
"""Whose picture is shown: the first of these that there is."""


def write_block(readme: Path, claims: Path) -> str:
    """Rewrite the block of `readme` from the records of the folder `claims`; returns what was done.

    Only records that git tracks and that are not quick ones are quoted. Raises `UsageError` for a
    file without the marks.
    """
    try:
        text = readme.read_text("utf-8")
    except OSError as err:
        raise UsageError(f"{readme}: cannot be read: {err.strerror}") from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{readme}: no line `{BEGIN}` with `{END}` after it")
    tracked = _tracked(claims)
    records = {
        name: record
        for name, record in records_in(claims).items()
        if f"{name}.json" in tracked and not record.quick
    }
    write_atomic(readme, f"{head}{BEGIN}\n{block(records, claims, readme)}{END}{tail}")
    return f"{readme}: {len(records)} claims"


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
                f"{first.what}: {first.here} ({first.how}; {outcome(record)})",
                f"`{record.command}`",
            )
        )
    parts = [
        table(("claim of Ling 2.0", "published", "here, on two cores", "command"), rows),
        f"All 43 claims, with what cannot be reproduced and why: [{where}]({where}/README.md).",
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
