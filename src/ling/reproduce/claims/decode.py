"""Decoding speed of Ling-mini's shape against a dense 8B model's, at growing contexts."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ...presets import preset
from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together
from ..picture import drawing

SIDES = {"mini": "ling-mini-2.0", "dense": "dense-8b"}
GPU_4080 = {0: 400, 8192: 328, 30720: 220}
"""Tokens a second of Ling-mini in Q4_K_M on an RTX 4080, by a user (ik_llama.cpp, issue 833)."""
TWICE, SHORT, LONG = 2, 2048, 7
"""What is claimed of the ratio: over this, for outputs up to that many tokens; and at long ones."""
SHAPE_TOLERANCE = 0.1
"""Up to which shares of the speed at an empty context count as the same shape."""


def measure(context: Context) -> Result:
    from ...eval.dense_ratio import Decoder

    contexts = context["contexts"]
    decoders, factors = {}, {}
    for side, name in SIDES.items():
        whole = preset(name).num_hidden_layers
        layers = context["layers"] or whole
        factors[side] = whole / layers
        decoders[side] = Decoder(weights(name, layers, context), contexts[-1])
    rows = []
    for tokens in contexts:
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for n in range(context["steps"] + 2):
            for side, decoder in decoders.items():
                step = decoder.step(tokens)
                if n >= 2:  # the first find nothing of this context in the processor's caches
                    times[side].append(factors[side] * step.layers + step.head)
        ratio = statistics.median(d / m for m, d in zip(times["mini"], times["dense"], strict=True))
        rates = {side: 1 / statistics.median(each) for side, each in times.items()}
        rows.append({"context": tokens, "ratio": ratio, **rates})
        context.log(f"{tokens:,} tokens of context: {ratio:.1f} times as fast")
    return judged(rows, context["layers"])


def weights(name: str, layers: int, context: Context) -> Path:
    """A folder with random weights in int4, made once; without MTP layers."""
    from ...convert.synth import synth

    folder = context.work / f"{name}-{layers}-int4"
    if not folder.exists():
        cfg = preset(name)
        dense = layers if not cfg.num_experts else min(cfg.first_k_dense_replace, layers)
        changes = {"num_nextn_predict_layers": 0, "num_hidden_layers": layers}
        changes |= {"max_window_layers": layers, "first_k_dense_replace": dense}
        _check_room(name, layers, context)
        synth(cfg.replace(**changes), folder, to="int4", seed=context.seed, log=context.log)
    return folder


def _check_room(name: str, layers: int, context: Context) -> None:
    from ...convert.target import check_space
    from ...model.size import stored_bytes

    cfg = preset(name)
    check_space(context.work, int(stored_bytes(cfg, "int4") * layers / cfg.num_hidden_layers))


def judged(rows: list[dict[str, Any]], layers: int) -> Result:
    """What the ratios show; `layers` is 0 where the models had all of theirs."""
    first, last = rows[0], rows[-1]
    short = [row["ratio"] for row in rows if row["context"] <= SHORT]
    shape = {row["context"]: row["mini"] / first["mini"] for row in rows[1:]}
    grows = last["ratio"] > first["ratio"]
    far = [abs(shape[n] - GPU_4080[n] / GPU_4080[0]) for n in shape if n in GPU_4080]
    twice: Outcome = "agrees" if min(short) > TWICE else "disagrees"
    longer: Outcome = "disagrees" if not grows else "agrees" if last["ratio"] >= LONG else "partly"
    alike: Outcome = "open" if not far else "agrees" if max(far) <= SHAPE_TOLERANCE else "disagrees"
    figures = [
        Figure(
            f"times a dense 8B model, at up to {SHORT:,} tokens of context",
            f"over {TWICE}",
            _range(short),
            "measured",
            min(short),
            13,
            twice,
        ),
        Figure(
            f"times a dense 8B model, at {last['context']:,} tokens",
            f"grows, to {LONG} and more",
            f"{last['ratio']:.2f}, at none {first['ratio']:.2f}",
            "measured",
            last["ratio"],
            14,
            longer,
        ),
    ]
    for row in rows:
        figures.append(
            Figure(
                f"{row['context']:,} tokens of context, tokens/s of mini and dense",
                f"mini on an RTX 4080: {GPU_4080[row['context']]}"
                if row["context"] in GPU_4080
                else "",
                f"{row['mini']:.1f} and {row['dense']:.1f}, {row['ratio']:.2f} times",
                "measured",
                row["ratio"],
            )
        )
    figures += [
        Figure(
            f"Ling-mini at {n:,} tokens, of its speed at none",
            f"{GPU_4080[n] / GPU_4080[0]:.2f}" if n in GPU_4080 else "",
            f"{shape[n]:.2f}",
            "measured",
            shape[n],
            16 if n == max(GPU_4080) else 0,
            alike if n in GPU_4080 else None,
        )
        for n in shape
    ]
    growth = "grows" if grows else "falls"
    scaled = f" Layers were measured on {layers} and scaled to all of them." if layers else ""
    return Result(
        figures,
        together((twice, longer, alike)),
        f"The ratio is {first['ratio']:.1f} at an empty context and {last['ratio']:.1f} at "
        f"{last['context']:,} tokens: at up to {SHORT:,} it is "
        f"{'above' if twice == 'agrees' else 'not everywhere above'} {TWICE}, and it {growth} with "
        f"the context; {LONG} is {'reached' if last['ratio'] >= LONG else 'not reached'}. "
        f"{_alike(far)}{scaled} Both models read their weights and their cache for each token; "
        "with the context the caches count, of which Ling-mini's is 40,960 bytes a token and "
        "the dense model's 131,072, so the ratio tends from that of weights to that of "
        "caches, 3.2.",
        {"rows": rows},
    )


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _alike(far: list[float]) -> str:
    if not far:
        return "The RTX 4080's contexts were not measured."
    return (
        "Of its speed at an empty context Ling-mini keeps a share that differs from that on the "
        f"RTX 4080 by up to {max(far):.2f}."
    )


def draw(data: dict[str, Any], path: Path) -> None:
    rows = data["rows"]
    with drawing(path, columns=2, size=(9, 4)) as (left, right):
        at = [r["context"] for r in rows]
        for side, name in SIDES.items():
            left.plot(at, [r[side] for r in rows], "o-", label=name)
        left.set(xlabel="tokens of context", ylabel="tokens/s, int4")
        left.set_ylim(bottom=0)
        left.legend(fontsize=8)
        right.plot(at, [r["ratio"] for r in rows], "o-")
        right.axhline(TWICE, color="grey", linestyle="--", label="claimed: over 2")
        right.axhline(LONG, color="grey", linestyle=":", label="claimed: 7 and more, long outputs")
        right.set(xlabel="tokens of context", ylabel="times the dense model's speed")
        right.set_ylim(0, 1.2 * max(LONG, *(r["ratio"] for r in rows)))
        right.legend(fontsize=8)


CLAIM = Claim(
    name="decode",
    title="Decoding speed against a dense 8B model",
    published="300 tokens/s and more on an H20, over 2 times a dense 8B model, and 7 times "
    "and more at long outputs; 400, 328 and 220 tokens/s at 0, 8K and 30K tokens "
    "on an RTX 4080.",
    source="README; ik_llama.cpp, issue 833",
    differs="Random weights of both shapes in int4 on a CPU, one request; the KV cache has "
    "noise. The published dense model is not named; ours has the family's attention. "
    "A GPU that serves many requests is limited otherwise.",
    quick=Scale(
        budget_s=120, settings={"layers": 3, "contexts": [0, 2048, 8192, 30720], "steps": 8}
    ),
    full=Scale(
        budget_s=600, settings={"layers": 0, "contexts": [0, 2048, 8192, 30720], "steps": 24}
    ),
    measure=measure,
    draw=draw,
    by_hand="python benchmarks/dense_ratio.py CACHE",
)
