"""Decode steps as programs of fixed shapes, which a device can replay without Python.

A step is filled up to the next shape of a few; its block of numbers and, for an MTP layer, its
hidden states go to memory that the program knows, and what it computes is copied from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..pages import Segment
from .inputs import Shape, StepInputs, even_block, most_pages, most_rows

log = logging.getLogger("ling")

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROWS = (1, 2, 4, 8)
LEAST_PAGES = 32
Compute = Callable[[int | None, StepInputs, Tensor | None], Tensor]
"""Hidden states of the main layers (None) or of MTP layer j, from inputs and hidden states."""


class Capture(Protocol):
    """Makes a program of a computation without arguments: its result, whose memory stays, and a
    call that computes it again."""

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]: ...


def eager_capture(compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """The same interface by calling: what tests of the buffers use where there is no GPU."""
    out = compute()
    return out, lambda: _copy(out, compute())


def _copy(out: Tensor, result: Tensor) -> None:
    out.copy_(result)


class CudaCapture:
    """CUDA graphs, which share one pool of memory: only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # one: cuBLAS keeps memory for each that it has seen

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # libraries make their handles and choose their kernels
                compute()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its own stream behind as the current one.
        with torch.cuda.stream(current), torch.cuda.graph(graph, pool=self._pool):
            out = compute()
        return out, graph.replay


def default_capture(device: torch.device, dtype: torch.dtype) -> Capture | None:
    """CUDA graphs on a GPU, but for float32: torch's `grouped_mm` waits for the device there, which
    breaks a capture and the memory pool behind it."""
    return CudaCapture() if device.type == "cuda" and dtype != torch.float32 else None


@dataclass
class _Program:
    inputs: StepInputs
    hidden: Tensor | None
    out: Tensor
    replay: Callable[[], None]


class DecodeSteps:
    """Runs steps in which every request has a few rows: as programs where there is a `capture`,
    else in the shapes that they have.

    `scratch` is the page that rows which fill up write to, `max_pages` the longest page table.
    """

    def __init__(
        self,
        compute: Compute,
        device: torch.device,
        scratch: int,
        max_pages: int,
        capture: Capture | None,
    ) -> None:
        self.compute, self.device, self.capture = compute, device, capture
        self.scratch, self.max_pages = scratch, max_pages
        self.programs: dict[tuple[int | None, Shape], _Program] = {}

    def run(
        self,
        layer: int | None,
        tokens: Sequence[int],
        segments: Sequence[Segment],
        hidden: Tensor | None,
    ) -> Tensor:
        """Hidden states of the rows, in memory of their own."""
        shape = None if self.capture is None else self.program_shape(segments)
        program = None if shape is None else self._program(layer, shape, hidden)
        if program is None:
            return self._directly(layer, tokens, segments, hidden)
        inputs, kept = program.inputs, program.inputs.kept[: len(tokens)]
        inputs.block.copy_(self._host(tokens, segments, inputs.shape), non_blocking=True)
        if program.hidden is not None and hidden is not None:
            program.hidden.index_copy_(0, kept.long(), hidden)
        program.replay()
        return program.out.index_select(0, kept)

    def prepare(self, layers: Sequence[int], hidden: Tensor) -> None:
        """Make the programs of one request now: of the main layers and of these MTP layers, which
        take a row of hidden states. Its first steps are then like the others."""
        for rows in ROWS:
            shape = Shape(1, rows, min(LEAST_PAGES, self.max_pages))
            for layer in (None, *layers):
                if self.capture is not None:
                    self._program(layer, shape, None if layer is None else hidden)

    def program_shape(self, segments: Sequence[Segment]) -> Shape | None:
        """The least shape of a program that has room for a step; None where it is too large."""
        batch = next((b for b in BATCHES if b >= len(segments)), None)
        rows = next((r for r in ROWS if r >= most_rows(segments)), None)
        if batch is None or rows is None:
            return None
        pages = LEAST_PAGES
        while pages < most_pages(segments):
            pages *= 4
        return Shape(batch, batch * rows, min(pages, self.max_pages))

    def _directly(
        self,
        layer: int | None,
        tokens: Sequence[int],
        segments: Sequence[Segment],
        hidden: Tensor | None,
    ) -> Tensor:
        shape = Shape(len(segments), len(segments) * most_rows(segments), most_pages(segments))
        block = self._host(tokens, segments, shape).to(self.device, non_blocking=True)
        inputs = StepInputs(block, shape)
        kept = inputs.kept[: len(tokens)]
        if hidden is not None and shape.rows > len(tokens):
            given, hidden = hidden, hidden.new_zeros(shape.rows, hidden.shape[1])
            hidden.index_copy_(0, kept.long(), given)
        out = self.compute(layer, inputs, hidden)
        return out if shape.rows == len(tokens) else out.index_select(0, kept)

    def _host(self, tokens: Sequence[int], segments: Sequence[Segment], shape: Shape) -> Tensor:
        block = torch.from_numpy(even_block(tokens, segments, shape, self.scratch))
        return block.pin_memory() if self.device.type == "cuda" else block

    def _program(self, layer: int | None, shape: Shape, hidden: Tensor | None) -> _Program | None:
        key = (layer, shape)
        if key not in self.programs:
            try:
                self.programs[key] = self._made(layer, shape, hidden)
            except (RuntimeError, NotImplementedError) as error:
                self.capture = None
                # The end of a capture that failed says only that it did.
                reason = str(error.__context__ or error).split("\n")[0]
                log.warning("CUDA graphs are not used: capturing failed (%s)", reason)
                return None
        return self.programs[key]

    def _made(self, layer: int | None, shape: Shape, hidden: Tensor | None) -> _Program:
        assert self.capture is not None
        inputs = StepInputs(self._host([], [], shape).to(self.device), shape)
        given = None if hidden is None else hidden.new_zeros(shape.rows, hidden.shape[1])
        out, replay = self.capture(lambda: self.compute(layer, inputs, given))
        return _Program(inputs, given, out, replay)
