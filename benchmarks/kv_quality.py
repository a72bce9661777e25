"""What a KV cache of fewer bits costs at long contexts: perplexity, KL divergence, and what a model
copies from far back.

    python benchmarks/kv_quality.py MODEL_FOLDER PREFIX [--contexts 512 2048] [--texts 12]

MODEL_FOLDER holds a trained model in bf16, PREFIX a Megatron .bin/.idx of held-out tokens. Every
type of cache is compared with the default on the same prompts, alone and beside weights in int4.
A needle is a list of random tokens at a random depth of a text; the prompt ends with its first
half, and the model should continue with the second. Where the default's `copied` is near 0, the
model cannot copy (that of `ling quickstart` cannot), and only the other figures say something.
Prints one JSON line for each context and type.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from format_quality import Score, report
from torch import Tensor

from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.data.indexed import IndexedDataset
from ling.infer.open import open_runner
from ling.infer.pages import Segment, pages_for

NEEDLE = 32


def scorer(model: Path, config: EngineConfig, context: int) -> Score:
    """Log-probabilities [T, V] of the next token after each position."""
    runner = open_runner(model, config)
    pages = list(range(pages_for(context)))
    runner.allocate(len(pages))

    def score(tokens: list[int]) -> Tensor:
        hidden = runner.forward(tokens, [Segment(pages, 0, 0, len(tokens))])
        return runner.logits(hidden).log_softmax(-1).clone()

    return score


def held_out(prefix: str, context: int, count: int) -> list[list[int]]:
    """Texts of `context` tokens, evenly spaced, so that they may overlap."""
    data = IndexedDataset(prefix)
    flat = [t for i in range(len(data)) for t in data.get(i).tolist()]
    last = len(flat) - context
    return [flat[at : at + context] for at in range(0, last + 1, max(1, last // (count - 1)))]


def with_needle(text: list[int], rng: random.Random) -> list[int]:
    """The text with a needle in it and again at its end."""
    needle = rng.sample(sorted(set(text)), NEEDLE)
    at = rng.randrange(len(text) - 3 * NEEDLE)
    return [*text[:at], *needle, *text[at : len(text) - 2 * NEEDLE], *needle]


def copied(prompts: list[list[int]], scores: list[Tensor]) -> dict[str, float]:
    """Of the needles' second halves: the share that is most likely, and the loss in nats."""
    right = loss = 0.0
    for tokens, logprobs in zip(prompts, scores, strict=True):
        targets = torch.tensor(tokens[-NEEDLE // 2 :])
        rows = logprobs[-NEEDLE // 2 - 1 : -1]
        right += float((rows.argmax(-1) == targets).double().mean())
        loss -= float(rows.gather(1, targets[:, None]).double().mean())
    return {"copied": right / len(prompts), "copy_loss": loss / len(prompts)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--texts", type=int, default=12)
    args = parser.parse_args()
    for context in args.contexts:
        texts, rng = held_out(args.prefix, context, args.texts), random.Random(0)
        prompts = [with_needle(text, rng) for text in texts]
        for weights in ("bf16", "int4"):
            want: list[Tensor] = []
            for kv in KV_CACHE_DTYPES:
                config = EngineConfig(format=weights, kv_cache_dtype=kv)
                score = scorer(args.model, config, context)
                got = [score(t) for t in texts]
                want = want or got
                line = {"context": context, **report(f"{weights}, {kv} KV", 0, texts, want, got)}
                del line["bits_per_weight"]
                print(json.dumps(line | copied(prompts, [score(t) for t in prompts])), flush=True)


if __name__ == "__main__":
    main()
