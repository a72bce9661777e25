"""What a GPU has room for, with a GPU's numbers and none."""

from __future__ import annotations

import pytest
import torch

from ling.errors import UsageError
from ling.infer.device import memory
from ling.infer.device.memory import check_cache, device_pages, why_no_room
from ling.presets import preset

GPU = torch.device("cuda", 0)
CFG = preset("ling-tiny")


@pytest.fixture
def free(monkeypatch):
    """A GPU with 1,000,000 bytes free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 2_000_000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_pages_for_all_requests_as_far_as_there_is_room(free):
    assert device_pages(GPU, 640, 1000, 256) == 850  # 0.85 of what is free
    assert device_pages(GPU, 640, 1000, 4) == 40  # four requests of ten pages
    assert device_pages(GPU, 640, 1_000_000, 4) == 10  # one request, and then a refusal
    assert device_pages(torch.device("cpu"), 640, 1000, 4) >= 10


def test_a_cache_that_does_not_fit_is_refused_with_what_does(free):
    check_cache(GPU, 950, 1000)
    with pytest.raises(UsageError, match=r"`max_model_len=60736` fits"):
        check_cache(GPU, 951, 1000)
    with pytest.raises(UsageError, match=r"beside the weights: an FP8 folder takes half"):
        check_cache(GPU, 2, 600_000)  # one page, and a request needs more


def test_weights_that_do_not_fit_are_refused_before_they_are_read(free):
    class Stub:
        config = CFG

        def stored_bytes(self, name):
            return self.each

    source = Stub()
    source.each = 1
    assert why_no_room("here", source, GPU) is None
    source.each = 1_000_000
    reason = why_no_room("here", source, GPU)
    assert reason.startswith("here: takes ")
    assert "GB of the GPU's memory are free" in reason
    assert memory.room(GPU) == 850_000
