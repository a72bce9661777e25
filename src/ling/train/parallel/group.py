"""The processes that train together: who they are, and how an error of one ends all.

A process that was started alone is a world of one, for which nothing here communicates.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ...errors import LingError, RunError, UsageError
from .rendezvous import clean_store, end_with_launcher, interface_to

T = TypeVar("T")

# Of steps, if the recipe does not say: a lost rank is to end all others within a minute.
STEP_TIMEOUT_S = {"gloo": 30, "nccl": 600}
# Of set-up, evaluation and saving, where one rank may have much more to do than the others.
SLOW_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """This process among those that train one model together.

    `slow` is the group of set-up, evaluation and saving; None in a world of one.
    """

    rank: int = 0
    size: int = 1
    slow: Any = None
    step_timeout: datetime.timedelta = SLOW_TIMEOUT

    @property
    def leads(self) -> bool:
        """Whether this process keeps lock, logs and metrics."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.slow)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """`work` on every rank; where it fails on one, all end: one with the line, others silently.

        The line names the rank, unless all failed alike.
        """
        if self.size == 1:
            return work()
        error: Exception | None = None
        try:
            result = work()
        except Exception as err:
            error = err
        codes = self.gather(None if error is None else getattr(error, "exit_code", 1))
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if not failed:
            return result
        if self.rank != failed[0]:
            raise SystemExit(codes[failed[0]])
        assert error is not None
        raise error if len(failed) == self.size else of_rank(error, self.rank)

    def lead(self, work: Callable[[], T]) -> T | None:
        """`work` on rank 0, while the others wait for it; None on those."""
        return self.together(work if self.leads else lambda: None)

    def as_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, on all ranks."""
        return cast(T, self.gather(self.lead(work))[0])

    def first(self, work: Callable[[], T]) -> T:
        """`work` on rank 0, then on the others, which find what it wrote."""
        found = self.lead(work)
        others = self.together(lambda: None if self.leads else work())
        return cast(T, found if self.leads else others)

    def same(self, what: str, value: Any) -> None:
        """Raise `UsageError`, or end, unless `value` is equal on all ranks."""
        values = self.gather(value)
        other = next((rank for rank, v in enumerate(values) if v != values[0]), None)
        if other is not None:
            if not self.leads:
                raise SystemExit(UsageError.exit_code)
            raise UsageError(f"rank {other} has another {what} than rank 0; make them equal")

    def largest(self, number: int) -> int:
        """The largest `number` of all ranks, once a step."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def added(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, on the CPU; waits for slow ranks as set-up does."""
        if self.size == 1:
            return values
        total = values.cpu()
        dist.all_reduce(total, group=self.slow)
        return total


ALONE = World()


def of_rank(error: Exception, rank: int) -> Exception:
    """The same error with the rank in front."""
    if isinstance(error, LingError):
        error.args = (f"rank {rank}: {error}",)
        return error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RunError(f"rank {rank}: {type(error).__name__}: {text}")


def launched_world() -> tuple[int, int]:
    """(rank, number of ranks) that torchrun or another launcher set; (0, 1) without one."""
    env = os.environ
    try:
        return (int(env["RANK"]), int(env["WORLD_SIZE"])) if "MASTER_ADDR" in env else (0, 1)
    except (KeyError, ValueError):
        return 0, 1


def leads() -> bool:
    """Whether this process is the one of its launch that talks."""
    return launched_world()[0] == 0


def code_version() -> str:
    """A hash of the package's own sources, the same wherever they lie."""
    digest, package = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def join(device: torch.device, timeout_s: int | None) -> World:
    """Meet the other ranks of the launcher; in a process that was started alone do nothing."""
    rank, size = launched_world()
    if size == 1:
        return World()
    end_with_launcher()
    backend = "nccl" if device.type == "cuda" else "gloo"
    _choose_interface(alone=os.environ.get("LOCAL_WORLD_SIZE") == str(size))
    timeout = datetime.timedelta(seconds=timeout_s or STEP_TIMEOUT_S[backend])
    store, _, _ = next(rendezvous("env://", timeout=SLOW_TIMEOUT))
    store = clean_store(store, rank, size, SLOW_TIMEOUT)
    # Numbers that steer a run stay on the CPU, where NCCL cannot add them up.
    backends = "gloo" if backend == "gloo" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backends, store=store, rank=rank, world_size=size, timeout=timeout)
    return World(rank, size, dist.new_group(timeout=SLOW_TIMEOUT, backend="gloo"), timeout)


def _choose_interface(*, alone: bool) -> None:
    """Which network gloo uses, unless somebody chose: none of ranks that are all on this machine,
    else the one towards the first host."""
    if sys.platform != "linux":
        return
    interface = "lo" if alone else interface_to(os.environ["MASTER_ADDR"])
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def leave() -> None:
    """Say goodbye to the other ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
