"""What each weight format and an int8 KV cache cost in quality: perplexity and KL divergence to
float32, on held-out tokens.

    python benchmarks/format_quality.py MODEL_FOLDER PREFIX [--rows 40] [--gguf FILE.gguf ...]

MODEL_FOLDER holds a trained model in bf16, PREFIX a Megatron .bin/.idx of held-out tokens. Our
formats run in our kernels (activations in 8 bits, as when serving). GGUF files of the same model,
made for instance by llama.cpp's own quantiser, are read back to float32 and run in PyTorch: their
weights' error alone, which flatters them. Prints one JSON line a format; KL is in nats per token.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ling.checkpoint.load import load_module
from ling.checkpoint.packed.names import packed_specs
from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.config.model import ModelConfig
from ling.data.indexed import IndexedDataset
from ling.infer.open import open_runner
from ling.infer.pages import Segment, pages_for
from ling.infer.runner import Runner
from ling.infer.torch_runner import TorchRunner
from ling.ops.formats import FORMATS, Format

ROW = 512
Score = Callable[[list[int]], Tensor]


def scorer(runner: Runner) -> Score:
    """Log-probabilities [T, V] of the next token after each position of a row."""
    runner.allocate(pages_for(ROW))
    pages = list(range(pages_for(ROW)))

    def score(tokens: list[int]) -> Tensor:
        hidden = runner.forward(tokens, [Segment(pages, 0, 0, len(tokens))])
        return runner.logits(hidden).log_softmax(-1).clone()

    return score


def gguf_scorer(path: Path) -> tuple[Score, float]:
    """The same for a GGUF file's values, and its bits per packed weight."""
    from ling.checkpoint.open import open_source

    source = open_source(path)
    model = load_module(source, "float32")
    names = [
        n
        for s in packed_specs(source.config).values()
        for e in range(max(s.experts, 1))
        for n in s.parts(e)
    ]
    values = sum(math.prod(source.tensor(n).shape) for n in names)
    bits = 8 * sum(source.stored_bytes(n) for n in names) / values
    return scorer(TorchRunner(model.eval())), bits


def packed_bits(cfg: ModelConfig, fmt: Format) -> float:
    """Bits per packed weight, head included."""
    bits = total = 0.0
    for spec in packed_specs(cfg).values():
        count = spec.rows * spec.cols * max(spec.experts, 1)
        bits += count * fmt.of_matrix(spec.name).bits
        total += count
    return bits / total


def rows(prefix: str, count: int) -> Iterator[list[int]]:
    """Rows of held-out tokens."""
    data = IndexedDataset(prefix)
    flat = [t for i in range(len(data)) for t in data.get(i).tolist()]
    for at in range(0, min(count * ROW, len(flat) - ROW), ROW):
        yield flat[at : at + ROW]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--gguf", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    texts = list(rows(args.prefix, args.rows))
    exact = scorer(open_runner(args.model, EngineConfig(dtype="float32")))
    want = [exact(t) for t in texts]
    print(json.dumps(report("float32", 32.0, texts, want, want)), flush=True)
    # Without other roundings beside it.
    for kv in KV_CACHE_DTYPES[1:]:
        score = scorer(open_runner(args.model, EngineConfig(dtype="float32", kv_cache_dtype=kv)))
        got = [score(t) for t in texts]
        print(json.dumps(report(f"float32, {kv} KV", 32.0, texts, want, got)), flush=True)
    for name, fmt in FORMATS.items():
        for kv in KV_CACHE_DTYPES:
            runner = open_runner(args.model, EngineConfig(format=name, kv_cache_dtype=kv))
            score, bits = scorer(runner), packed_bits(runner.config, fmt)
            got = [score(t) for t in texts]
            print(json.dumps(report(f"{name}, {kv} KV", bits, texts, want, got)), flush=True)
    for path in args.gguf:
        score, bits = gguf_scorer(path)
        got = [score(t) for t in texts]
        print(json.dumps(report(path.stem, bits, texts, want, got)), flush=True)


def report(
    name: str, bits: float, texts: list[list[int]], want: list[Tensor], got: list[Tensor]
) -> dict[str, float | str]:
    """Perplexity, KL to float32 and how often the most likely token is the same."""
    loss = kl = same = count = 0.0
    for tokens, p, q in zip(texts, want, got, strict=True):
        targets = torch.tensor(tokens[1:])
        loss -= float(q[:-1].gather(1, targets[:, None]).double().sum())
        kl += float((p.exp() * (p - q)).double().sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
        count += len(tokens)
    return {
        "format": name,
        "bits_per_weight": round(bits, 3),
        "perplexity": math.exp(loss / (count - len(texts))),
        "kl": kl / count,
        "same_top_1": same / count,
    }


if __name__ == "__main__":
    main()
