#!/usr/bin/env python3
"""Training steps of one network by ling and by transformers' nearest class (Glm4Moe), in turn.

    benchmarks/train_peers.py [--peer-python PYTHON] [--peer-step FILE] [--pairs N] [--rows N] ...

Hidden 512, 8 layers (1 dense), 64 experts top-4 of width 256, 1 shared, 8/2 heads of 64, vocabulary
32,000, rows of 1,024 tokens: 217M parameters. Each has a process of its own, bfloat16 products and
torch's fused AdamW (ling also 8-bit AdamW, `--optim`), and takes a step when it is its turn (order
a b b a). ling keeps weights in float32; of the peer `--peer-weights` says in which type (float32:
under autocast, as ling does it; bfloat16: as `from_pretrained(dtype=...)` gives them). A line tells
the ratio of peak memory, the median ratio of tokens per second, seconds, share of the peak of
products that is measured before each pair, and the largest resident memory. `--peer-step` names a
Python file for another peer: its function
`make_step(shape, rows, length, weights)` returns one that takes a step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LENGTH, VOCAB = 1024, 32000
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "first_k_dense_replace": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 256,
    "max_position_embeddings": 2048,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=None, help="has torch and transformers >= 5")
    parser.add_argument("--peer-step", default=None, help="file that makes another peer's step")
    parser.add_argument("--peer-weights", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--experts", default="grouped_mm", help="the peer's implementation")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--recompute", default="none", choices=("none", "moe", "full"))
    parser.add_argument("--optim", default="adamw", choices=("adamw", "adamw8bit"), help="of ling")
    parser.add_argument("--mtp", action="store_true", help="ling with an MTP layer")
    parser.add_argument("--child", choices=("ling", "peer"), help=argparse.SUPPRESS)
    ns = parser.parse_args()
    if ns.child:
        serve(ling(ns) if ns.child == "ling" else other(ns) if ns.peer_step else glm(ns))
    else:
        compare(ns)


# ---- the contenders ----------------------------------------------------------------------------


def ling(ns: argparse.Namespace) -> tuple[Callable[[], None], float]:
    """A step of ours, and the FLOPs that decision 28 counts for it."""
    from ling.config.optim import OptimConfig
    from ling.eval.bench import stepper
    from ling.model.ling import from_config
    from ling.model.size import flops_per_token
    from ling.presets import preset
    from ling.train.forward import LingForTraining
    from ling.train.recompute import recompute

    own = {"num_experts": 64, "num_shared_experts": 1, "num_nextn_predict_layers": int(ns.mtp)}
    cfg = preset("ling-nano").replace(**SHAPE, **own)
    model = from_config(cfg, seed=0)
    recompute(LingForTraining(model), ns.recompute)
    optim = OptimConfig(name=ns.optim, schedule="constant")
    return stepper(model, ns.rows, LENGTH, optim), flops_per_token(cfg, LENGTH) * ns.rows * LENGTH


def glm(ns: argparse.Namespace) -> tuple[Callable[[], None], float]:
    """A step of transformers' class."""
    import torch
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    own = {"n_routed_experts": 64, "n_shared_experts": 1, "use_qk_norm": True, "use_cache": False}
    config = Glm4MoeConfig(**SHAPE, **own)
    config._attn_implementation, config._experts_implementation = "sdpa", ns.experts
    torch.manual_seed(0)
    model = Glm4MoeForCausalLM(config).to(getattr(torch, ns.peer_weights)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    ids = torch.randint(0, VOCAB, (ns.rows, LENGTH))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=ns.peer_weights == "float32"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, 0.0


def other(ns: argparse.Namespace) -> tuple[Callable[[], None], float]:
    """A step that a file makes."""
    make_step = runpy.run_path(ns.peer_step)["make_step"]
    return make_step(SHAPE, ns.rows, LENGTH, ns.peer_weights), 0.0


def serve(contender: tuple[Callable[[], None], float]) -> None:
    """Answer each line of stdin: `peak`, or a step with its times and the memory so far."""
    step, flops = contender
    for line in sys.stdin:
        if line.strip() == "peak":
            import torch

            from ling.train.progress import gemm_peak

            print(json.dumps({"peak": gemm_peak(torch.bfloat16, 2048), "flops": flops}), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        done = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(done | {"memory": memory}), flush=True)


# ---- turns -------------------------------------------------------------------------------------


class Child:
    """A contender in its process."""

    def __init__(self, python: str, name: str) -> None:
        args = [python, os.path.abspath(__file__), *sys.argv[1:], "--child", name]
        self.process = subprocess.Popen(
            args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.steps: list[dict[str, float]] = []
        self.ask("step")  # warms up

    def ask(self, what: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def step(self) -> None:
        self.steps.append(self.ask("step"))

    def median(self, key: str) -> float:
        return statistics.median(s[key] for s in self.steps)


def compare(ns: argparse.Namespace) -> None:
    ours = Child(sys.executable, "ling")
    peer = Child(ns.peer_python, "peer") if ns.peer_python else None
    ours.step()
    if peer is not None:
        peer.step()
    shares = []
    for child in (ours, peer):
        if child is not None:
            child.steps.clear()
    for k in range(ns.pairs):
        measured = ours.ask("peak")
        for child in (ours, peer) if k % 2 == 0 else (peer, ours):
            if child is not None:
                child.step()
        shares.append(measured["flops"] / ours.steps[-1]["wall"] / measured["peak"])
    tokens = ns.rows * LENGTH
    for name, child in (("ling", ours), ("peer", peer)):
        if child is not None:
            print(
                f"{name}: {tokens / child.median('wall'):,.0f} tokens/s, {child.median('wall'):.2f}"
                f" s a step ({child.median('cpu'):.2f} CPU s), memory "
                f"{child.steps[-1]['memory'] / 1e9:.2f} GB"
            )
    print(f"share of the peak of products: {statistics.median(shares):.1%}")
    if peer is not None:
        share = ours.steps[-1]["memory"] / peer.steps[-1]["memory"]
        print(f"memory: {share:.2f} x (weights of the peer in {ns.peer_weights})")
        for key in ("wall", "cpu"):
            both = zip(ours.steps, peer.steps, strict=True)
            ratios = [b[key] / a[key] for a, b in both]
            print(
                f"ratio ({key}): {statistics.median(ratios):.2f} x "
                f"[{min(ratios):.2f}, {max(ratios):.2f}]"
            )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {ns}")


if __name__ == "__main__":
    main()
