"""Times of steps: data, communication, the rest."""

from __future__ import annotations

import threading
import time

import pytest
import torch
import torch.distributed as dist

from ling.train.clock import StepClock

CPU = torch.device("cpu")


@pytest.fixture
def group():
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_time_that_data_takes_to_come_is_counted_and_nothing_else():
    def slow():
        for n in range(3):
            time.sleep(0.01)
            yield n

    clock = StepClock(CPU, 1)
    with clock.step():
        found = []
        for n in clock.reading(slow()):
            time.sleep(0.02)
            found.append(n)
    times = clock.take()
    assert found == [0, 1, 2]
    assert times.steps == 1
    assert 0.03 <= times.data_s < 0.06 < 0.09 <= times.step_s == clock.last_s
    assert clock.take().steps == 0


def test_waiting_for_collectives_is_counted_once_and_only_in_steps(group, monkeypatch):
    wait = dist.Work.wait

    def slow(work, *args):
        time.sleep(0.05)
        return wait(work, *args)

    monkeypatch.setattr(dist.Work, "wait", slow)
    clock, x, functions = StepClock(CPU, 2), torch.ones(3), (dist.all_reduce, dist.barrier)
    dist.all_reduce(x)  # not in a step
    for _ in range(2):
        with clock.step():
            dist.all_reduce(x)  # waits itself
            dist.all_gather([torch.empty(3)], x, async_op=True).wait()
    times = clock.take().per_step()
    assert 0.1 <= times.communication_s < 0.15
    assert times.communication_s < times.step_s
    assert (dist.all_reduce, dist.barrier, dist.Work.wait) == (*functions, slow)


def test_what_another_thread_communicates_is_its_own(group, monkeypatch):
    wait, x = dist.Work.wait, torch.ones(3)

    def slow(work, *args):
        time.sleep(0.05)
        return wait(work, *args)

    monkeypatch.setattr(dist.Work, "wait", slow)
    clock = StepClock(CPU, 2)
    with clock.step():
        saving = threading.Thread(target=dist.all_reduce, args=(x,))
        saving.start()
        saving.join()
    assert clock.take().communication_s == 0


def test_a_collective_that_fails_ends_the_step_as_it_would(group):
    clock, before = StepClock(CPU, 2), dist.Work.wait
    with pytest.raises(TypeError, match="of type"), clock.step():
        dist.all_reduce("no tensor")
    assert dist.Work.wait is before


def test_a_process_alone_calls_nothing_through_the_clock():
    clock, before = StepClock(CPU, 1), dist.all_reduce
    with clock.step():
        assert dist.all_reduce is before
