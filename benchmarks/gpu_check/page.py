"""docs/evidence/gpu.md from a file of results: tables, and whatever was not as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ling.files.atomic import make_folder, write_atomic

from .record import ROOT, read_record
from .shapes import CLAIMS, LAYERS, LING, LLAMA, QWEN3

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evidence" / "gpu.md"

Entry = dict[str, Any]

_HEAD = """# On a GPU

Made by `scripts/gpu_check --page` from {source}; [how to run it](../guides/gpu-check.md).
"""
_NOTHING = """
**Nothing has been measured yet.** No machine with a GPU has run `scripts/gpu_check`, so no figure
of ling on a GPU is known, and these docs quote none. What can be tested without a GPU is: every
stage of the script at small size on the CPU, FP8 kernels in an interpreter against the definition.
"""


def newest_results() -> Path | None:
    """The last committed file of results, by its name, which begins with the date."""
    found = sorted(RESULTS.glob("*-gpu-check-*.json"))
    return found[-1] if found else None


def write_page(results: Path | None, to: Path) -> None:
    """The page of `results`, or of the newest committed ones; without any it says so."""
    results = results or newest_results()
    make_folder(to.parent)
    write_atomic(to, page(results))


def page(results: Path | None) -> str:
    """Markdown of a file of results, or that there is none."""
    if results is None:
        where = "the files `benchmarks/results/*-gpu-check-*.json`, of which there is none"
        return _HEAD.format(source=where) + _NOTHING
    record = read_record(results)
    stages = record["stages"]
    parts = [_HEAD.format(source=f"`{_shown(results)}`"), _machine(record), _stages(stages)]
    for name, made in _SECTIONS.items():
        if stages.get(name, {}).get("entries"):
            parts.append(made(stages[name]["entries"]))
    parts.append(_odd(stages))
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def _shown(path: Path) -> str:
    return (
        path.resolve().relative_to(ROOT).as_posix() if ROOT in path.resolve().parents else path.name
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# ---- what ran ----------------------------------------------------------------------------------


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    gpu = machine["gpu"] or {}
    tiny = "**A run of `--tiny` on a CPU: its times mean nothing.**\n\n" * bool(record["tiny"])
    rows = [
        ("started", f"{record['started']} UTC"),
        ("GPU", gpu.get("name", "none")),
        ("its memory", gpu.get("memory", "")),
        ("driver", gpu.get("driver", "")),
        *((name, machine[name]) for name in ("torch", "cuda", "triton", "python")),
        ("CPU", machine["cpu"].get("model", "")),
        ("commit", machine["commit"] or f"sources {machine['source']}"),
    ]
    return tiny + _table(("what", "which"), [row for row in rows if row[1]])


def _stages(stages: dict[str, Any]) -> str:
    rows = []
    for name, stage in stages.items():
        counts = Counter(entry["status"] for entry in stage["entries"])
        told = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        rows.append((name, stage["status"], f"{stage.get('seconds', 0):.0f}", told))
    return _table(("stage", "ended", "seconds", "checks"), rows)


def _odd(stages: dict[str, Any]) -> str:
    """Everything that is not as it should be, with what it says."""
    odd = [
        (f"{name}: {entry['name']}", entry["status"], _why(entry))
        for name, stage in stages.items()
        for entry in stage["entries"]
        if entry["status"] != "ok"
    ]
    odd += [
        (name, stage["status"], stage["error"].replace("|", "\\|"))
        for name, stage in stages.items()
        if stage.get("error")
    ]
    return "## Not as it should be\n\n" + _table(("what", "how", "why"), odd) if odd else ""


def _why(entry: Entry) -> str:
    if entry["status"] == "wrong":
        return f"error {_number(entry.get('error'))}, limit {_number(entry.get('limit'))}"
    return str(entry.get("error", "")).replace("|", "\\|")


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


# ---- the stages --------------------------------------------------------------------------------


def _checks(title: str, entries: list[Entry]) -> str:
    rows = [
        (e["name"], e["status"], _number(e.get("error")), _number(e.get("limit")))
        for e in entries
        if e["status"] in ("ok", "wrong") and "seconds_each" not in e
    ]
    return f"## {title}\n\n" + _table(("check", "result", "error", "limit"), rows) if rows else ""


def _measures(entries: list[Entry]) -> str:
    rows = []
    for e in entries:
        if e["status"] != "ok" or "seconds_each" not in e:
            continue
        rate = ""
        if "flops_per_s" in e:
            rate = f"{e['flops_per_s'] / 1e12:,.1f} TFLOP/s"
        elif "bytes_per_s" in e:
            rate = f"{e['bytes_per_s'] / 1e9:,.0f} GB/s"
        ratio = f"{e['ratio']:.2f} ×" if "ratio" in e else ""
        rows.append((e["name"], f"{e['seconds_each'] * 1e6:,.1f} µs", rate, ratio))
    return _table(("what", "time", "rate", "ratio"), rows) if rows else ""


def _parity(entries: list[Entry]) -> str:
    return _checks("Beside upstream's results", entries)


def _fp8(entries: list[Entry]) -> str:
    return _checks("FP8 beside the emulation on the CPU", entries) + "\n" + _measures(entries)


def _checklist(entries: list[Entry]) -> str:
    return _checks("What training needs of a GPU", entries)


def _constants(entries: list[Entry]) -> str:
    found: Entry = next((e["constants"] for e in entries if "constants" in e), {})
    text = "## Rates\n\n" + _measures(entries)
    if not found:
        return text
    rows = [(f"`{name}`", _shown_constant(value)) for name, value in found.items()]
    told = "\nConstants for `ling plan --calibrate`, which reads the file itself:\n\n"
    return text + told + _table(("constant", "value"), rows)


def _shown_constant(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{rows} rows: {share:.3g}" for rows, share in value.items())
    return f"{value:.4g}"


_TRAINING = """## Training at full width

Forward and backward of one row, bf16 or FP8 products. A layer's time is half the difference of 4
and 2 layers; the whole model's is that of 2 layers and as many more of these as it lacks. One GPU
has all experts, and nothing is sent: this is no throughput of a cluster.
"""


def _training(entries: list[Entry]) -> str:
    measured = {_setting(e): e for e in entries if e["status"] == "ok" and "model" in e}
    parts = [_TRAINING, _by_depth(measured), _ranks(measured), _whole_steps(entries)]
    return "\n".join(part for part in parts if part)


_KEYS = ("model", "seq_length", "fp8", "mtp", "recompute", "ep8_share", "layers")


def _setting(entry: Entry) -> tuple[Any, ...]:
    return tuple(entry[key] for key in _KEYS)


def _by_depth(measured: dict[tuple[Any, ...], Entry]) -> str:
    rows, whole = [], {}
    for key in dict.fromkeys(k[:-1] for k in measured if not k[5]):
        few, many = measured.get((*key, 2)), measured.get((*key, 4))
        if few is None or many is None:
            continue
        layer = (many["seconds_each"] - few["seconds_each"]) / 2
        model, length = key[:2]
        seconds = few["seconds_each"] + (LAYERS[model] - 2) * layer
        whole[key] = length / seconds
        rows.append((key, few, many, layer))
    lines = []
    for key, few, many, layer in rows:
        model, length, fp8, mtp, again, _ = key
        ratios = [
            whole[key] / whole[other]
            for name in (QWEN3, LLAMA)
            if model == LING and (other := (name, length, fp8, False, "none", False)) in whole
        ]
        memory = f"{many['peak_bytes'] / 1e9:.1f} GB" if "peak_bytes" in many else ""
        lines.append(
            (
                model + ", MTP" * mtp,
                length,
                "FP8" if fp8 else "bf16",
                again,
                *(f"{e['seconds_each'] * 1e3:.1f} ms" for e in (few, many)),
                f"{layer * 1e3:.2f} ms",
                f"{whole[key]:,.0f}",
                " and ".join(f"{r:.2f}" for r in ratios),
                memory,
            )
        )
    head = (
        "model",
        "tokens",
        "products",
        "recompute",
        "2 layers",
        "4 layers",
        "a layer",
        "whole model, tokens/s",
        "times Qwen3 and LLaMA 8B",
        "peak, 4 layers",
    )
    return _table(head, lines) if lines else ""


def _ranks(measured: dict[tuple[Any, ...], Entry]) -> str:
    rows = [
        (
            "FP8" if key[2] else "bf16",
            "yes" if key[3] else "no",
            f"{e['tokens_per_s']:,.0f}",
            f"{e['flops_per_s'] / 1e12:.0f}",
            f"{e['peak_bytes'] / 1e9:.1f} GB" if "peak_bytes" in e else "",
        )
        for key, e in measured.items()
        if key[5]
    ]
    told = "All 20 layers with 32 of 256 experts, the share of a rank of EP 8:\n\n"
    head = ("products", "MTP", "tokens/s", "TFLOP/s", "peak")
    return told + _table(head, rows) if rows else ""


def _whole_steps(entries: list[Entry]) -> str:
    rows = [
        (
            e["name"].partition(": ")[2],
            f"{e['seconds_each'] * 1e3:.1f} ms",
            f"{e['update_seconds_each'] * 1e3:.1f} ms",
            *(f"{e[k] / 1e9:.2f} GB" if k in e else "" for k in ("peak_bytes", "reported_bytes")),
        )
        for e in entries
        if "update_seconds_each" in e
    ]
    told = (
        "Steps with clipping and optimizer, and their memory beside the report before the run:\n\n"
    )
    head = ("step", "time", "of it the optimizer", "peak", "reported")
    return told + _table(head, rows) if rows else ""


def _decode(entries: list[Entry]) -> str:
    rows = [
        (
            e["context"],
            e["tokens"],
            f"{e['steps_per_s']:,.1f}",
            f"{e['base_steps_per_s']:,.1f}",
            f"{e['ratio']:.2f} [{e['ratio_least']:.2f}, {e['ratio_most']:.2f}]",
        )
        for e in entries
        if e["status"] == "ok" and "context" in e
    ]
    head = ("context", "tokens a step", "Ling-mini, steps/s", "dense 8B, steps/s", "ratio")
    claims = (
        f"Published: {CLAIMS['tokens_per_s']} tokens a second, over {CLAIMS['ratio']:.0f} times "
        f"a dense model of 8B, up to {CLAIMS['ratio_most']:.0f} times with long outputs.\n"
    )
    other = [e for e in entries if "context" not in e]
    parts = ["## Decoding, one request\n", _table(("check", "result"), _results(other))]
    if rows:
        parts += [_table(head, rows), claims]
    return "\n".join(parts)


def _results(entries: list[Entry]) -> list[tuple[str, str]]:
    return [
        (e["name"], f"{e['ratio']:.2f} × as fast" if "ratio" in e else e["status"]) for e in entries
    ]


_SECTIONS = {
    "parity": _parity,
    "fp8": _fp8,
    "checklist": _checklist,
    "constants": _constants,
    "training": _training,
    "decode": _decode,
}
