"""What an evaluation consists of: a task, whom it asks, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import DataError

if TYPE_CHECKING:
    from ..kept import Kept
    from ..scorers.choose import Subject


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What a run asks of its tasks."""

    data: tuple[str, ...]
    """Files of text for `ppl` and `bpb`; one folder for all other tasks."""
    limit: int | None = None
    """Questions (of `ppl` rows) at most."""
    num_fewshot: int | None = None
    """Examples before a question, where the task's own number is not wanted."""
    chat: bool = False
    """Ask in the model's chat template."""
    run_code: bool = False
    """Run programs that a model writes, in the sandbox."""
    seq_length: int | None = None
    """Tokens per row of `ppl`."""

    @property
    def folder(self) -> Path:
        """The folder of the data; raises `DataError` where there is not one folder."""
        if len(self.data) != 1 or not Path(self.data[0]).is_dir():
            raise DataError("expected one folder with the tasks' data", path=self.data[0])
        return Path(self.data[0])


@dataclass(frozen=True)
class Outcome:
    """What a task measured; `headline` is the metric that tables and pictures show."""

    metrics: dict[str, Any]
    headline: str
    higher_is_better: bool = True
    count: int = 0
    """Questions or windows."""
    details: dict[str, Any] = field(default_factory=dict)
    """What explains the metrics: versions, what was left out."""


class Task(Protocol):
    """Something to measure of a model."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What the outcome depends on, data included, as JSON; another outcome is computed when it
        changes. Raises `DataError` or `UsageError` where data are missing, naming the files."""
        ...

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        """Measure it."""
        ...
