"""docs/architecture.md names every source file once, and none that is not there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_source_file_is_described_once():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = Counter(re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE))
    assert not [name for name, times in named.items() if times > 1]
    package = ROOT / "src" / "ling"
    there = {
        str(p.relative_to(package)) for p in package.rglob("*.py") if p.name != "__init__.py"
    } | {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert set(named) == there
