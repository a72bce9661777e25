"""What choosing tokens costs: CPU time a row, sampled against greedy decoding, log-probabilities.

    python benchmarks/choosing.py rows
    python benchmarks/choosing.py decode FOLDER [--batch 1 32] [--tokens 16] [--pairs 4]
    python benchmarks/choosing.py logprobs FOLDER [--batch 1 8] [--tokens 16] [--pairs 4]
    python benchmarks/choosing.py echo FOLDER [--tokens 2000] [--pairs 1]
    python benchmarks/choosing.py memory [--prompts 128] [--answers 8]

FOLDER is a model in int4 or int8 (`ling synth ling-mini-2.0 FOLDER`). Random weights give scores
that are nearly flat, so decoding is measured with the scores of a trained model in their place:
Zipf's law, shuffled; 340 ids are in a nucleus of 0.8 at temperature 0.7. Prints one JSON object a
line. Ratios are of neighbours: speed of what is measured over the speed without it.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ling.config.engine import EngineConfig
from ling.convert.synth import synth
from ling.infer.choice import Chosen, Filters, RowChoice
from ling.infer.engine import Engine
from ling.infer.native_choice import native_choose
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams
from ling.infer.sampler import choose
from ling.llm import LLM
from ling.ops import native
from ling.presets import preset

VOCAB = 157_184
ADVICE: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05}
"""How the family's models want to be sampled."""


def trained_scores(rows: int, vocab: int = VOCAB) -> np.ndarray:
    """Scores as a trained model's: Zipf's law in an order of its own for each row."""
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.permutation(vocab) for _ in range(rows)])
    return (-0.85 * np.log(ranks + 1.0)).astype(np.float32)


# ---- rows --------------------------------------------------------------------------------------


def cpu_ms(work: Callable[[], Any], rows: int, times: int) -> float:
    """CPU milliseconds a row."""
    work()
    start = time.process_time()
    for _ in range(times):
        work()
    return 1e3 * (time.process_time() - start) / rows / times


def choose_all(scores: np.ndarray, choices: Sequence[RowChoice]) -> list[Chosen]:
    """The oracle's choices."""
    return [choose(row, choice) for row, choice in zip(scores, choices, strict=True)]


def measure_rows(_: argparse.Namespace) -> None:
    """The core and the oracle, one thread."""
    torch.set_num_threads(1)
    lib, rng, rows = native.required(), np.random.default_rng(0), 8
    seen = rng.choice(VOCAB, 1500, replace=False).astype(np.int32)
    advised = Filters.of(SamplingParams(**ADVICE))
    ways: dict[str, Callable[[int], RowChoice]] = {
        "greedy": lambda i: RowChoice(),
        "0.7/0.8/1.05": lambda i: RowChoice(advised, i, 1500, seen, np.ones_like(seen)),
        "temperature 1": lambda i: RowChoice(Filters(1.0), i),
        "greedy, 20 log-probabilities": lambda i: RowChoice(num_best=20),
        "a given token, 1 log-probability": lambda i: RowChoice(given=i, num_best=1),
    }
    random_weights = (0.9 * rng.normal(size=(rows, VOCAB))).astype(np.float32)
    for kind, z in (("trained", trained_scores(rows)), ("random weights", random_weights)):
        tensor = torch.from_numpy(z)
        for name, way in ways.items():
            choices = [way(i) for i in range(rows)]
            core = cpu_ms(partial(native_choose, lib, tensor, choices), rows, 60)
            oracle = cpu_ms(partial(choose_all, z, choices), rows, 1)
            report = {"scores": kind, "choice": name, "isa": native.isa()}
            print(json.dumps(report | {"core_ms": round(core, 3), "oracle_ms": round(oracle, 2)}))


# ---- decoding ----------------------------------------------------------------------------------


class TrainedScores:
    """A runner whose head is computed and whose scores are then replaced by a trained model's."""

    def __init__(self, runner: NativeRunner) -> None:
        self._runner, self._rows = runner, torch.from_numpy(trained_scores(8))
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        scores = self._runner.logits(hidden, vocab)
        for row in scores:
            self._at += 1
            row.copy_(self._rows[self._at % len(self._rows), : scores.shape[1]])
        return scores

    def choose(self, scores: Tensor, choices: Sequence[RowChoice]) -> list[Chosen]:
        return self._runner.choose(scores, choices)


def opened(folder: Path, num_pages: int, *, trained: bool) -> Engine:
    """An engine on a folder of packed weights."""
    runner = open_runner(folder, EngineConfig())
    if not isinstance(runner, NativeRunner):
        raise SystemExit("the kernel library is needed")
    wrapped: Any = TrainedScores(runner) if trained else runner
    return Engine(wrapped, EngineConfig(num_pages=num_pages))


def decode(engine: Engine, batch: int, tokens: int, params: dict[str, Any]) -> tuple[float, float]:
    """Wall and CPU seconds of decoding, without the first step."""
    draw = random.Random(batch)
    for i in range(batch):
        prompt = [draw.randrange(engine.config.vocab_size) for _ in range(32)]
        given = SamplingParams(max_tokens=tokens + 1, ignore_eos=True, seed=i, **params)
        engine.add(prompt, given)
    engine.step()
    wall, cpu = time.perf_counter(), time.process_time()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(args: argparse.Namespace, what: str, params: dict[str, Any]) -> None:
    """Greedy decoding with and without something, in turn."""
    engine, tokens = opened(args.folder, 128, trained=True), args.tokens or 16
    greedy = {"temperature": 0.0}
    for batch in args.batch or ([1, 32] if what == "decode" else [1, 8]):
        sides = {"greedy": greedy, what: params or greedy}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for pair in range(args.pairs + 1):
            for name in sorted(sides, reverse=bool(pair % 2)):
                times[name].append(decode(engine, batch, tokens, sides[name]))
        report: dict[str, Any] = {"batch": batch, "what": what}
        for part, kind in enumerate(("wall", "cpu")):
            plain, other = ([t[part] for t in times[name][1:]] for name in sides)
            pairs = zip(plain, other, strict=True)
            report[f"{kind}_ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
            report[f"{kind}_ms_a_step"] = [
                round(1e3 * statistics.median(t) / tokens, 2) for t in (plain, other)
            ]
        print(json.dumps(report), flush=True)


def measure_decode(args: argparse.Namespace) -> None:
    """Sampled as the family advises against greedy."""
    compare(args, "decode", ADVICE)


def measure_logprobs(args: argparse.Namespace) -> None:
    """Greedy with 20 log-probabilities against without."""
    compare(args, "logprobs", {"temperature": 0.0, "logprobs": 20})


# ---- scoring prompts ---------------------------------------------------------------------------


def prefill(engine: Engine, prompts: list[list[int]], scored: bool) -> tuple[float, float]:
    """Wall and CPU seconds of four prompts to their first token."""
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1 if scored else None)
    wall, cpu = time.perf_counter(), time.process_time()
    for prompt in prompts:
        engine.add(prompt, params)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure_echo(args: argparse.Namespace) -> None:
    """Four prompts with the log-probabilities of their tokens against without."""
    length = args.tokens or 2000
    engine, draw = opened(args.folder, 4 * (length // 64 + 2), trained=False), random.Random(0)
    times: tuple[list[tuple[float, float]], ...] = ([], [])
    for scored in (0, 1):  # weights and buffers are in memory then
        prefill(engine, [[draw.randrange(1000) for _ in range(256)]], bool(scored))
    for pair in range(min(args.pairs, 4)):
        for scored in (0, 1) if pair % 2 else (1, 0):
            vocab = engine.config.vocab_size
            prompts = [[draw.randrange(vocab) for _ in range(length)] for _ in range(4)]
            times[scored].append(prefill(engine, prompts, bool(scored)))
    more = [[b[i] / a[i] - 1 for a, b in zip(*times, strict=True)] for i in (0, 1)]
    report = {"tokens": 4 * length, "more_wall": round(statistics.median(more[0]), 3)}
    print(json.dumps(report | {"more_cpu": round(statistics.median(more[1]), 3), "s": times}))


# ---- memory ------------------------------------------------------------------------------------


class Peak:
    """Most memory since it was made, beyond what there was then; Linux only."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
        self.before = self._status("VmRSS")

    def _status(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def mb(self) -> int:
        """Megabytes."""
        return round((self._status("VmHWM") - self.before) * 1024 / 1e6)


def measure_memory(args: argparse.Namespace) -> None:
    """What results take, on a small body with the family's vocabulary."""
    small = preset("ling-tiny").replace(vocab_size=VOCAB, max_position_embeddings=8448)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        synth(small, target, to="int8", log=lambda line: None)
        llm, draw = LLM(target, max_model_len=8448), random.Random(0)
        plain: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
        llm.generate([[1]] * 128, SamplingParams(max_tokens=2, **plain))  # buffers are there now
        llm.engine.runner.logits(torch.zeros(64, small.hidden_size))
        llm.generate([list(range(2048))], SamplingParams(max_tokens=1, **plain))
        peak = Peak()
        params = SamplingParams(max_tokens=8192, logprobs=20, **plain)
        answers = llm.generate([[i] for i in range(args.answers)], params)
        entries = sum(len(o.outputs[0].token_ids) for o in answers)
        print(json.dumps({"answer_tokens": entries, "logprobs": 20, "mb": peak.mb()}))
        del answers
        prompts = [[draw.randrange(VOCAB) for _ in range(2000)] for _ in range(args.prompts)]
        peak = Peak()
        scored = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=1, **plain))
        entries = sum(len(o.prompt_token_ids) for o in scored)
        print(json.dumps({"prompt_tokens": entries, "logprobs": 1, "mb": peak.mb()}))


MEASUREMENTS = {
    "rows": measure_rows,
    "decode": measure_decode,
    "logprobs": measure_logprobs,
    "echo": measure_echo,
    "memory": measure_memory,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--answers", type=int, default=8)
    args = parser.parse_args()
    if args.what in ("decode", "logprobs", "echo") and args.folder is None:
        parser.error("FOLDER is missing")
    MEASUREMENTS[args.what](args)


if __name__ == "__main__":
    main()
