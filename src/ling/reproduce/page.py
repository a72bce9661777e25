"""Pages: one for each claim, and the index with all rows of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .claim import Claim, Figure
from .record import Record
from .registry import NAMES
from .rows import Row

HOW = {
    "counted": "counted",
    "formula": "published formula",
    "planned": "planned",
    "measured": "measured",
    "committed": "committed result",
}
OUTCOMES = {
    "agrees": "agrees",
    "partly": "agrees in part",
    "disagrees": "disagrees",
    "open": "cannot tell",
}


def outcome(record: Record, figure: Figure | None = None) -> str:
    """Of a claim, or of one of its figures, in words: what was measured has a scale, what was
    counted or computed has none."""
    of = figure or record.headline
    words = OUTCOMES[(figure and figure.outcome) or record.outcome]
    return f"{words} at this scale" if of.how in ("measured", "committed") else words


def status(row: Row, records: Mapping[str, Record]) -> str:
    """That of the row; it is planned where its figure was computed from formulas, and nothing is
    reproduced before it was run."""
    if not row.by:
        return row.status
    record = records.get(row.by)
    if record is None:
        return "not run yet"
    computed = record.figure_of(row.number).how in ("formula", "planned")
    return "planned" if computed else row.status


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |" for line in lines
    )


def claim_page(claim: Claim, record: Record, *, picture: bool) -> str:
    """The page of a reproduced claim."""
    figures = [(f.what, f.published or "–", f.here, HOW[f.how]) for f in record.figures]
    settings = ", ".join(f"{key} {_said(value)}" for key, value in record.settings.items())
    parts = [
        f"# {claim.title}",
        f"Written by `{record.command}`; the numbers are in "
        f"[{claim.name}.json]({claim.name}.json).",
        f"**Claimed** ({claim.source}): {claim.published}",
        f"**Here: {outcome(record)}.** {record.verdict}",
        table(("figure", "published", "here", "how"), figures),
    ]
    if picture:
        parts.append(f"![{claim.title}]({claim.name}.png)")
    parts += [f"## What differs\n\n{claim.differs}", "## How it was made"]
    made = [
        ("command", f"`{record.command}`"),
        ("scale", f"{'quick' if record.quick else 'full'}; {settings}"),
        ("commit", record.commit),
        ("machine", f"{record.machine}, {record.cores} cores in use; {record.load}"),
        ("date", record.date),
        ("time", _time(record.seconds)),
    ]
    if claim.by_hand:
        made.append(("at a larger scale", f"`{claim.by_hand}`"))
    parts.append(table(("what", "value"), made))
    return "\n\n".join(parts) + "\n"


def index_page(
    rows: Sequence[Row], sources: Mapping[str, str], records: Mapping[str, Record]
) -> str:
    """All rows of the table, and the claims of `ling reproduce` that are no row of it."""
    parts = [
        "# Every claim of Ling 2.0, and what became of it here",
        "Written by `ling reproduce`. A claim is *reproduced* (by a command, at a scale that "
        "two cores can do), *planned* (computed, or measured by another command), or *not "
        f"reproducible here*, with the reason. {_counts(rows, records)}",
        table(
            ("#", "claim", "published", "source", "status", "here, or why not"),
            [
                (
                    str(r.number),
                    r.claim,
                    r.published,
                    r.source,
                    status(r, records),
                    _here(r, records),
                )
                for r in rows
            ],
        ),
        "Sources: " + "; ".join(f"{key}: {text}" for key, text in sources.items()) + ".",
    ]
    others = [name for name in NAMES if name not in {r.by for r in rows}]
    if others:
        parts += [
            "## Beyond the table",
            table(("claim", "here"), [(f"`{n}`", _of_claim(n, records)) for n in others]),
        ]
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    """The same for a terminal: a line for each row."""
    lines = []
    for row in rows:
        record = records.get(row.by)
        what = f"`{row.by}`, not run yet" if row.by else row.planned or row.not_here
        if record is not None:
            found = record.figure_of(row.number)
            what = f"{row.by}: {found.here} ({outcome(record, found)})"
        lines.append(
            f"{row.number:3}  {_cut(row.claim, 46):46}  {status(row, records):22}  {_cut(what, 70)}"
        )
    return "\n".join([*lines, "", _counts(rows, records)])


def _counts(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    counts = Counter(status(row, records) for row in rows)
    return f"Of {len(rows)} claims: {', '.join(f'{n} {words}' for words, n in counts.items())}."


def _here(row: Row, records: Mapping[str, Record]) -> str:
    return _of_claim(row.by, records, row.number) if row.by else row.planned or row.not_here


def _of_claim(name: str, records: Mapping[str, Record], row: int = 0) -> str:
    record = records.get(name)
    if record is None:
        return f"not run yet: `ling reproduce {name}`"
    found = record.figure_of(row) if row else record.headline
    return f"[{found.what}: {found.here}]({name}.md), {outcome(record, found)}"


def _said(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
