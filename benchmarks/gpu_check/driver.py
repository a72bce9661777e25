"""Runs the stages: each in a process of its own, with a deadline, its results told one by one.

The processes are forked, so that torch is imported once; nothing here may touch CUDA before.
A check that hangs is ended with its process, and so is one that has broken the GPU's state; the
next process of the stage goes on behind it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from .record import Record
from .stage import Poisoned, Stage, one_line

# A stage's process is started again so often; each one had a check that hung or broke the GPU.
RESTARTS = 4
EXIT_S = 5.0
"""How long a process that has told all may take to end."""
_POISONED = 17


@dataclass(frozen=True)
class Plan:
    """A stage: its module here, which has `run(stage)`, and its share of the time."""

    module: str
    share: float


@dataclass(frozen=True)
class Options:
    """What all stages run with."""

    device: str
    tiny: bool
    fixtures: Path | None


def run_stages(
    plans: dict[str, Plan],
    names: list[str],
    record: Record,
    options: Options,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    """Run the stages of `names` in `seconds` in all; what one leaves, the others have."""
    end = time.time() + seconds
    for k, name in enumerate(names):
        shares = sum(plans[n].share for n in names[k:])
        limit_s = max(0.0, end - time.time()) * plans[name].share / shares
        run_stage(name, plans[name].module, record, options, limit_s, say)


def run_stage(
    name: str,
    module: str,
    record: Record,
    options: Options,
    limit_s: float,
    say: Callable[[str], None],
) -> None:
    """One stage; whatever it does, this returns soon after `limit_s`, with its end recorded."""
    start = time.time()
    record.begin(name, limit_s)
    say(f"{name}: at most {limit_s:.0f} s")
    status, error = "timeout", ""
    for _ in range(RESTARTS + 1):
        until = start + limit_s
        if time.time() >= until:
            break
        status, error = Child(name, module, record, options, until, say).watch()
        if status != "again":
            break
    status = "failed" if status == "again" else status
    record.end(name, status, time.time() - start, error)
    say(f"{name}: {status} after {time.time() - start:.0f} s{f' ({error})' if error else ''}")


class Child:
    """A process of a stage, and what it tells."""

    def __init__(
        self,
        stage: str,
        module: str,
        record: Record,
        options: Options,
        until: float,
        say: Callable[[str], None],
    ) -> None:
        self.stage, self.record, self.until, self.say = stage, record, until, say
        self.begun: dict[str, Any] | None = None
        self.check_until = until
        self.printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `watch`)
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        done = record.entries(stage)
        self.process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, self.printed.fileno(), module, options, until, done)
        )
        sys.stdout.flush()
        self.process.start()
        theirs.close()

    def watch(self) -> tuple[str, str]:
        """Take what it tells until its end; the stage's status (`again` to start once more) and
        an error."""
        with self.printed, self.pipe:
            ended = False
            try:
                ended = self._listen()
            finally:
                self._kill(EXIT_S if ended else 0.0)
            return self._status(ended)

    def _listen(self) -> bool:
        """Whether it ended by itself."""
        while (wait_s := min(self.until, self.check_until) - time.time()) > 0:
            if not self.pipe.poll(wait_s):
                continue
            try:
                kind, entry = self.pipe.recv()
            except EOFError:
                return True
            if kind == "begin":
                self.begun, self.check_until = entry, time.time() + entry["limit_s"]
            else:
                self.begun, self.check_until = None, self.until
                self._add(entry)
        return False

    def _status(self, ended: bool) -> tuple[str, str]:
        code = self.process.exitcode
        if ended and code == 0:
            return "done", ""
        if ended and code == _POISONED:
            return "again", "the GPU could not be used any more"
        tail = self._tail()
        if self.begun is not None:  # in the middle of a check
            name = self.begun["name"]
            status = "failed" if ended else "timeout"
            why = f"process ended with {code}: {tail}" if ended else f"over its time; {tail}"
            told = {k: v for k, v in self.begun.items() if k not in ("name", "limit_s")}
            self._add({"name": name, "status": status, "error": why, **told})
            return "again" if time.time() < self.until else "timeout", f"{name}: {status}"
        return ("failed", tail) if ended else ("timeout", "")

    def _add(self, entry: dict[str, Any]) -> None:
        self.record.add(self.stage, entry)
        told = " ".join(f"{k}={_short(v)}" for k, v in entry.items() if k not in ("name", "status"))
        self.say(f"  {entry['status']:8} {entry['name']}  {told}")

    def _tail(self) -> str:
        """The end of what the process printed."""
        size = self.printed.seek(0, os.SEEK_END)
        self.printed.seek(max(0, size - 800))
        return " ".join(self.printed.read().decode(errors="replace").split())

    def _kill(self, wait_s: float) -> None:
        """End it and what it has started, a compiler for example."""
        self.process.join(wait_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()  # where it has no group of its own yet
        self.process.join()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:160]


# ---- in the process of a stage -----------------------------------------------------------------


def _serve(
    pipe: Connection,
    printed: int,
    module: str,
    options: Options,
    until: float,
    done: dict[str, dict[str, Any]],
) -> None:
    torch.set_num_threads(1 if options.tiny else min(8, os.cpu_count() or 1))
    os.setsid()  # a group of its own, which is ended as one
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        stage = Stage(
            pipe,
            device=torch.device(options.device),
            tiny=options.tiny,
            fixtures=options.fixtures,
            until=until,
            done=done,
        )
        import_module(f".{module}", __package__).run(stage)
    except Poisoned:
        _exit(_POISONED)
    except BaseException as err:
        traceback.print_exc()
        print(one_line(err))  # last, where it is not cut off
        _exit(1)
    _exit(0)


def _exit(code: int) -> None:
    sys.stderr.flush()
    os._exit(code)  # nothing to clean up, and a broken GPU may hang at it
