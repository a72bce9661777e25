"""Tables of a report: what came of each run, how recipes differ, on what they ran."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from ...config.recipe import PretrainConfig
from ...config.recipe_docs import keys
from ...config.sft import SFTConfig
from ...text import size
from ..best import since_best
from .runs import RunData

_Row = tuple[str, list[str]]


def summary(runs: Sequence[RunData]) -> str:
    """One column a run: how far it is, losses, speed, memory, what went wrong."""
    rows: list[tuple[str, Callable[[RunData], str]]] = [
        ("state", _state),
        ("tokens", lambda r: _number(r.last("tokens"), "{:,.0f}")),
        ("loss, last", lambda r: _number(r.last("loss"), "{:.4f}")),
        ("held-out loss, last", lambda r: _number(r.last("valid_loss"), "{:.4f}")),
        ("held-out loss, lowest", _lowest),
        ("MTP loss, last", lambda r: _number(r.last("mtp_loss"), "{:.4f}")),
        ("held-out MTP loss, last", lambda r: _number(r.last("valid_mtp_loss"), "{:.4f}")),
        ("reward margin, last", lambda r: _number(r.last("reward_margin"), "{:.4f}")),
        (
            "held-out reward margin, last",
            lambda r: _number(r.last("valid_reward_margin"), "{:.4f}"),
        ),
        ("reward accuracy, last", lambda r: _number(r.last("reward_accuracy"), "{:.1%}")),
        (
            "held-out reward accuracy, last",
            lambda r: _number(r.last("valid_reward_accuracy"), "{:.1%}"),
        ),
        ("tokens/s, median", lambda r: _number(r.typical("tokens_per_s"), "{:,.0f}")),
        (
            "trained tokens/s, median",
            lambda r: _number(r.typical("trained_tokens_per_s"), "{:,.0f}"),
        ),
        ("MFU, median", lambda r: _number(r.typical("mfu"), "{:.1%}")),
        ("memory of the largest rank", _memory),
        ("GPU memory of the largest rank", _gpu_memory),
        ("communication", lambda r: _number(r.typical("communication_share"), "{:.1%}")),
        ("waiting for data", lambda r: _number(r.typical("data_share"), "{:.2%}")),
        ("slowest rank", _slowest),
        ("expert load at the end, max / mean", _load),
        ("dead experts at the end", _dead),
        ("router bias, largest", lambda r: _number(r.last("router_bias"), "{:.4f}")),
        ("skipped steps", _skipped),
        ("restarts", lambda r: "not noted" if r.restarts is None else str(r.restarts)),
    ]
    found = [(label, [cell(run) for run in runs]) for label, cell in rows]
    return _table("", runs, [row for row in found if any(cell != "–" for cell in row[1])])


def _lowest(run: RunData) -> str:
    """Of the checkpoint that a fine-tuning keeps; of pre-training only the last one counts."""
    found = run.series.get("valid_loss")
    if found is None or "method" not in (run.recipe or {}):
        return "–"
    best = -1 - since_best(found.values)
    return f"{found.values[best]:.4f} (step {found.steps[best]:,})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _state(run: RunData) -> str:
    steps = (run.recipe or {}).get("train.steps")
    if steps is not None and run.last_step >= steps:
        return f"done, {run.last_step:,} steps"
    of = "" if steps is None else f" of {steps:,}"
    if _ended_early(run):
        return f"ended early (`train.early_stop`), step {run.last_step:,}{of}"
    return f"{'running' if run.is_running else 'stopped'}, step {run.last_step:,}{of}"


def _ended_early(run: RunData) -> bool:
    patience, found = (run.recipe or {}).get("train.early_stop"), run.series.get("valid_loss")
    if not patience or found is None or run.is_running:
        return False
    return found.steps[-1] == run.last_step and since_best(found.values) >= patience


def _memory(run: RunData) -> str:
    return _largest(run, "memory")


def _gpu_memory(run: RunData) -> str:
    return _largest(run, "gpu_memory")


def _largest(run: RunData, key: str) -> str:
    found = run.series.get(key)
    return "–" if found is None or not found.high else size(max(found.high))


def _slowest(run: RunData) -> str:
    if not run.slowest:
        return "–"
    name, count = run.slowest.most_common(1)[0]
    return f"rank {name} ({count / run.slowest.total():.0%} of the time)"


def _load(run: RunData) -> str:
    return f"{run.loads.at_end().shares().max():.2f}" if run.loads.counts else "–"


def _dead(run: RunData) -> str:
    """Experts without a token in the last part of the run."""
    if not run.loads.counts:
        return "–"
    (end,) = run.loads.at_end().counts
    return f"{int((end == 0).sum())} of {end.size}"


def _skipped(run: RunData) -> str:
    shown = ", ".join(f"{n:,}" for n in run.skipped[:5])
    more = " …" if len(run.skipped) > 5 else ""
    return f"{len(run.skipped)} ({shown}{more})" if run.skipped else "0"


# ---- recipes -----------------------------------------------------------------------------------


def recipes(runs: Sequence[RunData]) -> str:
    """The keys in which runs differ; of a single run those that are not the default."""
    known = [run for run in runs if run.recipe is not None]
    if not known:
        return "<p>No recipe was found (config.yaml).</p>"
    if len(runs) == 1:
        kind = SFTConfig if "method" in (known[0].recipe or {}) else PretrainConfig
        defaults = {key.name: key.default for key in keys(kind)}
        names = [k for k, v in (known[0].recipe or {}).items() if repr(v) != defaults.get(k)]
        return "<p>Keys that are not the default.</p>" + _recipe_table(runs, names)
    every = list(dict.fromkeys(key for run in known for key in run.recipe or {}))
    names = [k for k in every if len({repr((run.recipe or {}).get(k)) for run in known}) > 1]
    if not names:
        return "<p>The recipes are equal.</p>"
    return _recipe_table(runs, names)


def _recipe_table(runs: Sequence[RunData], names: list[str]) -> str:
    def cell(run: RunData, key: str) -> str:
        return "–" if run.recipe is None else _value(run.recipe.get(key))

    return _table("key", runs, [(key, [cell(run, key) for run in runs]) for key in names])


def _value(value: Any) -> str:
    return (
        "–"
        if value is None
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


# ---- answers -----------------------------------------------------------------------------------

_LONGEST = 600


def samples(runs: Sequence[RunData]) -> str:
    """Held-out prompts of fine-tunings with the first and the last answer; nothing for others."""
    parts = [_samples(run) for run in runs if run.samples]
    return f"<section><h2>Held-out prompts</h2>{''.join(parts)}</section>" if parts else ""


def _samples(run: RunData) -> str:
    first, last = (min(_steps_of(run)), max(_steps_of(run)))
    answers = {step: [r for r in run.samples if r["step"] == step] for step in (first, last)}
    head = ("prompt", "expected", f"step {first:,}", f"step {last:,}")
    rows = [
        [_asked(new), new.get("expected"), old.get("answer"), new.get("answer")]
        for old, new in zip(answers[first], answers[last], strict=False)
    ]
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(map(_text_cell, row))}</tr>" for row in rows)
    return f"<p>{html.escape(run.name)}</p><table><tr>{cells}</tr>{body}</table>"


def _steps_of(run: RunData) -> list[int]:
    return [row["step"] for row in run.samples]


def _asked(row: dict[str, Any]) -> Any:
    """The last message of a prompt."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("content") if isinstance(last, dict) else None


def _text_cell(value: Any) -> str:
    text = value if isinstance(value, str) else "–"
    return f"<td>{html.escape(text[:_LONGEST])}</td>"


# ---- machines ----------------------------------------------------------------------------------

_FACTS = ("time", "ranks", "hosts", "cpu", "cores", "memory", "gpu", "torch", "python", "ling")


def machines(runs: Sequence[RunData]) -> str:
    """What each run was last started on, and after which steps it was continued."""
    if not any(run.starts for run in runs):
        return "<p>Not noted: these runs are of an older version.</p>"
    last = [run.starts[-1] if run.starts else {} for run in runs]
    rows = [(name, [_value(start.get(name)) for start in last]) for name in (*_FACTS, "commit")]
    rows = [row for row in rows if any(cell != "–" for cell in row[1])]
    after = [", ".join(str(s.get("after_step")) for s in run.starts[1:]) or "–" for run in runs]
    return _table("", runs, [*rows, ("continued after step", after)])


def _table(corner: str, runs: Sequence[RunData], rows: Sequence[_Row]) -> str:
    """HTML; every text is escaped here."""
    head = "".join(f"<th scope=col>{html.escape(run.name)}</th>" for run in runs)
    body = "".join(
        f"<tr><th scope=row>{html.escape(label)}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    return (
        f"<div class=scroll tabindex=0><table><thead><tr><th scope=col>{html.escape(corner)}</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
