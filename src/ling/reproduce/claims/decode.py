"""Decoding speed of Ling-mini's shape against a dense 8B model's, at growing contexts."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ...presets import preset
from ..claim import Claim, Context, Figure, Outcome, Result, Scale
from ..picture import drawing

SIDES = {"mini": "ling-mini-2.0", "dense": "dense-8b"}
GPU_4080 = {0: 400, 8192: 328, 30720: 220}
"""Tokens a second of Ling-mini in Q4_K_M on an RTX 4080, by a user (ik_llama.cpp, issue 833)."""


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
                if n >= 2:  # the first read the weights into memory
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
    best = max(rows, key=lambda r: r["ratio"])
    figures = [
        Figure(
            "times a dense 8B model, at its best",
            "2 and more, 7 at long outputs",
            f"{best['ratio']:.1f} at {best['context']:,} tokens",
            "measured",
            best["ratio"],
            row=13,
        ),
        Figure(
            f"that ratio at {last['context']:,} tokens, of the one at none",
            "grows",
            f"{last['ratio'] / first['ratio']:.2f}",
            "measured",
            last["ratio"] / first["ratio"],
            row=14,
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
    shape = {n: row["mini"] / first["mini"] for n, row in ((r["context"], r) for r in rows)}
    figures += [
        Figure(
            f"Ling-mini at {n:,} tokens, of its speed at none",
            f"{GPU_4080[n] / GPU_4080[0]:.2f}" if n in GPU_4080 else "",
            f"{shape[n]:.2f}",
            "measured",
            shape[n],
            row=16 if n == max(GPU_4080) else 0,
        )
        for n in shape
        if n
    ]
    faster, grows = min(r["ratio"] for r in rows) > 2, last["ratio"] > first["ratio"]
    outcome: Outcome = (
        "agrees" if faster and grows else "partly" if faster or grows else "disagrees"
    )
    growth = "grows" if grows else "falls"
    scaled = f" Layers were measured on {layers} and scaled to all of them." if layers else ""
    return Result(
        figures,
        outcome,
        f"The ratio is {first['ratio']:.1f} at an empty context and {last['ratio']:.1f} at "
        f"{last['context']:,} tokens: it is above 2 "
        f"{'everywhere' if faster else 'not everywhere'}, and {growth} with the "
        f"context.{scaled} Both models read their weights and their cache for each token; "
        "with the context the caches count, of which Ling-mini's is 40,960 bytes a token and "
        "the dense model's 131,072, so the ratio tends from that of weights to that of "
        "caches, 3.2.",
        {"rows": rows},
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
        right.axhline(2, color="grey", linestyle="--", label="claimed: 2 and more")
        right.set(xlabel="tokens of context", ylabel="times the dense model's speed")
        right.set_ylim(0, 1.2 * max(r["ratio"] for r in rows))
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
