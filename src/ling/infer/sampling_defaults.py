"""How a model wants to be sampled: the numbers that `generation_config.json` recommends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from ..files.guarded import loads, read_regular
from ..text import one_line, printable
from .request import SamplingParams

log = logging.getLogger("ling")

FILE = "generation_config.json"
NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
MAX_BYTES = 1 << 20


def sampling_defaults(folder: Path | None) -> dict[str, Any]:
    """Fields of `SamplingParams` that a model's folder recommends; nothing without the file.

    A value that no request could have is left out with a warning. `do_sample: false` means greedy,
    as in transformers, where the file comes from. Raises `CheckpointError` for a file that is no
    JSON object.
    """
    path = folder / FILE if folder is not None else None
    if path is None or not path.is_file():
        return {}
    given = _read(path)
    taken: dict[str, Any] = {}
    for name in NAMES:
        if given.get(name) is None:
            continue
        try:
            SamplingParams(**{name: given[name]})
        except RequestError as error:
            log.warning("%s: %s; not taken", printable(str(path)), one_line(str(error)))
        else:
            taken[name] = given[name]
    if given.get("do_sample") is False:
        kept = {k: v for k, v in taken.items() if k == "repetition_penalty"}
        taken = {"temperature": 0.0, **kept} if taken else {}
    if taken:
        log.info("sampling defaults from %s: %s", FILE, in_words(taken))
    return taken


def in_words(defaults: dict[str, Any]) -> str:
    """Names and values for a log line."""
    return ", ".join(f"{name} {value}" for name, value in defaults.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        value = loads(read_regular(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
