"""A plan as people read it: tables of plain text, and the published table as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ..text import size
from .constants import ASSUMED, Calibration
from .estimate import Estimate
from .gpus import Gpu
from .published import (
    ASSUMPTIONS,
    CELLS,
    GPU_COUNTS,
    NOT_IDENTIFIABLE,
    OTHERS,
    SOURCE,
    errors,
    planned,
    rms,
)

# Kinds of ranks beside each other; more of them go below each other.
_MAX_COLUMNS = 4
_DEGREES = ("dp_replicate", "dp_shard", "cp", "pp", "pp_stages_per_rank", "ep")


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows with their cells in columns, the first `left` of them flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if n < left else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def layout_words(found: Estimate) -> str:
    """The degrees above 1, recomputation and micro-batch."""
    layout = found.recipe.parallel
    degrees = [f"{n} {getattr(layout, n)}" for n in _DEGREES if getattr(layout, n) > 1]
    words = [*(degrees or ["one rank"]), f"recompute {layout.recompute}"]
    return ", ".join([*words, f"micro-batch {found.recipe.train.micro_batch_size}"])


def memory_table(found: Estimate) -> list[str]:
    """Kinds of memory of each rank, at most, and the peak."""
    kinds = [name for name in found.memory[0].kinds() if any(m.kinds()[name] for m in found.memory)]
    rows = [["memory", *(_ranks(m.rank, m.last) for m in found.memory)]]
    rows += [
        [name.replace("_", " "), *(size(m.kinds()[name]) for m in found.memory)] for name in kinds
    ]
    rows += [["peak, not all at once", *(size(m.peak) for m in found.memory)]]
    if len(found.memory) > _MAX_COLUMNS:
        rows[-1][0] = "peak"
        rows = [list(row) for row in zip(*rows, strict=True)]
    return columns(rows)


def _ranks(first: int, last: int) -> str:
    return f"rank {first}" if first == last else f"ranks {first}-{last}"


def traffic_table(found: Estimate) -> list[str]:
    """What a rank sends in a step."""
    if not found.traffic:
        return []
    rows = [["sent by a rank in a step", "", "to"]]
    rows += [[t.name, size(t.bytes), f"{t.ranks} ranks"] for t in found.traffic]
    return columns(rows)


def speed_lines(found: Estimate, price: float | None) -> list[str]:
    """Seconds of a step and what they are made of, tokens a second, and the cost of all tokens."""
    waiting = found.step_s - found.compute_s - found.exposed_s - found.update_s
    parts = {
        "computation": found.compute_s,
        "communication": found.exposed_s,
        "pipeline bubbles": waiting,
        "optimizer": found.update_s,
    }
    shares = [f"{n} {s / found.step_s:.0%}" for n, s in parts.items() if s > 0.0005 * found.step_s]
    return [
        f"step    {found.step_s:.3g} s of {found.tokens:,} tokens: {', '.join(shares)}",
        f"speed   {found.tokens_per_s:,.0f} tokens/s, MFU {found.mfu:.1%}",
        f"recipe  {_whole_run(found, price)}",
    ]


def _whole_run(found: Estimate, price: float | None) -> str:
    """Tokens, hours and cost of all steps; of epochs only the data say how many steps they are."""
    if not found.run_tokens():
        return "of epochs only the data say the steps: `ling sft RECIPE --dry-run` counts them"
    hours = found.gpu_hours()
    cost = "" if price is None else f", {_amount(price * hours)} at {price:g} an hour"
    return f"{found.run_tokens():,} tokens: {_amount(hours)} GPU hours{cost}"


def _amount(value: float) -> str:
    """Three digits at least, and no exponent."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(digits, 0)}f}"


def fit_line(found: Estimate, *, searched: bool = False) -> str:
    """Whether memory is enough, and what can be done; `searched` for all layouts already."""
    words = f"{size(found.peak)} of {size(found.gpu.usable_bytes)} usable"
    if found.fits:
        return f"fits    {words}"
    fix = (
        "no layout of these GPUs does; take more, or set what saves memory"
        if searched
        else "try `--search`"
    )
    return f"DOES NOT FIT: {words}; {fix}"


def report(
    found: Estimate, calibration: Calibration, price: float | None, *, searched: bool = False
) -> str:
    """One layout."""
    layout, gpu = found.recipe.parallel, found.gpu
    lines = [f"{found.recipe.model} on {layout.world} × {gpu.name}: {layout_words(found)}"]
    lines += ["", *memory_table(found), "", *traffic_table(found)]
    lines += [""] * bool(found.traffic) + [
        fit_line(found, searched=searched),
        *speed_lines(found, price),
    ]
    return "\n".join([*lines, "", peaks_line(gpu), constants_line(calibration)])


def peaks_line(gpu: Gpu) -> str:
    """What the shares are of."""
    memory, link, net = (
        size(b) for b in (gpu.memory_bytes_per_s, gpu.link_bytes_per_s, gpu.net_bytes_per_s)
    )
    rates = f"{gpu.bf16_flops / 1e12:,.4g} TFLOP/s in bfloat16, a second {memory} of memory, {link}"
    return f"peaks   {rates} to a GPU of the machine, {net} to others ({gpu.source})"


def constants_line(calibration: Calibration) -> str:
    """All constants, and which were measured."""
    assumed = _values(calibration, calibration.assumed)
    if not calibration.measured:
        return (
            f"constants are assumed: {assumed} (docs/guides/plan.md); "
            "`--calibrate FILE` takes measured ones"
        )
    measured = _values(calibration, calibration.measured)
    return f"measured: {measured}; assumed: {assumed or 'none'}"


def _values(calibration: Calibration, names: Sequence[str]) -> str:
    values = dataclasses.asdict(calibration.constants)
    return ", ".join(f"{name} {values[name]}" for name in names if values[name] is not None)


def search_table(found: Sequence[Estimate], count: int = 8) -> str:
    """The first layouts of a search."""
    rows = [["tokens/s", "MFU", "peak", "bubble", "layout"]]
    for e in found[:count]:
        layout = layout_words(e) + ("" if e.fits else " (does not fit)")
        cells = [f"{e.tokens_per_s:,.0f}", f"{e.mfu:.1%}", size(e.peak), f"{e.bubble:.0%}"]
        rows.append([*cells, layout])
    widths = [max(len(r[n]) for r in rows) for n in range(4)]
    return "\n".join(
        "  ".join([*(c.rjust(w) for c, w in zip(r, widths, strict=False)), r[4]]) for r in rows
    )


def flags(found: Estimate) -> str:
    """The layout as flags of `ling pretrain`."""
    layout = found.recipe.parallel
    degrees = [f"--parallel.{n} {getattr(layout, n)}" for n in _DEGREES if getattr(layout, n) > 1]
    last = f"--parallel.recompute {layout.recompute}"
    micro = f"--train.micro_batch_size {found.recipe.train.micro_batch_size}"
    return " ".join([*degrees, last, micro])


# ---- the published table -----------------------------------------------------------------------


def published_page() -> str:
    """`docs/evidence/throughput.md`."""
    found = errors()
    rows = ["| model | GPUs | recompute (assumed) | published tokens/s | planned | error |"]
    rows.append("|---|---|---|---|---|---|")
    for cell, error in zip(CELLS, found, strict=True):
        plan = planned(cell).tokens_per_s
        rows.append(
            f"| {cell.model} | {cell.gpus} | {cell.recompute} | {cell.tokens_per_s:,} "
            f"| {plan:,.0f} | {100 * error:+.1f}% |"
        )
    worst = max(map(abs, found))
    return "\n".join(
        [
            "# The published training throughput, as `ling plan` has it",
            "",
            "Written by `ling plan --published`; a test holds this page against it. Nothing here "
            "was measured by us: the published figures are those of the original project, the "
            "planned ones are counted (operations, bytes) and divided by fitted constants.",
            "",
            f"Source: {SOURCE}. On {GPU_COUNTS[0]}, {GPU_COUNTS[1]} and {GPU_COUNTS[2]} GPUs.",
            "",
            *rows,
            "",
            f"Root mean square of the errors {100 * rms(found):.1f}%, the largest "
            f"{100 * worst:.1f}%.",
            "",
            "## What is assumed",
            "",
            *(f"- {text}" for text in (*_fitted(), *ASSUMPTIONS)),
            "",
            "## What these figures cannot tell",
            "",
            *(f"- {text}" for text in NOT_IDENTIFIABLE),
            "",
            "With other assumptions other constants fit best, and nearly as well:",
            "",
            *_others(),
            "",
        ]
    )


def _others() -> list[str]:
    """Other assumptions, their constants, and how near those come."""
    rows = ["| assumed | large products | experts | memory traffic | rms | largest |"]
    rows.append("|---|---|---|---|---|---|")
    for other in OTHERS:
        found = other.errors()
        shares = f"{other.large:.1%} | {other.experts:.1%} | {other.stream:.1%}"
        rows.append(f"| {other.text} | {shares} | {rms(found):.1%} | {max(map(abs, found)):.1%} |")
    return rows


def _fitted() -> list[str]:
    c = ASSUMED
    return [
        f"fitted, of the H800's peaks: large products {c.gemm_share:.1%} (attention the same), "
        f"experts' products {c.expert_share(4096):.1%} at 4,096 rows an expert, memory traffic "
        f"{c.stream_share:.1%}; {c.all_to_all_share:.0%} of the link for rows of experts is fixed"
    ]
