#!/usr/bin/env python3
"""Fine-tuning steps by ling and by trl's SFTTrainer on ling's transformers class, in turn.

    benchmarks/trl_peer.py MODEL DATA... --peer-python PYTHON [--pairs 8] [--length 512] [--rows 8]

MODEL is a folder with tokenizer and float weights, DATA are files of conversations. Both trainers
get the same ids and labels, cut at `--length`, once padded and once packed: rows of a step as long
as the longest, or filled by best fit. All weights are trained, bfloat16 products, fused AdamW, no
MTP layer, no recomputation, one thread. PYTHON has torch, trl and transformers. Each of the four
has a process of its own and takes a step when it is its turn, in an order that is reversed each
time. Trained tokens (those with a label) per CPU second are counted over all steps of a trainer,
and ratios over its pairs of steps; memory is the most that was resident.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("padded", "packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder with tokenizer and float weights")
    parser.add_argument("data", nargs="+", help="files of conversations")
    parser.add_argument("--peer-python", required=True, help="has torch, trl and transformers")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--child", choices=("ling", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--room", help=argparse.SUPPRESS)
    ns = parser.parse_args()
    if ns.child:
        {"ling": ling, "trl": trl}[ns.child](ns, Turns())
    else:
        with tempfile.TemporaryDirectory() as room:
            compare(ns, Path(room))


# ---- the contenders ----------------------------------------------------------------------------


class Turns:
    """Waits for the turn of this process, and tells what its step took."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self._start = 0.0

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self._start = time.process_time()

    def done(self, trained: int) -> None:
        cpu = time.process_time() - self._start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"cpu": cpu, "trained": trained, "memory": memory}), file=self._out)
        self._out.flush()


def ling(ns: argparse.Namespace, turns: Turns) -> None:
    """Steps of `ling sft`."""
    import torch

    from ling.config.sft import ChatDataConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
    from ling.train.setup import setup
    from ling.train.step import train_step

    torch.set_num_threads(1)
    room = Path(ns.room)
    recipe = SFTConfig(
        model=str(room / "model"),
        data=ChatDataConfig(
            files=[str(room / "tokens.jsonl")],
            seq_length=ns.length,
            packing="best_fit" if ns.way == "packed" else "off",
        ),
        train=SFTTrainConfig(
            steps=200, global_batch_size=ns.rows, micro_batch_size=ns.rows, threads=1
        ),
        optim=SFTOptimConfig(lr=1e-5, schedule="constant"),
    )
    run = setup(recipe, room / f"ling-{ns.way}", print)
    for step in itertools.count():
        turns.wait()
        batch = run.reader.read(step * ns.rows, ns.rows)
        train_step(run.state, run.objective, [batch], recipe.train, recipe.optim, run.reduce)
        turns.done(int(batch.mask_BS.sum()))


def trl(ns: argparse.Namespace, turns: Turns) -> None:
    """Steps of trl's trainer, which waits for its turn before each."""
    import datasets
    import torch
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    import ling  # noqa: F401  (registers the model with transformers)

    torch.set_num_threads(1)
    room, counts = Path(ns.room), iter(())

    class Waits(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done(next(counts))

    trainer = trl.SFTTrainer(
        AutoModelForCausalLM.from_pretrained(room / "model", dtype=torch.float32),
        trl.SFTConfig(
            str(room / f"trl-{ns.way}"), max_steps=200, per_device_train_batch_size=ns.rows,
            learning_rate=1e-5, lr_scheduler_type="constant", seed=1, bf16=True, use_cpu=True,
            max_length=ns.length, packing=ns.way == "packed", gradient_checkpointing=False,
            optim="adamw_torch_fused", save_strategy="no", report_to=[], logging_steps=200,
        ),
        train_dataset=datasets.load_dataset(
            "json", data_files=str(room / "tokens.jsonl"), cache_dir=str(room / f"trl-{ns.way}")
        )["train"],
        processing_class=AutoTokenizer.from_pretrained(room / "model"),
        callbacks=[Waits()],
    )  # fmt: skip
    trainer.data_collator, counts = counted(trainer.data_collator)
    trainer.train()


def counted(collate: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """The same collator, and the number of labels of each batch that it made."""
    counts: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        batch = collate(*args, **kwargs)
        counts.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch

    return counting, (counts[i] for i in itertools.count())


# ---- turns -------------------------------------------------------------------------------------


class Child:
    """A contender in its process."""

    def __init__(self, python: str, name: str, way: str, room: Path) -> None:
        self.name, self.way = name, way
        args = [*sys.argv[1:], "--child", name, "--way", way, "--room", str(room)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [python, os.path.abspath(__file__), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(room / "log").open("a"),
            text=True, env=env,
        )  # fmt: skip
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} {self.way} ended")
        self.steps.append(json.loads(answer))

    @property
    def rate(self) -> float:
        return sum(s["trained"] for s in self.steps) / sum(s["cpu"] for s in self.steps)


def compare(ns: argparse.Namespace, room: Path) -> None:
    prepare(ns, room)
    children = {}
    for way in WAYS:
        for name, python in (("ling", sys.executable), ("trl", ns.peer_python)):
            children[name, way] = Child(python, name, way, room)
    try:
        for child in children.values():
            for _ in range(2):  # memory and kernels of the first steps
                child.step()
            child.steps.clear()
        for k in range(ns.pairs):
            for child in list(children.values())[:: 1 if k % 2 == 0 else -1]:
                child.step()
    except SystemExit:
        print((room / "log").read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        for child in children.values():
            child.process.kill()
    for child in children.values():
        tell(child)
    for way in WAYS:
        ours, peer = children["ling", way], children["trl", way]
        ratios = [
            (a["trained"] / a["cpu"]) / (b["trained"] / b["cpu"])
            for a, b in zip(ours.steps, peer.steps, strict=True)
        ]
        memory = ours.steps[-1]["memory"] / peer.steps[-1]["memory"]
        print(
            f"{way}: {ours.rate / peer.rate:.2f} x trained tokens a CPU second (pairs: median "
            f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}), "
            f"{memory:.2f} x memory"
        )
    packing = children["ling", "packed"].rate / children["ling", "padded"].rate
    print(f"ling packed against padded: {packing:.2f} x")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def tell(child: Child) -> None:
    tokens, cpu = (statistics.mean(s[key] for s in child.steps) for key in ("trained", "cpu"))
    print(
        f"{child.name} {child.way}: {child.rate:,.0f} trained tokens a CPU second ({tokens:,.0f} "
        f"in {cpu:.2f} s a step), {child.steps[-1]['memory'] / 1e9:.2f} GB"
    )


def prepare(ns: argparse.Namespace, room: Path) -> None:
    """The model without MTP layers in float32, and the ids and labels of both trainers."""
    from ling.checkpoint.open import tokenizer_folder
    from ling.config.sft import ChatDataConfig
    from ling.convert.plan import convert
    from ling.data.conversations.records import read_records
    from ling.data.conversations.supervise import supervise
    from ling.data.conversations.template import open_template
    from ling.data.conversations.types import Conversation
    from ling.data.tokenizer import Tokenizer

    convert(ns.model, room / "model", to="float32", mtp="drop")
    folder = tokenizer_folder(ns.model)
    assert folder is not None, f"{ns.model}: no tokenizer in it"
    tokenizer = Tokenizer.from_folder(folder)
    template = open_template(None, tokenizer)
    lengths, kept, trained = [], 0, 0
    with (room / "tokens.jsonl").open("w") as file:
        for record in read_records(ChatDataConfig(files=ns.data)):
            if not isinstance(record, Conversation):
                continue
            for sample in supervise(record, template, tokenizer):
                ids, labels = sample.ids[: ns.length], sample.labels[: ns.length]
                count = sum(label != -100 for label in labels[1:])
                if count:
                    file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
                    lengths.append(len(ids))
                    kept, trained = kept + 1, trained + count
    print(
        f"{kept} samples of {statistics.mean(lengths):.0f} tokens on average (at most "
        f"{ns.length}), {trained / sum(lengths):.0%} of them trained"
    )


if __name__ == "__main__":
    main()
