"""A reader's check of the figures in README and docs, against what gives them.

    python benchmarks/check_figures.py [--list]     # or scripts/check_figures

`figures.yaml` names passages of the docs, with `{}` for each figure, and where each figure is from:
counted or computed here and now, or a committed file of results. A figure must be the value as it
is rounded in the text. Also every section of these files that states a speed, a time or a share
must name a command, but for those that `figures.yaml` lists as limits and settings. Exits with 1
where something is off.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ling.files.atomic import read_json
from ling.model.size import describe
from ling.presets import preset
from ling.reproduce.claim import Context, Result
from ling.reproduce.registry import claim

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "figures.yaml"
_NUMBER = r"[-+−]?\d[\d,]*(?:\.\d+)?"
UNITS = {
    "": 1.0,
    "%": 0.01,
    "K": 1e3,
    "M": 1e6,
    "B": 1e9,
    "T": 1e12,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
}
MEASURED = re.compile(
    r"\d (?:million )?(?:tokens/s|tokens a second|[GM]B/s|[TG]FLOP/s)"
    r"|\d (?:ms|s|seconds|minutes|hours)\b|\d ?%"
)
COMMAND = re.compile(
    r"(?:^|[`\s.;])(?:ling [a-z]|python |torchrun|pytest |scripts/|benchmarks/\w+\.py|/usr/bin)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Finding:
    """Something that is not as the docs say."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


# ---- figures -----------------------------------------------------------------------------------


def check(entry: dict[str, Any], root: Path = ROOT) -> Iterator[Finding]:
    """What is off in one entry of the table."""
    where = entry["file"]
    text = (root / where).read_text("utf-8")
    if "command" in entry:
        yield from _same_as_output(entry, text, root)
        return
    found = _matches(entry["text"], text)
    if len(found) != 1:
        yield Finding(where, f"{len(found)} passages are like `{entry['text']}`, expected one")
        return
    if len(found[0]) != len(entry["figures"]):
        yield Finding(
            where, f"`{entry['text']}` has {len(found[0])} figures, the table has another number"
        )
        return
    for printed, figure in zip(found[0], entry["figures"], strict=True):
        value = value_of(figure, root) / UNITS[figure.get("unit", "")]
        if not is_rounding(printed, value):
            yield Finding(
                where, f"`{entry['text']}` has {printed}, {_source(figure)} gives {value:.10g}"
            )


def _matches(pattern: str, text: str) -> list[tuple[str, ...]]:
    """The figures of each passage of the pattern; line breaks are spaces."""
    words = re.escape(" ".join(pattern.split()))
    words = words.replace(r"\{\}", f"({_NUMBER})").replace(r"\ ", r"\s+")
    found = re.findall(words, text)
    return [one if isinstance(one, tuple) else (one,) for one in found]


def is_rounding(printed: str, value: float) -> bool:
    """Whether a printed number is the value, rounded to as many digits."""
    plain = printed.replace(",", "").replace("−", "-")
    digits = len(plain.partition(".")[2])
    return abs(float(plain) - value) <= 0.5 * 10**-digits * (1 + 1e-9)


def value_of(figure: dict[str, Any], root: Path = ROOT) -> float:
    """The value behind a figure; raises `KeyError` or `ValueError` where the table is wrong."""
    if "preset" in figure:
        return float(_at(describe(preset(figure["preset"])), figure["key"]))
    if "json" in figure:
        return float(_at(read_json(root / figure["json"]), figure["key"]))
    result = measured(figure["claim"])
    value = next((f.value for f in result.figures if f.what == figure["figure"]), None)
    if value is None:
        raise ValueError(f"`{figure['figure']}` of `{figure['claim']}` has no number")
    return value


@cache
def measured(name: str) -> Result:
    """A claim of `ling reproduce` that takes seconds, at its quick scale; leaves no files."""
    import tempfile

    one = claim(name)
    if one.quick.budget_s > 30:
        raise ValueError(f"`{name}` takes more than seconds: quote its committed record")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        return one.measure(Context(scale=one.quick, work=work, shared=work, log=lambda line: None))


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part) if isinstance(tree, list) else part]
    return tree


def _source(figure: dict[str, Any]) -> str:
    return " ".join(
        str(figure[k]) for k in ("preset", "json", "claim", "key", "figure") if k in figure
    )


def _same_as_output(entry: dict[str, Any], text: str, root: Path) -> Iterator[Finding]:
    """A file that a command writes is what it writes today."""
    command = [sys.executable, "-m", *entry["command"].split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode or done.stdout.strip() != text.strip():
        yield Finding(entry["file"], f"is not what `{entry['command']}` prints")


# ---- commands beside figures -------------------------------------------------------------------


def pages(root: Path = ROOT) -> list[Path]:
    """README and docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def without_command(text: str) -> list[str]:
    """Headings of the sections that state a speed, a time or a share, and name no command. A page
    that a command wrote says so in its head."""
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    if re.search(r"(?:Written|Made) by\s+`", head):
        return []
    found = [s for s in sections if MEASURED.search(s) and not COMMAND.search(s)]
    return [s.partition("\n")[0] for s in found]


def unsourced(limits: dict[str, list[str]], root: Path = ROOT) -> Iterator[Finding]:
    """Sections of README and docs `without_command`. `limits` has, by file, the headings of those
    whose numbers nobody measured; one that is not needed any more is a finding, too."""
    left = {(name, heading) for name, headings in limits.items() for heading in headings}
    for page in pages(root):
        name = str(page.relative_to(root))
        for heading in without_command(page.read_text("utf-8")):
            if (name, heading) in left:
                left.remove((name, heading))
            else:
                yield Finding(name, f"section `{heading}` states a measurement without a command")
    for name, heading in sorted(left):
        yield Finding(name, f"section `{heading}` needs no place among the limits")


def main() -> int:
    """Check all, print what is off; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="the passages, and where each is from")
    args = parser.parse_args()
    table = yaml.safe_load(TABLE.read_text("utf-8"))
    entries = table["figures"]
    if args.list:
        for entry in entries:
            sources = dict.fromkeys(map(_source, entry.get("figures", [])))
            print(f"{entry['file']}: {entry.get('command') or '; '.join(sources)}")
        return 0
    findings = [finding for entry in entries for finding in check(entry)]
    findings += unsourced(table["limits"])
    for finding in findings:
        print(finding)
    count = sum(len(entry.get("figures", [0])) for entry in entries)
    print(f"{count} figures checked, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
