"""Pipeline schedules by simulation: who does which pass when, and how much of the time ranks wait.

1F1B, and interleaved 1F1B where a rank has several stages, as `train/parallel/pipeline.py` runs
them. A stage goes by its number; rank r of P has the stages r, r + P, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config.parallel import ParallelConfig


@dataclass(frozen=True)
class Pass:
    """The forward or backward pass of one micro-batch in one stage."""

    stage: int
    micro: int
    is_forward: bool


@dataclass(frozen=True)
class Timed:
    """A pass with its start and end in seconds."""

    what: Pass
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What every rank does of a step."""

    ranks: list[list[Timed]]

    @property
    def seconds(self) -> float:
        """Until the last pass ends."""
        return max(row[-1].end for row in self.ranks)

    @property
    def bubble(self) -> float:
        """Share of the ranks' time in which they wait."""
        work = sum(t.end - t.start for row in self.ranks for t in row)
        return 1 - work / (self.seconds * len(self.ranks))


def order(ranks: int, per_rank: int, micro: int, rank: int) -> list[Pass]:
    """The passes of a rank one behind the other."""
    size = micro // max(micro // ranks, 1)  # micro-batches that go through a stage in one go
    total = micro * per_rank

    def numbered(n: int, is_forward: bool) -> Pass:
        if per_rank == 1:
            return Pass(rank, n, is_forward)
        round_, rest = divmod(n, size * per_rank)
        local, within = divmod(rest, size)
        local = local if is_forward else per_rank - 1 - local
        return Pass(local * ranks + rank, round_ * size + within, is_forward)

    warm = warm_up(ranks, per_rank, micro, rank)
    found = [numbered(n, True) for n in range(warm)]
    for n in range(total - warm):
        found += [numbered(warm + n, True), numbered(n, False)]
    return found + [numbered(n, False) for n in range(total - warm, total)]


def simulate(
    ranks: int,
    per_rank: int,
    micro: int,
    forward: Sequence[float],
    backward: Sequence[float],
    transfer: float = 0.0,
) -> Timeline:
    """Times of every pass from seconds by stage; `transfer` is the way to another stage."""
    queues = [order(ranks, per_rank, micro, r) for r in range(ranks)]
    last = ranks * per_rank - 1
    done: dict[Pass, float] = {}
    rows: list[list[Timed]] = [[] for _ in range(ranks)]
    free, places = [0.0] * ranks, [0] * ranks
    while any(places[r] < len(queues[r]) for r in range(ranks)):
        moved = False
        for r in range(ranks):
            while places[r] < len(queues[r]):
                p = queues[r][places[r]]
                before = _before(p, last)
                if before is not None and before not in done:
                    break
                ready = 0.0 if before is None else done[before]
                ready += transfer if before is not None and before.stage != p.stage else 0.0
                start = max(free[r], ready)
                end = start + (forward if p.is_forward else backward)[p.stage]
                rows[r].append(Timed(p, start, end))
                done[p] = free[r] = end
                places[r] += 1
                moved = True
        assert moved, "a schedule waits for itself"
    return Timeline(rows)


def _before(p: Pass, last: int) -> Pass | None:
    """What must have ended."""
    if p.is_forward:
        return Pass(p.stage - 1, p.micro, True) if p.stage else None
    if p.stage == last:
        return Pass(p.stage, p.micro, True)
    return Pass(p.stage + 1, p.micro, False)


def in_flight(layout: ParallelConfig, micro: int) -> list[int]:
    """Micro-batches times stages whose activations each rank of the pipeline holds, at most."""
    per_rank, total = layout.pp_stages_per_rank, micro * layout.pp_stages_per_rank
    warm = [warm_up(layout.pp, per_rank, micro, rank) for rank in range(layout.pp)]
    return [min(n + 1, total) for n in warm]


def warm_up(ranks: int, per_rank: int, micro: int, rank: int) -> int:
    """Forward passes of a rank before its first backward pass follows one."""
    if per_rank == 1:
        return min(ranks - 1 - rank, micro)
    size = micro // max(micro // ranks, 1)
    return min((per_rank - 1) * size + 2 * (ranks - 1 - rank), micro * per_rank)
