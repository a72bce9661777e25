"""Random weights of one shape for two servers, ours and llama.cpp's, with one tokenizer for both.

    python benchmarks/serve_models.py ling-mini-2.0 FOLDER [--format int4] [--type q4_0]

Writes FOLDER/PRESET-FORMAT for `ling serve` and FOLDER/PRESET-TYPE.gguf for llama.cpp. The weights
of both are independent draws of the same distribution, without a mean, so that tokens choose as
many different experts on both sides. The tokenizer has a token for every id: with fewer, one server
would choose among fewer ids than the other. What is there already is kept.
"""

from __future__ import annotations

import argparse
import random
import string
from pathlib import Path

from ling.convert.synth import synth
from ling.convert.synth_gguf import MIXTURES, cached_name, synth_gguf
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.ops.formats import integer_formats
from ling.presets import PRESETS, preset


def full_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer with `vocab_size` tokens, of made-up words."""
    rng = random.Random(0)
    words = (
        "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8))) for _ in range(vocab_size)
    )
    text = " ".join(words)
    tokenizer = train_tokenizer([text, text], vocab_size)  # a pair that is seen once is no token
    if tokenizer.vocab_size != vocab_size:
        raise SystemExit(f"{tokenizer.vocab_size} tokens instead of {vocab_size}")
    return tokenizer


def main() -> None:
    """Write what is missing and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="int4", choices=[f.name for f in integer_formats()])
    parser.add_argument("--type", default="q4_0", choices=MIXTURES)
    args = parser.parse_args()
    cfg, tokenizer = preset(args.preset), args.folder / f"{args.preset}-tokenizer"
    ours = args.folder / f"{args.preset}-{args.format}"
    theirs = args.folder / cached_name(args.preset, args.type)
    args.folder.mkdir(parents=True, exist_ok=True)
    if not tokenizer.exists():
        full_tokenizer(cfg.vocab_size).save(tokenizer)
    if not ours.exists():
        synth(cfg, ours, to=args.format)
    Tokenizer.from_folder(tokenizer).save(ours)
    if not theirs.exists():
        synth_gguf(cfg, theirs, args.type, tokenizer_folder=tokenizer)
    print(f"{ours}\n{theirs}")


if __name__ == "__main__":
    main()
