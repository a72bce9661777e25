"""Speculation with the MTP layer of the packaged model: same tokens, acceptance, speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claim import Claim, Context, Figure, Outcome, Result, Scale
from ..picture import drawing

TEMPERATURES = (0.0, 0.7)


def measure(context: Context) -> Result:
    from ...eval.draft_gain import Drafts, beginnings, draft_gain
    from ...hub.packaged import packaged_model

    model = packaged_model("ling-nano")
    assert model is not None
    prefix = _own_words(context, model)
    prompts = list(beginnings(str(prefix), context["prompts"], 64))
    reports = {}
    for temperature in TEMPERATURES:
        for drafts in (1, None):
            how = Drafts(num_drafts=drafts, temperature=temperature, tokens=context["tokens"])
            key = f"temperature {temperature:g}, {'one draft a step' if drafts else 'what pays'}"
            context.log(f"drafting: {key}")
            reports[key] = draft_gain(model, prompts, how)
    figures = []
    for key, r in reports.items():
        low, high = r["interval"]
        figures.append(
            Figure(
                f"speed with drafts, {key}",
                "",
                f"{r['ratio']:.2f} [{low:.2f}, {high:.2f}]",
                "measured",
                r["ratio"],
            )
        )
    for key, r in reports.items():
        if key.endswith("a step"):
            figures.insert(
                0,
                Figure(
                    f"accepted drafts, {key}",
                    "",
                    f"{r['acceptance']:.0%}",
                    "measured",
                    r["acceptance"],
                ),
            )
    count = len(prompts) * len(reports)
    figures.insert(
        0,
        Figure(
            "continuations equal with and without drafts",
            "lossless",
            f"{count} of {count}",
            "measured",
            count,
        ),
    )
    outcome: Outcome = "agrees"
    greedy = reports["temperature 0, one draft a step"]
    return Result(
        figures,
        outcome,
        f"All {count} continuations have the same tokens with drafts and without, greedy and "
        "sampled (another token would have ended the measurement with an error). Of the "
        f"drafts {greedy['acceptance']:.0%} hold in greedy decoding. A step with a draft "
        f"costs {greedy['step_cost']:.2f} times a plain one here: the MTP layer is a sixth of "
        "this model and a twentieth of Ling-mini, so what it gains there cannot be read from "
        "this ratio.",
        {"reports": reports},
    )


def _own_words(context: Context, model: Path) -> Path:
    """Held-out text in the ids of a model that has a tokenizer of its own."""
    from ...data.prepare import prepare

    folder = context.shared / "stdlib-packaged"
    return prepare(
        "stdlib", folder, tokenizer=model, max_bytes=context["corpus_bytes"], log=context.log
    ).valid_prefix


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path) as axes:
        reports = data["reports"]
        names = [key.replace(", ", "\n") for key in reports]
        ratios = [r["ratio"] for r in reports.values()]
        spread = [[r["ratio"] - r["interval"][0] for r in reports.values()]]
        spread.append([r["interval"][1] - r["ratio"] for r in reports.values()])
        axes.bar(names, ratios, yerr=spread, capsize=4)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(ylabel="times the speed without drafts")
        axes.tick_params(axis="x", labelsize=8)


CLAIM = Claim(
    name="mtp",
    title="Speculation with the MTP layer",
    published="The MTP layer drafts tokens, and the model's output stays as it was.",
    source="README",
    differs="The package's ling-nano, of 20 million parameters with its MTP layer, continues "
    "Python's own library, one request on a CPU. No acceptance rate is published for the released "
    "models.",
    quick=Scale(budget_s=60, settings={"corpus_bytes": 12_000_000, "prompts": 8, "tokens": 64}),
    full=Scale(budget_s=180, settings={"corpus_bytes": 12_000_000, "prompts": 24, "tokens": 128}),
    measure=measure,
    draw=draw,
    by_hand="python benchmarks/mtp_gain.py MODEL PREFIX --num-drafts 1",
)
