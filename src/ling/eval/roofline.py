"""What a step must read and compute, kernel by kernel, and how near to the limit it ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..config.model import ModelConfig
from ..infer.memory import kv_page_bytes
from ..infer.native_runner import NativeRunner
from ..infer.pages import PAGE, Segment


class Drafted(NamedTuple):
    """What drafting adds to a step: rows and routed experts of MTP layers, logits computed, and how
    often a layer runs, which reads its other weights each time."""

    rows: float
    experts: float
    logits: int
    passes: float = 1.0


class Step(NamedTuple):
    """Means over forward passes. `rows` are tokens, `head_rows` those that get logits, `positions`
    what is read of the KV cache, `pairs` queries times the keys they see, `experts` the different
    ones that a layer reads."""

    rows: float
    head_rows: float
    positions: float
    pairs: float
    experts: float
    drafted: Drafted | None = None


class Recorder:
    """A runner that notes what passes through it."""

    def __init__(self, runner: NativeRunner) -> None:
        self._runner = runner
        self.steps = self._rows = self._head_rows = self._positions = self._pairs = 0
        self._mtp_rows, self._draft_vocab, self._drafting = 0, 0, False
        self._mtp_passes = 0
        self._experts = self._mtp_experts = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def _experts_read(self) -> Tensor:
        """Different experts per layer since the last call."""
        return (self._runner.expert_counts() > 0).sum(1)

    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        cfg, self._drafting = self._runner.config, False
        self.steps += 1
        self._rows += len(tokens)
        for s in segments:
            n = s.stop - s.start
            self._positions += s.first + n
            self._pairs += n * s.first + n * (n + 1) // 2
        self._experts_read()
        hidden = self._runner.forward(tokens, segments)
        moe = [n for n in range(cfg.num_hidden_layers) if cfg.is_moe_layer(n)]
        self._experts += float(self._experts_read()[moe].float().mean()) if moe else 0.0
        return hidden

    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        self._drafting = True
        self._mtp_rows += len(next_tokens)
        self._mtp_passes += 1
        self._experts_read()
        out = self._runner.mtp(j, next_tokens, hidden, segments)
        self._mtp_experts += float(self._experts_read().sum())
        return out

    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        if self._drafting:
            self._draft_vocab += len(hidden) * (vocab or self._runner.config.vocab_size)
        else:
            self._head_rows += len(hidden)
        return self._runner.logits(hidden, vocab)

    def mean(self) -> Step:
        """What a step did on average."""
        n = max(self.steps, 1)
        mtp = (self._mtp_rows / n, self._mtp_experts / n, self._draft_vocab // n)
        drafted = Drafted(*mtp, self._mtp_passes / n) if self._mtp_rows else None
        return Step(
            rows=self._rows / n,
            head_rows=self._head_rows / n,
            positions=self._positions / n,
            pairs=self._pairs / n,
            experts=self._experts / n,
            drafted=drafted,
        )


class Cost(NamedTuple):
    """Bytes from memory and operations (two a multiply-add)."""

    bytes: float
    ops: float

    def plus(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.ops + other.ops)

    def times(self, n: float) -> Cost:
        return Cost(self.bytes * n, self.ops * n)


def stage_costs(
    cfg: ModelConfig,
    bits_per_weight: float,
    step: Step,
    head_bits: float | None = None,
    page_bytes: int | None = None,
    dense_bits: float | None = None,
) -> dict[str, Cost]:
    """The least that each stage (csrc/model.cpp) reads and computes in one step.

    Activations stay in the caches, embeddings are a row each and norms nothing beside the rest, so
    none of them counts. The router is bfloat16, as is the KV cache unless `page_bytes` (of one page
    in all layers) says otherwise. `bits_per_weight` is that of routed experts, and of others where
    `head_bits` and `dense_bits` say nothing else.
    """
    page_bytes = page_bytes or kv_page_bytes(cfg, "bf16")
    bits = (dense_bits or bits_per_weight, bits_per_weight)
    costs = _layers(cfg, bits, step, range(cfg.num_hidden_layers), page_bytes)
    head, head_bits = cfg.vocab_size * cfg.hidden_size, head_bits or bits_per_weight
    costs["head"] = _matrix(head, head_bits, step.head_rows)
    if step.drafted is None:
        return costs
    rows, experts, logits, passes = step.drafted
    layer = Step(rows / passes, 0, step.positions, step.pairs, experts / passes)
    first = cfg.num_hidden_layers
    draft_layers = range(first, first + 1)
    for name, cost in _layers(cfg, bits, layer, draft_layers, page_bytes).items():
        costs[name] = costs[name].plus(cost.times(passes))
    eh_proj = _matrix(2 * cfg.hidden_size**2, bits[0], rows / passes)
    costs["dense"] = costs["dense"].plus(eh_proj.times(passes))
    costs["head"] = costs["head"].plus(_matrix(logits * cfg.hidden_size, head_bits, 1))
    return costs


def _matrix(weights: float, bits: float, rows: float) -> Cost:
    return Cost(weights * bits / 8, 2 * weights * rows)


def _layers(
    cfg: ModelConfig, bits: tuple[float, float], step: Step, layers: range, page_bytes: int
) -> dict[str, Cost]:
    dense_bits, expert_bits = bits
    n, moe = len(layers), sum(cfg.is_moe_layer(i) for i in layers)
    width = (n - moe) * cfg.intermediate_size
    width += moe * cfg.shared_expert_width
    always = cfg.hidden_size * width
    expert = moe * cfg.hidden_size * cfg.moe_intermediate_size
    mlp = Cost(
        (always * dense_bits + step.experts * expert * expert_bits) / 8,
        2 * step.rows * (always + cfg.num_experts_per_tok * expert),
    )
    router = moe * cfg.num_experts * cfg.hidden_size
    kv_bytes = page_bytes / (PAGE * cfg.num_cache_layers)  # of a position in one layer
    return {
        "qkv": _matrix(n * cfg.hidden_size * (cfg.q_size + 2 * cfg.kv_size), dense_bits, step.rows),
        "attention": Cost(n * kv_bytes * step.positions, 4 * n * cfg.q_size * step.pairs),
        "dense": _matrix(n * cfg.q_size * cfg.hidden_size, dense_bits, step.rows),
        "router": Cost(2 * router, 2 * router * step.rows),
        "gate + up": Cost(2 * mlp.bytes, 2 * mlp.ops),
        "down": mlp,
    }


def roofline(
    costs: dict[str, Cost], seconds: dict[str, float], bytes_per_s: float, ops_per_s: float
) -> dict[str, dict[str, float]]:
    """Per stage: seconds, share of the time, and of the speed that the nearer limit allows."""
    total = sum(seconds.values()) or 1.0
    report = {}
    for name, spent in seconds.items():
        report[name] = {"seconds": spent, "share": spent / total}
        if name in costs and spent:
            least = max(costs[name].bytes / bytes_per_s, costs[name].ops / ops_per_s)
            report[name] |= {"gb": costs[name].bytes / 1e9, "roofline": least / spent}
    return report


def stage_lines(report: dict[str, Any]) -> Iterator[str]:
    """The profile of a bench report as a table."""
    for name, row in report.get("stages", {}).items():
        text = f"  {name:<24} {1e3 * row['seconds']:8.3f} ms a step {row['share']:6.1%}"
        if "roofline" in row:
            text += f"  {row['gb']:7.3f} GB  {row['roofline']:6.1%} of the roofline"
        yield text
    if "python_overhead" in report:
        yield f"  {'outside of the kernels':<24} {'':19} {report['python_overhead']:6.1%}"
