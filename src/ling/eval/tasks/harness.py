"""Tasks of lm-eval, run by it on local data and asked of our scorers."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError, LingError, UsageError
from ...text import first_line
from ..kept import Kept
from ..scorers.choose import Subject
from .files import files_id
from .harness_data import leaves, write_tasks
from .task import Outcome, TaskOptions

NLTK_FOLDER = "nltk_data"
"""In the data folder: what `nltk` would fetch, for tasks that need it (IFEval)."""
_NOT_METRICS = ("alias", "name", "sample_len", "sample_count")


class HarnessTask:
    """A task, group or tag of lm-eval by its name there; `instead` suggests a task that is not."""

    def __init__(self, name: str, options: TaskOptions, instead: str = "") -> None:
        self.name, self._options, self._instead = name, options, instead

    def settings(self) -> dict[str, Any]:
        options = self._options
        data = options.folder
        if importlib.util.find_spec("lm_eval") is None:
            raise UsageError(
                f"no file {data / self.name}.jsonl{self._instead}; tasks of lm-eval need it: "
                "pip install 'ling[eval]'"
            )
        folders = [leaf.folder(data)[0] for leaf in leaves(self.name, task_index())]
        return {
            "task": self.name,
            "limit": options.limit,
            "num_fewshot": options.num_fewshot,
            "chat": options.chat,
            "lm_eval": _version(),
            "data": files_id(dict.fromkeys(folders)),
        }

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        from .harness_model import HarnessModel

        with tempfile.TemporaryDirectory() as folder, _as_data_errors(self._options.folder):
            write_tasks(self.name, task_index(), self._options.folder, Path(folder))
            results = self._evaluate(HarnessModel(scorer), folder)
        return outcome(self.name, results)

    def _evaluate(self, model: Any, folder: str) -> dict[str, Any]:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager

        _find_nltk_data(self._options.folder / NLTK_FOLDER)
        found = simple_evaluate(
            model,
            tasks=[self.name],
            num_fewshot=self._options.num_fewshot,
            limit=self._options.limit,
            apply_chat_template=self._options.chat,
            fewshot_as_multiturn=self._options.chat,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            log_samples=False,
            bootstrap_iters=1000,
        )
        assert found is not None  # only other ranks get nothing
        return dict(found)


@functools.cache
def task_index() -> Any:
    """All tasks that lm-eval knows; reading them takes it some ten seconds."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # of 14,000 tasks many names are twice
    return TaskManager().task_index


def outcome(name: str, results: dict[str, Any]) -> Outcome:
    """What lm-eval returned as ours: metrics of the task itself, or of each task of a tag, under
    the names that lm-eval has for them."""
    tables = results["results"]
    own = tables.get(name) or results.get("groups", {}).get(name) or {}
    metrics = _metrics(own)
    for task, table in tables.items():
        if task != name:
            metrics |= {f"{task}/{key}": value for key, value in _metrics(table).items()}
    headline = next((key for key in metrics if "_stderr" not in key), None)
    if headline is None:
        raise DataError(f"lm-eval measured nothing for `{name}`")
    task, _, metric = headline.rpartition("/")
    better = results.get("higher_is_better", {}).get(task or name, {})
    counts = [c.get("effective", 0) for c in results.get("n-samples", {}).values()]
    return Outcome(
        metrics,
        headline,
        higher_is_better=better.get(metric.split(",")[0]) is not False,
        count=sum(counts),
        details={"versions": results.get("versions", {})},
    )


def _metrics(table: dict[str, Any]) -> dict[str, float]:
    """The numbers of a table, named `metric` where no filter is meant, else `metric,filter`."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in table.items()
        if key not in _NOT_METRICS and isinstance(value, (int, float))
    }


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


def _find_nltk_data(folder: Path) -> None:
    if folder.is_dir():
        with contextlib.suppress(ImportError):
            import nltk

            if str(folder) not in nltk.data.path:
                nltk.data.path.insert(0, str(folder))


@contextlib.contextmanager
def _as_data_errors(data: Path) -> Iterator[None]:
    """What lm-eval and `datasets` raise for data that they cannot read, as one line."""
    try:
        yield
    except LingError:
        raise
    except Exception as err:  # `datasets` and jinja2 have errors of their own
        if "punkt_tab" in str(err):
            folder = data / NLTK_FOLDER
            raise DataError(
                "no such folder; nltk's sentence splitter is wanted there: "
                f"python -m nltk.downloader -d {folder} punkt_tab",
                path=folder,
            ) from err
        cause = err.__cause__ or err  # `datasets` has the words about a bad line there
        kind = type(cause).__name__
        raise DataError(f"lm-eval stopped ({kind}: {first_line(cause)})", path=data) from err
