"""`ling eval`: models by tasks, resumable at every batch of requests."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ..files.atomic import make_folder
from ..text import shown
from .kept import Kept
from .results import Result, ResultFile, table
from .scorer import Scorer
from .scorers.choose import Subject, labels
from .serving.client import Unreachable
from .tasks.task import Task

Log = Callable[[str], None]
PICTURE, TABLE = "results.png", "results.txt"


@dataclass(frozen=True)
class Evaluation:
    """What came out, and the models' short names in their order."""

    results: list[Result]
    models: list[str]
    names: list[str]

    @property
    def table(self) -> list[str]:
        """Lines of a table of all."""
        return table(self.results, self.models, self.names)


def evaluate(
    subjects: Sequence[Subject], tasks: Sequence[Task], out: Path | None, log: Log
) -> Evaluation:
    """Run every task on every model, whose results are saved in `out` one by one.

    What is whole in `out` already is not computed again; a model is loaded once, and only if it is
    needed. Raises `DataError`, `UsageError` or `CheckpointError` before anything runs where data or
    models are missing, and `RunError` where a server stops answering: the same call continues.
    """
    settings = {task.name: task.settings() for task in tasks}
    models = [_Opened(subject, log) for subject in subjects]
    if out is not None:
        _check_folders(subjects, out)
        make_folder(out)
    results = []
    for model in models:
        try:
            for task in tasks:
                results.append(_one(model, task, settings[task.name], out, log))
        except Unreachable as err:
            hint = "" if out is None else "; answers so far are kept, the same command continues"
            raise RunError(f"{err}{hint}") from None
        finally:
            model.close()
    names = [s.model for s in subjects]
    found = Evaluation(results, names, labels(names))
    if out is not None:
        _save(found, out, log)
    return found


def _check_folders(subjects: Sequence[Subject], out: Path) -> None:
    """Raises `UsageError` for two models whose results would replace each other's."""
    seen: dict[str, str] = {}
    for subject in subjects:
        other = seen.setdefault(subject.file_name, subject.model)
        if other != subject.model:
            raise UsageError(
                f"the results of {shown(other)} and {shown(subject.model)} would both be in "
                f"{out / subject.file_name}; evaluate them into two `--out` folders"
            )


class _Opened:
    """A model that is loaded at the first need."""

    def __init__(self, subject: Subject, log: Log) -> None:
        self.subject, self._log = subject, log
        self.described = subject.described()
        self._scorer: Scorer | None = None

    def scorer(self) -> Scorer:
        if self._scorer is None:
            self._log(f"{self.subject.model}: opening it")
            self._scorer = self.subject.open()
        return self._scorer

    def close(self) -> None:
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None  # two large models have no room beside each other


def _one(
    model: _Opened, task: Task, settings: dict[str, Any], out: Path | None, log: Log
) -> Result:
    subject = model.subject
    file = ResultFile(out, subject.file_name, task.name) if out is not None else None
    whole = {**settings, "model": model.described}
    if file is not None:
        if (done := file.read(whole)) is not None:
            log(f"{subject.model}, {task.name}: done before")
            return done
        if file.path.exists():
            log(f"{file.path}: of other settings, or not whole; computed again")
        file.prepare()
    start = time.monotonic()
    kept = Kept(model.scorer, model.described, file.answers if file is not None else None)
    kept.title = task.name
    result = Result(subject.model, task.name, task.run(subject, kept))
    if file is not None:
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        file.write(result, whole, {"date": date, "seconds": round(time.monotonic() - start, 1)})
    log(f"{subject.model}, {task.name}: {result.outcome.headline} {result.headline:.4f}")
    return result


def _save(found: Evaluation, out: Path, log: Log) -> None:
    """The table and, of several models, the picture."""
    from ..files.atomic import write_atomic
    from .results_plot import draw

    write_atomic(out / TABLE, "".join(f"{line}\n" for line in found.table))
    if len(found.models) > 1 and (
        draw(found.results, found.models, found.names, out / PICTURE) is None
    ):
        log("no picture: it needs matplotlib, pip install 'ling[plot]'")
