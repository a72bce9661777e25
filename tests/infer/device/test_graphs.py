"""Programs of fixed shapes: what fills a step up, buffers that stay, and going on without them."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch
from on_device import CFG, device_runner, model

from ling.infer.device import graphs
from ling.infer.device.graphs import CudaCapture, DecodeSteps, default_capture, eager_capture
from ling.infer.device.inputs import Shape
from ling.infer.pages import Segment

CPU = torch.device("cpu")


def steps(compute, capture=eager_capture, max_pages=40):
    return DecodeSteps(compute, CPU, scratch=99, max_pages=max_pages, capture=capture)


def decodes(*lengths, rows=1):
    """Requests that decode behind so many positions."""
    return [Segment(list(range(50)), n, i * rows, (i + 1) * rows) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    ("segments", "shape"),
    [
        (decodes(0), Shape(1, 1, 32)),
        (decodes(0, 5, 9, rows=2), Shape(4, 8, 32)),
        (decodes(5, rows=3), Shape(1, 4, 32)),
        (decodes(64 * 32), Shape(1, 1, 40)),
        (decodes(*range(65)), None),
        (decodes(1, rows=9), None),
    ],
)
def test_the_least_shape_that_has_room(segments, shape):
    assert steps(None).program_shape(segments) == shape


def test_a_program_gets_the_rows_of_each_step_and_results_are_copies():
    seen = []

    def compute(layer, inputs, hidden):
        seen.append((layer, inputs.tokens_T.tolist(), hidden.clone()))
        return hidden * 2 + inputs.tokens_T[:, None]

    run = steps(compute)
    first = run.run(0, [7, 8, 9], decodes(3, 4, 5), torch.full((3, 2), 0.5))
    assert seen[0][1] == [0, 0, 0, 0]  # making a program computes nothing of anybody's
    again = run.run(0, [1, 2, 3, 4], decodes(3, 4, 5, 6), torch.full((4, 2), 1.5))
    assert len(run.programs) == 1
    assert seen[-1][0] == 0
    assert first.tolist() == [[8, 8], [9, 9], [10, 10]]
    assert again.tolist() == [[4, 4], [5, 5], [6, 6], [7, 7]]
    uneven = [Segment([0], 3, 0, 2), Segment([1], 3, 2, 3)]
    third = run.run(0, [1, 2, 3], uneven, torch.ones(3, 2))
    assert third.tolist() == [[3, 3], [4, 4], [5, 5]]
    assert seen[-1][1] == [1, 2, 3, 0]


def test_programs_of_one_request_are_made_beforehand():
    runner = device_runner(model(), eager_capture)
    runner.allocate(4)
    with torch.inference_mode():
        runner.steps.prepare([0, 1], torch.zeros(1, CFG.hidden_size))
    assert len(runner.steps.programs) == 4 * 3
    runner.pages.values.fill_(3)
    runner._warm_up()
    assert runner.pages.values[:, :, :4].min() == 3
    hidden = runner.forward([4, 5], [Segment([1], 0, 0, 2)])
    runner.mtp(0, [5, 6], hidden, [Segment([1], 0, 0, 2)])
    assert len(runner.steps.programs) == 4 * 3


def test_rows_that_fill_up_touch_no_page_of_a_request():
    runner = device_runner(model(), eager_capture)
    runner.allocate(4)
    runner.pages.values.fill_(3)
    runner.forward([1, 2, 3], [Segment([0], 5, 0, 2), Segment([2], 0, 2, 3)])
    changed = (runner.pages.values[: CFG.num_hidden_layers] != 3).any(-1).any(-1)
    pages = changed.any(0).any(0)  # [pages, positions]
    assert pages[0].nonzero().flatten().tolist() == [5, 6]
    assert pages[2].nonzero().flatten().tolist() == [0]
    assert not pages[1].any()
    assert not pages[3].any()
    assert pages[4].any()


def test_where_capturing_fails_steps_run_without(caplog):
    def refuses(compute):
        try:
            raise NotImplementedError("operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    run = steps(lambda layer, inputs, hidden: inputs.tokens_T[:, None].float(), refuses)
    with caplog.at_level(logging.WARNING):
        assert run.run(None, [4, 5], decodes(1, 2), None).tolist() == [[4], [5]]
        assert run.run(None, [6], decodes(1), None).tolist() == [[6]]
    (record,) = caplog.records
    assert record.message == (
        "CUDA graphs are not used: capturing failed "
        "(operation not permitted when stream is capturing)"
    )


def test_graphs_are_for_a_gpu_and_types_whose_products_do_not_wait(monkeypatch):
    monkeypatch.setattr(graphs, "CudaCapture", lambda: "graphs")
    gpu = torch.device("cuda", 0)
    assert default_capture(gpu, torch.bfloat16) == "graphs"
    assert default_capture(gpu, torch.float32) is None
    assert default_capture(CPU, torch.bfloat16) is None


def test_all_graphs_are_warmed_up_on_one_stream(monkeypatch):
    """cuBLAS keeps its workspace for every stream that it has seen."""
    streams, calls = [], []

    class Stream(SimpleNamespace):
        def wait_stream(self, other):
            pass

    def context(*args, **options):
        calls.append(args[0])
        return contextlib.nullcontext()

    fake = {
        "Stream": lambda: streams.append(Stream()) or streams[-1],
        "current_stream": Stream,
        "graph_pool_handle": lambda: 1,
        "CUDAGraph": lambda: SimpleNamespace(replay=len),
        "stream": context,
        "graph": context,
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    capture, now = CudaCapture(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now)
    for n in range(3):
        assert capture(lambda n=n: n) == (n, len)
    assert len(streams) == 1
    assert calls[1] is now  # current again where a capture fails
    assert calls[::3] == streams * 3
