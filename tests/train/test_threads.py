from __future__ import annotations

import pytest
import torch

from ling.model.ling import from_config
from ling.presets import preset
from ling.train import threads
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.objectives.pretrain import Pretraining
from ling.train.threads import Threads


class Cores:
    def __init__(self, *free):
        self.free = list(free)

    def count(self):
        return self.free.pop(0)


def test_threads_follow_the_free_cores_and_come_back(monkeypatch):
    monkeypatch.setattr(threads, "INTERVAL_S", 0.0)
    lines: list[str] = []
    torch.set_num_threads(2)
    watch = Threads(lines.append, Cores(1, 2, None, 1, 7))
    assert watch.most == 2
    seen = []
    for _ in range(5):
        watch.adapt()
        seen.append(torch.get_num_threads())
    assert seen == [1, 2, 2, 1, 2]
    assert lines == ["other programs take cores: 1 of 2 threads until they end"]


def test_number_of_threads_is_set_back_whatever_ends_a_run():
    torch.set_num_threads(2)

    def fail():
        with Threads(print, Cores(1)) as watch:
            watch.adapt()
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 2


def test_the_first_step_runs_on_the_free_cores():
    torch.set_num_threads(2)
    with Threads(print, Cores(1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_looks_no_more_than_twice_a_second():
    torch.set_num_threads(2)
    cores = Cores(1, 2)
    watch = Threads(print, cores)
    watch.adapt()
    watch.adapt()
    assert cores.free == [2]
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_do_not_depend_on_threads(dtype):
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        network = LingForTraining(from_config(preset("ling-tiny"), seed=0))
        network.ling.compute_dtype = None if dtype == torch.float32 else dtype
        tokens = torch.arange(4 * 128).view(4, 128) * 7919 % network.ling.config.vocab_size
        batch = Batch(tokens, tokens.roll(-1, 1), torch.ones(tokens.shape))
        losses = Pretraining(0.1, 3.5e-6).losses(network, batch)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        results.append((losses.total.detach(), norm, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
