"""Everything of training that touches the device, each beside the same on the CPU.

The network is ling-tiny, so that a check takes moments; sizes and speed are other stages' matter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ling.checkpoint.run_folder import checkpoints
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ling.data.indexed import IndexedDataset, IndexedWriter
from ling.presets import preset
from ling.train import loop
from ling.train.adam8 import AdamW8bit
from ling.train.batches import Batch
from ling.train.device import random_states, restore_random
from ling.train.heldout import held_out_loss
from ling.train.log import read_metrics
from ling.train.network import build_network
from ling.train.objectives.pretrain import Pretraining
from ling.train.optim import build_optimizer
from ling.train.parallel.apply import parallelise
from ling.train.profile import StepProfiler
from ling.train.saving import Saver
from ling.train.state import TrainState, load
from ling.train.step import StepResult, train_step

from .compare import largest, relative, same_bits, seeded
from .stage import Stage, Values

CPU = torch.device("cpu")
MODEL, LENGTH, STEPS = "ling-tiny", 64, 4


def run(stage: Stage) -> None:
    """All checks of the stage."""
    for name, function in CHECKS.items():
        stage.check(name, function, stage)
    for what in ("moe", "full"):
        stage.check(f"recompute: {what}", recomputed, stage, what)


# ---- what is trained ---------------------------------------------------------------------------


def recipe(prefix: str = "unread", **train: Any) -> PretrainConfig:
    """A recipe of a few steps with everything that changes from step to step."""
    return PretrainConfig(
        model=MODEL,
        data=DataConfig(prefix=[prefix], seq_length=LENGTH),
        train=TrainConfig(
            **{
                "steps": STEPS,
                "global_batch_size": 4,
                "micro_batch_size": 2,
                "dtype": "float32",
                "bias_update_hold_steps": 2,
                "bias_update_decay_steps": 2,
                "threads": 1,
                **train,
            }
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=2, schedule="cosine"),
        checkpoint=CheckpointConfig(interval_steps=2),
    )


def made_state(cfg: PretrainConfig, device: torch.device) -> TrainState:
    """Network, weights and optimizer as a run on this device makes them."""
    here: Any = device.type
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, device=here))
    spread = partial(parallelise, cfg, None)
    network = build_network(cfg, preset(cfg.model), device, spread)
    return TrainState(network, build_optimizer(network.ling, cfg.optim), device)


def batch_of(seed: int, rows: int = 2) -> Batch:
    """Random tokens, on the CPU."""
    vocab = preset(MODEL).vocab_size
    ids = torch.randint(0, vocab, (rows, LENGTH + 1), generator=seeded(seed))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, LENGTH))


def packed_batch() -> Batch:
    """Rows of two documents that neither see nor predict each other."""
    batch = batch_of(7)
    batch.documents_BS = torch.arange(LENGTH).expand(2, LENGTH).ge(LENGTH // 3).long()
    batch.mask_BS[:, LENGTH // 3 - 1] = 0.0
    return batch


def objective(cfg: PretrainConfig) -> Pretraining:
    return Pretraining(cfg.train.mtp_loss_weight, cfg.train.z_loss_coef)


def take(state: TrainState, cfg: PretrainConfig) -> StepResult:
    """The next step, on rows that its number decides."""
    batches = [batch_of(10 * state.step + k) for k in range(2)]
    return train_step(state, objective(cfg), batches, cfg.train, cfg.optim)


def trained(cfg: PretrainConfig, device: torch.device) -> tuple[TrainState, list[StepResult]]:
    """`STEPS` steps from the seed's weights."""
    state = made_state(cfg, device)
    return state, [take(state, cfg) for _ in range(STEPS)]


def weights(state: TrainState) -> dict[str, Tensor]:
    """A copy on the CPU, expert biases included."""
    return {name: t.detach().cpu().clone() for name, t in state.model.state_dict().items()}


# ---- checks ------------------------------------------------------------------------------------


def steps_float32(stage: Stage) -> Values:
    """Losses, norms, rates, loads and biases of some steps beside the CPU's."""
    return _beside_cpu(stage, recipe(), limit=1e-4)


def steps_fp8(stage: Stage) -> Values:
    """With products in FP8, by what the device has for them, beside the emulation on the CPU."""
    return _beside_cpu(stage, recipe(dtype="bfloat16", fp8="blockwise"), limit=2e-2)


def steps_fp8_savings(stage: Stage) -> Values:
    """With weights turned on demand and kept in FP8, and routing that is filled up."""
    savings: dict[str, Any] = {
        "fp8_param_gather": True,
        "fp8_transpose_on_demand": True,
        "fp8_pad_routing": True,
    }
    return _beside_cpu(stage, recipe(dtype="bfloat16", fp8="blockwise", **savings), limit=2e-2)


def steps_adamw8bit(stage: Stage) -> Values:
    """With moments of one byte."""
    cfg = recipe()
    optim = dataclasses.replace(cfg.optim, name="adamw8bit")
    return _beside_cpu(stage, dataclasses.replace(cfg, optim=optim), limit=1e-3)


def adamw8bit_bits(stage: Stage) -> Values:
    """Steps of a shard whose last block is a part, beside the CPU's to the bit."""
    gradients = [torch.randn(100_003, generator=seeded(n)) * 10.0 ** (n - 4) for n in range(5)]
    gradients[3][::1000] = float("inf")
    found = []
    for device in (stage.device, CPU):
        p = torch.nn.Parameter(torch.randn(100_003, generator=seeded()).to(device))
        optimizer = AdamW8bit([p], lr=1e-3)
        for gradient in gradients:
            p.grad = gradient.to(device)
            optimizer.step()
        found.append({"parameter": p, **optimizer.moments(p)})
    got, want = found
    return {"equal": all(same_bits(got[n], want[n]) for n in want)}


def steps_bfloat16(stage: Stage) -> Values:
    """The same in mixed precision, whose roundings differ."""
    return _beside_cpu(stage, recipe(dtype="bfloat16"), limit=1e-2)


def _beside_cpu(stage: Stage, cfg: PretrainConfig, limit: float) -> Values:
    (ours, got), (theirs, want) = trained(cfg, stage.device), trained(cfg, CPU)
    pairs = list(zip(got, want, strict=True))
    losses = max(abs(a.losses[n] / b.losses[n] - 1) for a, b in pairs for n in b.losses)
    norms = max(abs(a.grad_norm / b.grad_norm - 1) for a, b in pairs)
    moved, other = weights(ours), weights(theirs)
    biases = [n for n in moved if n.endswith("expert_bias")]
    return {
        "error": max(losses, norms / 10),
        "limit": limit,
        "equal": [a.lr for a in got] == [b.lr for b in want],
        "losses": losses,
        "norms": norms,
        "biases": max(largest(moved[n], other[n]) for n in biases),
        "optimizer": type(ours.optimizer).__name__,
        "fused": all(group.get("fused") for group in ours.optimizer.param_groups),
        "on_device": all(p.device.type == stage.device.type for p in ours.model.parameters()),
    }


def batch_moves(stage: Stage) -> Values:
    """Tokens, positions and borders of packed documents arrive as they were."""
    batch, moved = packed_batch(), packed_batch().to(stage.device)
    names = ("tokens_BS", "labels_BS", "mask_BS", "documents_BS", "positions_T")
    pairs = [(getattr(moved, n), getattr(batch, n)) for n in names]
    there = all(a.device.type == stage.device.type for a, _ in pairs)
    equal = all(same_bits(a, b) for a, b in pairs) and moved.cu_seqlens == batch.cu_seqlens
    return {"equal": equal and there}


def documents_are_isolated(stage: Stage) -> Values:
    """Losses of packed documents beside the CPU's."""
    cfg = recipe()
    found = []
    for device in (stage.device, CPU):
        state = made_state(cfg, device)
        with torch.no_grad():
            losses = objective(cfg).losses(state.network, packed_batch().to(device))
        found.append(losses.named)
    got, want = found
    return {"error": max(abs(float(got[n] / want[n].item()) - 1) for n in want), "limit": 1e-5}


def skipped_step(stage: Stage) -> Values:
    """A step with a weight that is not finite in its gradient leaves everything as it was."""
    cfg = recipe()
    state = made_state(cfg, stage.device)
    take(state, cfg)
    before = weights(state)
    hook = state.model.lm_head.weight.register_hook(lambda grad: grad * float("nan"))
    take(state, cfg)
    hook.remove()
    after = weights(state)
    equal = all(same_bits(after[n], before[n]) for n in before)
    return {"equal": equal and state.skipped == 1}


def gradient_is_clipped(stage: Stage) -> Values:
    """With a small limit the norm before clipping is the CPU's, and the step is as small."""
    cfg = recipe(grad_clip=0.01)
    (ours, got), (theirs, want) = trained(cfg, stage.device), trained(cfg, CPU)
    norms = max(abs(a.grad_norm / b.grad_norm - 1) for a, b in zip(got, want, strict=True))
    a, b = weights(ours), weights(theirs)
    moved = max(relative(a[n], b[n]) for n in a if not n.endswith("expert_bias"))
    return {"error": max(norms, moved), "limit": 1e-2, "norms": norms, "weights": moved}


def checkpoint_resumes(stage: Stage) -> Values:
    """Saved and loaded on the device: the same weights to the bit, and the same next step."""
    return _resumed(stage, stage.device, background=False)


def checkpoint_saved_behind(stage: Stage) -> Values:
    """The same from a copy in pinned memory, while a further step runs."""
    return _resumed(stage, stage.device, background=True)


def checkpoint_moves_to_cpu(stage: Stage) -> Values:
    """A checkpoint of the device continues on a CPU."""
    return _resumed(stage, CPU, background=False)


def _resumed(stage: Stage, device: torch.device, *, background: bool) -> Values:
    cfg = recipe()
    state = made_state(cfg, stage.device)
    take(state, cfg), take(state, cfg)
    before = weights(state)
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), state, 2, background=background)
        saver.save()
        want = take(state, cfg)
        saver.finish()
        other = made_state(cfg, device)
        load(checkpoints(Path(folder))[-1], other)
    found = weights(other)
    bits = all(same_bits(found[n], before[n]) for n in before)
    got = take(other, cfg)
    return {
        "error": abs(got.losses["loss"] / want.losses["loss"] - 1),
        "limit": 1e-5,
        "equal": bits and other.step == 3,
        "norms": abs(got.grad_norm / want.grad_norm - 1),
    }


def random_state(stage: Stage) -> Values:
    """Generators that are set back draw the same again."""
    states = {n: s.clone() for n, s in random_states(stage.device, 0).items()}

    def draw() -> Tensor:
        return torch.cat((torch.rand(8, device=stage.device).cpu(), torch.rand(8)))

    first = draw()
    restore_random(states, stage.device, 0)
    generators = 1 + stage.cuda
    return {"equal": same_bits(draw(), first) and len(states) == generators}


def profile(stage: Stage) -> Values:
    """A trace, a table and, of a GPU, a snapshot of its memory."""
    cfg = recipe()
    network, said = made_state(cfg, stage.device).network, list[str]()
    with tempfile.TemporaryDirectory() as folder:
        with StepProfiler([1], Path(folder), 0, stage.device, said.append).step(1), torch.no_grad():
            objective(cfg).losses(network, batch_of(0, rows=1).to(stage.device))
        sizes = {p.name: p.stat().st_size for p in (Path(folder) / "profile").iterdir()}
    wanted = {"step-1-rank-0.json", "step-1-rank-0.txt"}
    if stage.cuda:
        wanted.add("step-1-rank-0-memory.pickle")
    return {"equal": set(sizes) == wanted and min(sizes.values()) > 0, "files": sizes}


def held_out(stage: Stage) -> Values:
    """The held-out loss and MTP's agreement beside the CPU's."""
    cfg = recipe()
    with _tokens() as prefix:
        dataset = IndexedDataset(prefix)
        data = dataclasses.replace(cfg.data, prefix=[str(prefix)])
        got, want = (
            held_out_loss(made_state(cfg, d).network, dataset, data, rows=3, eod=None)
            for d in (stage.device, CPU)
        )
    agreement = abs((got.mtp_agreement or 0) - (want.mtp_agreement or 0))
    return {
        "error": abs(got.loss / want.loss - 1),
        "limit": 1e-5,
        "equal": got.tokens == want.tokens and agreement < 0.02,
    }


@contextlib.contextmanager
def _tokens() -> Iterator[Path]:
    """The prefix of a small token file."""
    ids = np.random.RandomState(0).randint(0, 300, 2000)
    with tempfile.TemporaryDirectory() as folder:
        with IndexedWriter(Path(folder) / "text", np.uint16) as writer:
            for document in np.split(ids, 20):
                writer.add_document(document.tolist())
        yield Path(folder) / "text"


def whole_run(stage: Stage) -> Values:
    """`ling pretrain` without its command line; then again from half its steps on."""
    said: list[str] = []
    with _tokens() as prefix, tempfile.TemporaryDirectory() as folder:
        cfg = recipe(str(prefix), device=stage.device.type, log_interval_steps=1)
        cfg = dataclasses.replace(cfg, checkpoint=CheckpointConfig(interval_steps=2, keep_last=0))
        out = Path(folder) / "run"
        loop.run(cfg, out, said.append)
        rows = _by_step(out)
        checkpoints(out)[-1].rename(Path(folder) / "last")
        loop.run(cfg, out, said.append)
        again = _by_step(out)
    return {
        "error": max(abs(again[n]["loss"] / rows[n]["loss"] - 1) for n in rows),
        "limit": 1e-5,
        "equal": sorted(again) == list(range(1, STEPS + 1)) and "after step 2" in " ".join(said),
        "gpu_memory_is_logged": "cuda_peak_bytes" in rows[STEPS]["ranks"],
    }


def _by_step(out: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in read_metrics(out / "metrics.jsonl")}


def recomputed(stage: Stage, what: str) -> Values:
    """The same gradient as without it; memory beside it on a GPU."""
    (want, _), (got, counts) = (_gradient(stage, name) for name in ("none", what))
    cfg = recipe()
    return {"error": relative(got, want), "limit": 1e-5, "equal": _is_whole(counts, cfg)}


def _gradient(stage: Stage, what: Any) -> tuple[Tensor, dict[int, Tensor]]:
    cfg = dataclasses.replace(recipe(), parallel=ParallelConfig(recompute=what))
    state = made_state(cfg, stage.device)
    losses = objective(cfg).losses(state.network, batch_of(0).to(stage.device))
    losses.total.backward()
    grads = [p.grad.flatten() for p in state.model.parameters() if p.grad is not None]
    return torch.cat(grads), losses.counts


def _is_whole(counts: dict[int, Tensor], cfg: PretrainConfig) -> bool:
    """Whether loads were counted once."""
    tokens = 2 * LENGTH * preset(cfg.model).num_experts_per_tok
    return all(int(c.sum()) == tokens for c in counts.values())


CHECKS: dict[str, Callable[[Stage], Values]] = {
    "steps in float32": steps_float32,
    "steps in bfloat16": steps_bfloat16,
    "steps in FP8": steps_fp8,
    "steps in FP8 with its savings": steps_fp8_savings,
    "steps with AdamW of 8 bits": steps_adamw8bit,
    "AdamW of 8 bits, bit for bit": adamw8bit_bits,
    "a batch moves": batch_moves,
    "documents are isolated": documents_are_isolated,
    "the gradient is clipped": gradient_is_clipped,
    "a step that is not finite is left out": skipped_step,
    "a checkpoint resumes": checkpoint_resumes,
    "a checkpoint saved behind the steps": checkpoint_saved_behind,
    "a checkpoint continues on a CPU": checkpoint_moves_to_cpu,
    "the state of random generators": random_state,
    "profile": profile,
    "held-out loss": held_out,
    "a whole run, continued": whole_run,
}
