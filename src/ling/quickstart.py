"""`ling quickstart`: the whole length of the package, once, on this machine."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .config.optim import OptimConfig
from .config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from .errors import RunError, UsageError
from .files.atomic import make_folder, read_json, write_atomic

MODEL = "ling-nano"
# Small batches: with half a million tokens in all, more steps teach more than steadier ones.
ROWS, LENGTH = 2, 512
PROMPTS = (
    "import os\n\n\ndef ",
    "class Node:\n    def __init__(self",
    "    def test_",
    "for i in range(",
)


def quickstart(out: str | Path, minutes: float = 4.0) -> int:
    """Prepare the corpus, train `ling-nano`, convert, verify and generate; returns the exit code.

    Interrupted runs go on where they were. The number of steps is chosen once, by timing this
    machine against `minutes`, and kept in `<out>/quickstart.json`.
    """
    if not 0 < minutes <= 600:
        raise UsageError(f"`--minutes` is {minutes}, expected up to 600")
    out, start = make_folder(Path(out)), time.monotonic()
    from .data.prepare import prepare

    print(f"[1/5] corpus: the standard library of this Python -> {out / 'data'}")
    data = prepare("stdlib", out / "data", vocab_size=4096)
    recipe = _recipe(data, _steps(out, minutes))
    print(f"[2/5] training {MODEL} for {recipe.train.steps} steps -> {out / 'run'}")
    from .train.loop import run

    code = run(recipe, out / "run")
    if code:
        return code
    print(f"[3/5] converting to the Hugging Face layout -> {out / 'model'}")
    _convert(out)
    print("[4/5] checking")
    _check(out, data)
    print("[5/5] generating, with and without MTP speculation")
    _generate(out / "model")
    minutes_taken = (time.monotonic() - start) / 60
    print(f"\ndone in {minutes_taken:.1f} minutes. Pictures:")
    pictures: list[Any] = sorted((out / "run").glob("*.png"))
    for picture in pictures or ["none (pip install 'ling[plot]')"]:
        print(f"  {picture}")
    print("What to try next:")
    print(f'  ling generate {out / "model"} -p "def main(" --temperature 0.7 --speculative mtp')
    print(f"  ling chat {out / 'model'}")
    print(f"  ling serve {out / 'model'}")
    return 0


def _recipe(data: Any, steps: int) -> PretrainConfig:
    return PretrainConfig(
        model=MODEL,
        data=DataConfig(
            prefix=[str(data.train_prefix)],
            valid_prefix=[str(data.valid_prefix)],
            tokenizer=str(data.tokenizer_folder),
            seq_length=LENGTH,
        ),
        train=TrainConfig(
            steps=steps,
            global_batch_size=ROWS,
            micro_batch_size=ROWS,
            mtp_loss_weight=0.3,
            # Few steps: the bias must reach balance in hundreds, not tens of thousands.
            bias_update_rate=1e-2,
            eval_rows=24,
        ),
        optim=OptimConfig(lr=3e-3, lr_min=1e-4, warmup_steps=min(20, steps)),
        checkpoint=CheckpointConfig(interval_steps=100, keep_last=2),
    )


def _steps(out: Path, minutes: float) -> int:
    """How many steps fit into `minutes`: timed on the first call, remembered after it."""
    note = out / "quickstart.json"
    if note.is_file():
        known = read_json(note)
        if isinstance(known, dict) and isinstance(known.get("steps"), int) and known["steps"] > 0:
            return known["steps"]
        raise UsageError(f"{note}: damaged; use another --out")
    from .eval.bench import steps_within

    steps = max(steps_within(minutes, MODEL, ROWS, LENGTH), 20)
    write_atomic(note, json.dumps({"steps": steps, "minutes": minutes}) + "\n")
    return steps


def _convert(out: Path) -> None:
    from .convert.plan import convert

    if (out / "model").exists():
        shutil.rmtree(out / "model")
    convert(out / "run", out / "model", tokenizer=out / "data" / "tokenizer")


def _check(out: Path, data: Any) -> None:
    import torch

    from .convert.verify import verify
    from .eval.perplexity import perplexity
    from .train.log import read_metrics

    print("  " + verify(out / "model")["summary"])
    last = read_metrics(out / "run" / "metrics.jsonl")[-1]
    again = perplexity(
        out / "model",
        [str(data.valid_prefix)],
        seq_length=LENGTH,
        rows=24,
        dtype="bfloat16",
        compute_dtype=torch.bfloat16,
    )
    print(
        f"  held-out loss {again['loss']:.3f} nats per token (trainer {last['valid_loss']:.3f}, "
        f"token frequencies alone {data.stats['unigram_loss']:.3f})"
    )
    print(f"  MTP agrees with the main head on {again['mtp_agreement']:.0%} of held-out tokens")


def _generate(model: Path) -> None:
    from .infer.request import SamplingParams
    from .llm import LLM

    plain, fast = LLM(model), LLM(model, speculative="mtp")
    for temperature in (0.0, 0.7):
        params = SamplingParams(temperature=temperature, max_tokens=96, seed=1)
        rates, outputs, acceptance = [], [], None
        for llm in (plain, fast):
            tokens, seconds = llm.stats.generated, llm.stats.seconds
            drafted, accepted = llm.stats.drafted, llm.stats.accepted
            outputs.append([llm.generate(p, params)[0].outputs[0] for p in PROMPTS])
            rates.append((llm.stats.generated - tokens) / (llm.stats.seconds - seconds))
            if llm.stats.drafted > drafted:
                acceptance = (llm.stats.accepted - accepted) / (llm.stats.drafted - drafted)
        same = all(a.token_ids == b.token_ids for a, b in zip(*outputs, strict=True))
        if not same:
            raise RunError("speculative and plain decoding differ; please report this")
        sys.stdout.write("\n".join(["", f"--- temperature {temperature} ---", ""]))
        print(PROMPTS[0] + outputs[0][0].text)
        # A model this small is often as fast without drafts; the engine then makes none.
        drafts = "no drafts paid" if acceptance is None else f"{acceptance:.0%} of drafts accepted"
        print(f"--- {rates[0]:.1f} tokens/s plain, {rates[1]:.1f} with MTP, {drafts}, same tokens")
