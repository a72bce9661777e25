"""Which task a name means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import DataError, UsageError
from ...text import nearest
from ..code.problems import holds_problems
from .harness import HarnessTask
from .programs import Programs
from .questions import QuizSettings
from .quiz import Quiz
from .suites import SUITES
from .task import Task, TaskOptions
from .text import BitsPerByte, Perplexity

_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".jsonl.zst")
TEXT_TASKS: dict[str, Callable[[TaskOptions], Task]] = {"ppl": Perplexity, "bpb": BitsPerByte}


def tasks_named(text: str, options: TaskOptions) -> list[Task]:
    """The tasks of a list such as `ppl,hmmt,gsm8k`, each once; raises `UsageError` and `DataError`
    for what is none, or has no data."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise UsageError("`--tasks` is a list such as `ppl,gsm8k`, without empty names")
    return [task_named(name, options) for name in names]


def task_named(name: str, options: TaskOptions) -> Task:
    """`ppl` and `bpb`; else a file NAME.jsonl (or packed, `_ENDINGS`) of questions or programming
    problems in the data folder; else a task of lm-eval."""
    if Path(name).name != name:  # it becomes the name of files, in `--data` and in `--out`
        raise UsageError(f"no task `{name}`; give names, and the folder of their data as `--data`")
    if name in TEXT_TASKS:
        return TEXT_TASKS[name](options)
    folder = options.folder
    suite = SUITES.get(name)
    defaults = suite.settings if suite else QuizSettings()
    for path in (folder / f"{name}{ending}" for ending in _ENDINGS):
        if path.is_file() and holds_problems(path):
            return Programs(name, path, options)
        if path.is_file():
            return Quiz(name, path, options, defaults)
    if suite:
        path = folder / f"{name}.jsonl"
        raise DataError(f"no such file; `{name}` needs it: {suite.how(str(path))}", path=path)
    own = [
        *TEXT_TASKS,
        *SUITES,
        *(path.name.split(".jsonl")[0] for path in folder.glob("*.jsonl*")),
    ]
    return HarnessTask(name, options, nearest(name, own))
