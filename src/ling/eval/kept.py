"""Answers of a model that are kept in a file as they come: an evaluation that stopped, for whatever
reason, asks only for the rest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import RunError, UsageError
from ..files.atomic import write_atomic
from .scorer import Ask, Messages, Row, Scored, Scorer

BATCH = 64
"""Requests that are asked at once, and are lost when the run stops among them."""
T = TypeVar("T")


class Kept:
    """A `Scorer` that asks another one, opened at the first need, for what the file `path` has not.

    The file has a line for the model, `described`, and one for each answer, under a hash of the
    request. A file of another model is replaced, and of one that ends in half a line the whole
    lines are used. Without a path nothing is kept.
    """

    def __init__(
        self, scorer: Callable[[], Scorer], described: dict[str, Any], path: Path | None
    ) -> None:
        self._open, self._described, self._path = scorer, described, path
        self._scorer: Scorer | None = None
        self._answers = _read(path, described) if path is not None else {}
        self.title = "requests"
        """What the progress bar says."""

    @property
    def scorer(self) -> Scorer:
        """The model itself."""
        if self._scorer is None:
            self._scorer = self._open()
        return self._scorer

    @property
    def max_length(self) -> int:
        return self.scorer.max_length

    @property
    def end_id(self) -> int:
        return self.scorer.end_id

    @property
    def has_template(self) -> bool:
        return self.scorer.has_template

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.scorer.encode(text, special=special)

    def render(self, messages: Messages) -> str:
        return self.scorer.render(messages)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        keys = [_key("score", row) for row in rows]
        answers = self._all(keys, rows, lambda part: _finite(self.scorer.score(part)))
        return [Scored(*answer) for answer in answers]

    def generate(self, asks: Sequence[Ask]) -> list[str]:
        keys = [_key("generate", dataclasses.astuple(ask)) for ask in asks]
        return self._all(keys, asks, lambda part: self.scorer.generate(part))

    def close(self) -> None:
        """The model stays with who opened it."""

    def _all(
        self, keys: list[str], asked: Sequence[T], ask: Callable[[list[T]], Sequence[Any]]
    ) -> list[Any]:
        from tqdm import tqdm

        new = {key: item for key, item in zip(keys, asked, strict=True) if key not in self._answers}
        # Without a terminal no bar.
        with tqdm(total=len(keys), desc=self.title, unit="request", disable=None) as bar:
            bar.update(len(keys) - len(new))
            for part in _parts(list(new), BATCH):
                answers = dict(zip(part, ask([new[key] for key in part]), strict=True))
                self._append(answers)
                self._answers |= answers
                bar.update(len(part))
        return [self._answers[key] for key in keys]

    def _append(self, answers: dict[str, Any]) -> None:
        if self._path is None:
            return
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in answers.items()]
        if not self._path.exists():
            lines.insert(0, _head(self._described))
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def _head(described: dict[str, Any]) -> str:
    return json.dumps({"format": "ling-eval-answers", "version": 1, "model": described})


def _read(path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """The answers in a file, from which what is of no use is removed first."""
    try:
        *lines, half = path.read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise UsageError(f"{path}: unreadable ({err.strerror})") from None
    head = _head(described)
    if not lines or lines[0] != head:
        path.unlink()
        return {}
    found, whole = {}, [head]
    for line in lines[1:]:
        try:
            value = json.loads(line)
            key, answer = value["key"], value["answer"]
            if not isinstance(answer, str):
                _finite([Scored(float(answer[0]), bool(answer[1]))])
            found[key] = answer
        except (ValueError, LookupError, TypeError, RecursionError, RunError):
            break
        whole.append(line)
    if half or len(whole) < len(lines):
        write_atomic(path, "".join(f"{line}\n" for line in whole))
    return found


def _finite(scores: Sequence[Scored]) -> Sequence[Scored]:
    """Raises `RunError` for scores of which no choice is the best: a broken model has such."""
    for one in scores:
        if not math.isfinite(one.logprob):
            raise RunError(f"the model gives the log-probability {one.logprob}")
    return scores


def _key(kind: str, request: Any) -> str:
    return hashlib.sha256(json.dumps([kind, request]).encode()).hexdigest()[:32]


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))
