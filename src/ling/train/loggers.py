"""Where the rows of a run go besides `metrics.jsonl`: TensorBoard, W&B, trackio, as installed.

None of them may end a run: one that fails while it runs is left out from there on.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..config.kinds import Recipe
from ..errors import UsageError
from ..files.atomic import write_atomic
from ..text import first_line

# Of values by rank this many go to a logger: each is a curve of its own there.
_MAX_RANKS = 64


class Logger(Protocol):
    """Takes the numbers of a row by name."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def check_loggers(names: Sequence[str] | None) -> None:
    """Raise `UsageError`, with the command that installs it, for one that is not installed."""
    for name in names or ():
        if not _is_installed(name):
            raise UsageError(f"`train.loggers` has `{name}`, not installed: pip install {name}")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def open_loggers(
    recipe: Recipe, out: Path, first_step: int, log: Callable[[str], None]
) -> list[Logger]:
    """Those that the recipe names; by default TensorBoard, if it is installed.

    One that does not start is an error of a new run, and left out of one that continues.
    """
    names = recipe.train.loggers
    if names is None:
        names = ["tensorboard"]
        if not _is_installed("tensorboard"):
            log("no TensorBoard (pip install tensorboard): metrics go to metrics.jsonl alone")
            return []
    found: list[Logger] = []
    for name in names:
        try:
            logger = _OPEN[name](recipe, out, first_step)
        except Exception as err:
            problem = f"`train.loggers`: {name} does not start: {first_line(err)}"
            if first_step == 1:
                raise UsageError(f"{problem}; mend it, or leave {name} out") from None
            log(f"{problem}; the run continues without it")
            continue
        found.append(_Careful(name, logger, log))
    return found


class _Careful:
    """A logger that is left out after its first error."""

    def __init__(self, name: str, logger: Logger, log: Callable[[str], None]) -> None:
        self._name, self._logger, self._log, self._failed = name, logger, log, False

    def write(self, step: int, values: dict[str, float]) -> None:
        self._try(lambda: self._logger.write(step, values))

    def close(self) -> None:
        self._try(self._logger.close)

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as err:
            self._failed = True
            self._log(f"{self._name} failed ({first_line(err)}); the run continues without it")


class TensorBoard:
    """Event files in `OUT/tensorboard`; steps that run again replace the old ones."""

    def __init__(self, recipe: Recipe, out: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """W&B or trackio, which have the same calls; a run that continues is the same run there."""

    def __init__(self, name: str, recipe: Recipe, out: Path, first_step: int) -> None:
        module: Any = importlib.import_module(name)
        key = _run_key(out)
        # trackio knows runs by their names, W&B by ids.
        identity = {"name": f"{out.name}-{key}"}
        if name == "wandb":
            identity = {"name": out.name, "id": key, "dir": str(out)}
        self._run: Any = module.init(
            project=os.environ.get("WANDB_PROJECT", "ling"),
            config=dataclasses.asdict(recipe),
            resume="allow",
            **identity,
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _run_key(out: Path) -> str:
    """A name that no other run has, kept in the run folder."""
    path = out / "run_key"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4))
    return path.read_text("utf-8").strip()


_OPEN: dict[str, Callable[[Recipe, Path, int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda *args: Tracker("wandb", *args),
    "trackio": lambda *args: Tracker("trackio", *args),
}


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row; those of tables as `table/key`, those by rank as `ranks/name/rank`."""
    return dict(_numbers("", row))


def _numbers(prefix: str, table: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in table.items():
        if prefix == "ranks/":
            each = list(enumerate(value))[:_MAX_RANKS]
            yield from ((f"{prefix}{key}/{rank}", number) for rank, number in each)
        elif isinstance(value, dict):
            yield from _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, (int, float)):
            yield f"{prefix}{key}", value
