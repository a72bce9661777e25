"""Decode steps of a whole model on a device: random weights made there, contexts filled without
reading a prompt.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..config.model import ModelConfig
from ..infer.choice import RowChoice
from ..infer.device.runner import DeviceRunner
from ..infer.device.weights import random_on_device
from ..infer.pages import PAGE, Segment, pages_for
from ..model.ling import Ling

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
WARMUP_STEPS = 4


def decode_rates(
    cfg: ModelConfig,
    *,
    device: str = "cuda",
    dtype: str = "bfloat16",
    fp8: bool = False,
    contexts: Sequence[int] = (0, 8192, 32768),
    tokens_per_step: Sequence[int] = (1, 2),
    steps: int = 64,
    batch: int = 1,
    graphs: bool = True,
    until: float | None = None,
    on_point: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Tokens per second of greedy decoding at each context, by tokens of a step.

    With two tokens a step a request verifies one draft, as if it were always accepted; a model with
    an MTP layer drafts it, too, and its time is part of the step. `fp8` keeps the weights that a
    released FP8 folder has in FP8. `graphs` False runs without CUDA graphs. No point begins after
    `until` (`time.monotonic`). The report has a row for each point: `context`, `tokens_per_step`,
    `ms_per_step`, `tokens_per_s`, `graphs`; beside them `weight_bytes` and the device. `on_point`
    sees the report after each.
    """
    place = torch.device(device)
    longest = max(contexts) + max(tokens_per_step) * (steps + WARMUP_STEPS) + PAGE
    runner = _runner(random_on_device(cfg, DTYPES[dtype], place, fp8=fp8), batch, longest, graphs)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": dtype,
        "fp8": fp8,
        "batch": batch,
        "steps": steps,
        "weight_bytes": sum(p.nbytes for p in runner.model.parameters()),
        "points": [],
    }
    for context, count in itertools.product(contexts, tokens_per_step):
        if until is not None and time.monotonic() > until:
            break
        seconds = _seconds(_Decoding(runner, context, count, batch), steps)
        report["points"].append(
            {
                "context": context,
                "tokens_per_step": count,
                "ms_per_step": 1000 * seconds,
                "tokens_per_s": batch * count / seconds,
                "graphs": bool(runner.steps.programs),
            }
        )
        if place.type == "cuda":
            report["peak_bytes"] = torch.cuda.max_memory_allocated(place)
        on_point(report)
    return report


def _runner(model: Ling, batch: int, longest: int, graphs: bool) -> DeviceRunner:
    """With pages for `batch` requests of that length, full of random numbers."""
    runner = DeviceRunner(model)
    if not graphs:
        runner.capture = None
    runner.allocate(batch * pages_for(longest))
    runner.pages.values.normal_()
    return runner


def _seconds(decoding: _Decoding, steps: int) -> float:
    """The mean time of a step; each ends when its tokens are on the CPU."""
    for _ in range(WARMUP_STEPS):
        decoding.step()
    start = time.perf_counter()
    for _ in range(steps):
        decoding.step()
    return (time.perf_counter() - start) / steps


class _Decoding:
    """`batch` requests that each take `count` tokens in a step."""

    def __init__(self, runner: DeviceRunner, context: int, count: int, batch: int) -> None:
        each = runner.pages.scratch // batch
        self.runner, self.position, self.count = runner, context, count
        self.pages = [list(range(i * each, (i + 1) * each)) for i in range(batch)]
        self.tokens = [(7 * i) % runner.config.vocab_size for i in range(batch * count)]
        self.drafts = count > 1 and runner.config.num_nextn_predict_layers > 0

    def step(self) -> None:
        """Choose, and draft where there is an MTP layer."""
        runner, segments = self.runner, list(self._segments())
        hidden = runner.forward(self.tokens, segments)
        chosen = runner.choose(runner.logits(hidden), [RowChoice()] * len(self.tokens))
        self.tokens = [c.token() for c in chosen]
        if self.drafts:
            drafted = runner.mtp(0, self.tokens, hidden, segments)[self.count - 1 :: self.count]
            scores = runner.logits(drafted, runner.draft_vocab)
            for i, c in enumerate(runner.choose(scores, [RowChoice(num_best=0)] * len(drafted))):
                self.tokens[i * self.count + 1] = c.token()
        self.position += self.count

    def _segments(self) -> Iterator[Segment]:
        for i, pages in enumerate(self.pages):
            start = i * self.count
            yield Segment(pages, self.position, start, start + self.count)
