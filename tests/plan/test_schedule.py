"""Pipeline schedules: complete, in order, and with the known bubbles."""

from __future__ import annotations

import pytest

from ling.config.parallel import ParallelConfig
from ling.plan.schedule import in_flight, order, simulate


@pytest.mark.parametrize(
    ("ranks", "per_rank", "micro"), [(4, 1, 8), (4, 2, 8), (2, 4, 6), (3, 2, 9)]
)
def test_every_pass_is_there_once_and_forward_comes_first(ranks, per_rank, micro):
    line = simulate(ranks, per_rank, micro, [1.0] * ranks * per_rank, [2.0] * ranks * per_rank)
    for rank, row in enumerate(line.ranks):
        passes = [(t.what.stage, t.what.micro, t.what.is_forward) for t in row]
        stages = range(rank, ranks * per_rank, ranks)
        assert sorted(passes) == sorted(
            (s, m, f) for s in stages for m in range(micro) for f in (True, False)
        )
        done = set()
        for stage, m, forward in passes:
            assert forward or (stage, m) in done
            done.add((stage, m))


def test_the_bubble_of_equal_stages_is_that_of_the_formula():
    line = simulate(4, 1, 8, [1.0] * 4, [2.0] * 4)
    assert line.seconds == 3 * (8 + 3)
    assert line.bubble == pytest.approx(3 / 11)
    interleaved = simulate(4, 2, 8, [0.5] * 8, [1.0] * 8)
    assert interleaved.seconds == pytest.approx(3 * 8 + 3 * 3 / 2)


def test_a_dear_stage_makes_all_wait():
    line = simulate(2, 1, 16, [1.0, 3.0], [2.0, 6.0])
    assert line.seconds >= 16 * 9
    assert line.bubble == pytest.approx(1 - 16 * 12 / (2 * line.seconds))


def test_micro_batches_under_way_by_rank():
    assert in_flight(ParallelConfig(pp=4), 8) == [4, 3, 2, 1]
    assert in_flight(ParallelConfig(pp=4), 2) == [2, 2, 2, 1]
    layout = ParallelConfig(pp=4, pp_stages_per_rank=2)
    for rank, most in enumerate(in_flight(layout, 8)):
        now = [1 if p.is_forward else -1 for p in order(4, 2, 8, rank)]
        assert max(sum(now[: n + 1]) for n in range(len(now))) == most
