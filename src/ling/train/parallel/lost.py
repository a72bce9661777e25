"""The end of a step in which one rank fails or is lost: one line of one rank, and no other."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch.distributed as dist

from ...errors import RunError
from .group import World, of_rank

# Words of the errors of gloo and NCCL when a peer has closed its sockets or is silent.
_LOST = ("connection", "timed out", "timeout", "socket", "gloo", "nccl", "peer")


def is_lost_rank(err: RuntimeError) -> bool:
    """Whether an error of a collective says that another rank is gone."""
    if isinstance(err, dist.DistError):
        return True
    return any(word in str(err).lower() for word in _LOST)


# How long a killed process may take to end and free its memory.
_ENDING_S = 2.0


def tells_first() -> bool:
    """Whether this rank is the first to find that another is gone: one tells, the others end."""
    try:
        return dist.distributed_c10d._get_default_store().add("lost", 1) == 1
    except RuntimeError:  # the store is gone too
        return True


def process_here() -> tuple[str, int]:
    """This host and process, for `ended_here`."""
    return socket.gethostname(), os.getpid()


def ended_here(processes: Sequence[tuple[str, int]]) -> list[int]:
    """The ranks whose processes were on this host and have ended.

    Waits a little for one: the connections of a process close before it has ended.
    """
    own, end = socket.gethostname(), time.monotonic() + _ENDING_S
    while True:
        ended = [rank for rank, (host, pid) in enumerate(processes) if host == own and _ended(pid)]
        if ended or time.monotonic() > end:
            return ended
        time.sleep(0.02)


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return state in "ZX"  # not collected by its parent yet


def first_line(err: RuntimeError) -> str:
    """What happened, without the place in torch's sources."""
    line = next(iter(str(err).strip().splitlines()), type(err).__name__)
    return line.rpartition("] ")[2].partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def naming_rank(world: World, shared: type[Exception]) -> Iterator[None]:
    """Around a step: an error of this rank alone gets the rank's name; the others, which lose this
    rank, end silently.

    Errors that are `shared` are raised by all ranks, and lost ranks are told of elsewhere.
    """
    try:
        yield
    except Exception as err:
        lost = isinstance(err, RuntimeError) and is_lost_rank(err)
        if world.size == 1 or lost or isinstance(err, shared):
            raise
        named = of_rank(err, world.rank)
        raise (named if tells_first() else SystemExit(RunError.exit_code)) from err
