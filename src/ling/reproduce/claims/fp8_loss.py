"""Training in FP8 beside bf16 and beside a control, which says how much of it is noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together
from ..committed import committed
from ..shapes import NANO, SMALL

COMMITTED = "*-fp8-curves-*.json"
PUBLISHED = 0.0025
COSINE, UNDERFLOW = 0.99, 0.01
"""What "near 1" and "few" are taken for."""


def measure(context: Context) -> Result:
    from ...eval.fp8_curves import RUNS, compared
    from ..small_runs import recipe, train

    rows = {}
    for name, changes in RUNS.items():
        micro = context["rows"] // (2 if name == "control" else 1)
        made = recipe(
            context,
            train={
                **{key.removeprefix("train."): value for key, value in changes.items()},
                "micro_batch_size": micro,
                "dtype": "bfloat16",
                "eval_interval_steps": max(context["steps"] // 4, 1),
                "eval_rows": context["eval_rows"],
            },
            optim={"lr_min": 0.0},
        )
        rows[name] = train(context, name, made)
    found = compared(rows)
    fp8, control = found["relative"]["fp8"], found["relative"]["control"]
    loss, reading = judged(fp8["loss"], control["loss"])
    figures = [
        Figure(
            f"FP8 over bf16, {words}",
            "at most 0.25%" if key == "loss" else "",
            f"{fp8[key]:+.2%} (control {control[key]:+.2%})",
            "measured",
            fp8[key],
            outcome=loss if key == "loss" else None,
        )
        for key, words in (
            ("loss", "loss at the end"),
            ("valid_loss", "held-out loss"),
            ("mtp_loss", "MTP loss at the end"),
        )
    ]
    lost = health(rows["fp8"])
    figures += lost + earlier()
    return Result(
        figures,
        together((loss, lost[0].outcome or "open")),
        f"After {context['steps']} steps the loss in FP8 is {fp8['loss']:+.2%} of bf16's; the "
        f"control, which is bf16 with its sums in another order, is {control['loss']:+.2%} "
        f"off. {reading} Quantising is judged by itself: the worst tensor's cosine is "
        f"{lost[0].here}, and {lost[1].here} of the values became 0.",
        {"rows": {name: [thin(row) for row in log] for name, log in rows.items()}},
    )


def judged(fp8: float, control: float) -> tuple[Outcome, str]:
    """What two relative differences show, and why: where the control is off by more than the
    published difference, being within that is luck."""
    near, quiet = abs(fp8) <= PUBLISHED, abs(control) <= PUBLISHED
    if near and quiet:
        return "agrees", "That is within the published difference."
    if near or abs(fp8) <= abs(control):
        return "open", (
            "The control is off by more than the published difference: these runs are too noisy to "
            "tell one that small."
        )
    if fp8 < 0:
        return "open", (
            "The loss in FP8 is lower by more than the control is off: no harm, but not nearly "
            "identical either."
        )
    return "disagrees", (
        "FP8 differs by more than this control does; one control does not tell how wide noise is."
    )


def health(rows: list[dict[str, Any]]) -> list[Figure]:
    """What quantising loses, of the last step that measured it: the worst part of the model."""
    last = next(
        row for row in reversed(rows) if "activations/attention" in row.get("fp8_cosine", {})
    )
    cosine, zeros = min(last["fp8_cosine"].values()), max(last["fp8_underflow"].values())
    found: Outcome = "agrees" if cosine >= COSINE and zeros <= UNDERFLOW else "disagrees"
    return [
        Figure(
            "smallest cosine of a quantised tensor",
            "near 1",
            f"{cosine:.5f}",
            "measured",
            cosine,
            29,
            found,
        ),
        Figure("largest share of values that became 0", "few", f"{zeros:.3%}", "measured", zeros),
    ]


def earlier() -> list[Figure]:
    """The committed result of the long runs, with its date."""
    path = committed(COMMITTED)
    if path is None:
        return []
    tree = json.loads(path.read_text())
    fp8, control = tree["relative"]["fp8"]["loss"], tree["relative"]["control"]["loss"]
    what = f"FP8 over bf16, loss at the end, {tree['steps']} steps of ling-nano, {tree['date']}"
    text = f"{fp8:+.2%} (control {control:+.2%})"
    return [Figure(what, "at most 0.25%", text, "committed", fp8)]


def thin(row: dict[str, Any]) -> dict[str, float]:
    """What the picture needs of a row."""
    keys = ("step", "loss", "mtp_loss", "valid_loss", "valid_mtp_loss")
    return {key: round(row[key], 5) for key in keys if key in row}


def draw(data: dict[str, Any], path: Path) -> None:
    from ...eval.fp8_curves import draw as curves

    curves(data["rows"], path)


CLAIM = Claim(
    name="fp8-loss",
    title="The loss of FP8 beside that of bf16",
    published="Losses in FP8 and bf16 are nearly identical over 1T tokens: at most 0.25% "
    "apart, 0.1% on average after 900B tokens; little underflow, cosines near 1.",
    source="README, report",
    differs="A model of 3 to 17 million parameters on Python's own library for up to "
    "1.5 million tokens (8 million in the long runs: docs/evidence/fp8.md), FP8 products by "
    "emulation. Runs that small part by chance: the control says by how much.",
    quick=Scale(budget_s=240, settings={**SMALL, "steps": 300, "eval_rows": 64}),
    # A quarter of the long runs' rate, at which rounding decides less.
    full=Scale(
        budget_s=3600,
        settings={**NANO, "rows": 4, "steps": 750, "lr": 1e-3, "eval_rows": 256},
    ),
    measure=measure,
    draw=draw,
    by_hand="python benchmarks/fp8_curves.py RUNS",
)
