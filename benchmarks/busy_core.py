"""Speed while another program takes one core, beside a quiet machine and one thread.

    python benchmarks/busy_core.py [--model ling-nano] [--pairs 3] [--json]

Decoding, prefill and training run in processes of their own, quiet and with a busy loop pinned to
the first core, with all threads and with one, in turn. Prints a row a kind: medians in tokens per
second, and `goal`: decoding against the better of one thread beside the loop and half of the quiet
speed, prefill and training against the quiet speed. The row `gaps` has milliseconds: the p99 of
pauses between tokens of one stream, and `reached` is busy beside quiet, at most `goal`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

KINDS = ("decode", "prefill", "gaps", "train")
# One core is taken, and ours may be moved to the other: `busy` in front of the threads.
CONDITIONS = {"quiet": "all", "busy": "all", "busy, one thread": "1"}
GOALS = {"decode": 0.9, "prefill": 0.5, "gaps": 3.0, "train": 0.45}
GAP_TOKENS = 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ling-nano", help="preset or packed folder")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gaps-of", help="used by itself: the model of a stream")
    ns = parser.parse_args()
    if ns.gaps_of:
        print(stream_gap(ns.gaps_of))
        return
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the busy loop")
    rows = {kind: measure(kind, ns.model, ns.pairs) for kind in ns.kinds}
    load = [round(x, 1) for x in os.getloadavg()]
    if ns.json:
        print(json.dumps({"model": ns.model, "rows": rows, "load": load}))
        return
    print(f"{'':8}" + "".join(f"{name:>18}" for name in CONDITIONS) + f"{'reached':>10}{'goal':>6}")
    for kind, row in rows.items():
        digits = 2 if kind == "gaps" else 0
        speeds = "".join(f"{row[name]:>18,.{digits}f}" for name in CONDITIONS)
        print(f"{kind:8}{speeds}{row['reached']:>10.2f}{GOALS[kind]:>6}")
    print(f"tokens/s, medians of {ns.pairs}; load at the end {load}")


def measure(kind: str, model: str, pairs: int) -> dict[str, float]:
    """Median tokens per second in each condition, and what share of the goal's base is reached."""
    speeds: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    for _ in range(pairs):
        for name, threads in CONDITIONS.items():
            with busy_loop() if name.startswith("busy") else contextlib.nullcontext():
                speeds[name].append(RUNS[kind](model, threads))
    row = {name: statistics.median(values) for name, values in speeds.items()}
    base = row["quiet"]
    if kind == "decode":
        base = max(row["busy, one thread"], row["quiet"] / 2)
    return {**row, "reached": row["busy"] / base}


@contextlib.contextmanager
def busy_loop() -> Iterator[None]:
    """Another program that needs the first core without end."""
    program = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    program.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        program.kill()
        program.join()


def spin() -> None:
    """Run on the first core until killed."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        pass


def run(arguments: list[str], threads: str) -> str:
    """What a command prints; `threads` is "all" or a number."""
    environment = dict(os.environ)
    environment.pop("OMP_NUM_THREADS", None)
    if threads != "all":
        environment["OMP_NUM_THREADS"] = threads
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout + done.stderr


def generate(model: str, threads: str, kind: str) -> float:
    """Median tokens per second of one request after another."""
    shown = run(["-m", "ling", "bench", kind, model, "--pairs", "9", "--json"], threads)
    return float(json.loads(shown)["tokens_per_s"])


def gaps(model: str, threads: str) -> float:
    """Milliseconds between tokens of one stream, p99."""
    return float(run([__file__, "--gaps-of", model], threads).splitlines()[0])


def stream_gap(model: str) -> float:
    """The same in this process."""
    from ling.config.engine import EngineConfig
    from ling.infer.driver import Driver, Update
    from ling.infer.engine import Engine
    from ling.infer.open import open_runner, runner_for
    from ling.infer.request import SamplingParams
    from ling.model.ling import from_config
    from ling.presets import preset

    if Path(model).exists():
        config = EngineConfig()
        runner = open_runner(Path(model), config)
    else:
        config = EngineConfig(format="int4")
        runner = runner_for(from_config(preset(model), seed=0), config)
    times, ended = list[float](), threading.Event()

    def sink(updates: list[Update]) -> None:
        times.append(time.perf_counter())
        if updates[-1].event.finish_reason is not None:
            ended.set()

    params = SamplingParams(temperature=0, max_tokens=GAP_TOKENS, ignore_eos=True)
    Driver(Engine(runner, config)).submit([1, 2, 3], params, sink)
    ended.wait()
    pauses = sorted(b - a for a, b in itertools.pairwise(times[50:]))
    return 1000 * pauses[len(pauses) * 99 // 100]


def train(threads: str) -> float:
    """Tokens per second of the second half of a short run of the recipe `nano`."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "words.txt"
        words = random.Random(0).choices([f"word{i}" for i in range(500)], k=100_000)
        text.write_text("\n\n".join(" ".join(words[i : i + 50]) for i in range(0, 100_000, 50)))
        options = ["--data.corpus", str(text), "--train.steps", "12", "--data.vocab_size", "512"]
        run(["-m", "ling", "pretrain", "nano", "--out", folder + "/run", *options], threads)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["tokens_per_s"] for line in lines]
    return statistics.median(rates[len(rates) // 2 :])


RUNS = {
    "decode": lambda model, threads: generate(model, threads, "decode"),
    "prefill": lambda model, threads: generate(model, threads, "prefill"),
    "gaps": gaps,
    "train": lambda model, threads: train(threads),
}

if __name__ == "__main__":
    main()
