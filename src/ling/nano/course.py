"""A short course in copying, before any text: rows of random ids in which pieces come again.

A model that begins with heads which copy (`model/copying.py`) loses them on text, whose first
hundreds of steps reward other things. After the course they are right when something is there to be
copied and silent otherwise, and stay.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.hf.save import save_model
from ..config.model import ModelConfig
from ..config.optim import OptimConfig
from ..config.recipe import TrainConfig
from ..files.atomic import atomic_folder, check_free
from ..model.attention import DenseAttend
from ..model.copying import copying_model
from ..model.ling import Ling
from ..train.batches import Batch
from ..train.forward import LingForTraining
from ..train.objectives.pretrain import Pretraining
from ..train.optim import build_optimizer
from ..train.state import TrainState
from ..train.step import train_step

ROWS, LENGTH, LR, WARMUP_STEPS = 8, 256, 2e-3, 25
# Ids that a document is made of, tokens of its pieces, and of the document before they come again.
_VOCABULARY, _PIECE, _ONCE = 200, (2, 8), (8, 100)


def rows(rng: random.Random, vocab_size: int, count: int = ROWS) -> tuple[Batch, torch.Tensor]:
    """A batch, and 1 for each of its labels that can be known: those inside a piece that was there
    before."""
    made = [_row(rng, vocab_size) for _ in range(count)]
    ids, known = (torch.tensor(column) for column in zip(*made, strict=True))
    mask = torch.ones(count, LENGTH)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mask), known[:, 1:]


def _row(rng: random.Random, vocab_size: int) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    known: list[int] = []
    while len(ids) <= LENGTH:
        vocabulary = rng.sample(range(vocab_size), min(_VOCABULARY, vocab_size))
        pieces, most, count = [], rng.randint(*_ONCE), 0
        while count < most:
            pieces.append(rng.sample(vocabulary, rng.randint(*_PIECE)))
            count += len(pieces[-1])
        ids += [i for piece in pieces for i in piece]
        known += [0] * count
        for piece in rng.sample(pieces, len(pieces)):
            ids += piece
            known += [0] + [1] * (len(piece) - 1)
    return ids[: LENGTH + 1], known[: LENGTH + 1]


@torch.no_grad()
def known_loss(model: Ling, seed: int) -> float:
    """Mean loss in nats of what can be known in rows of another seed."""
    given, known = rows(random.Random(-1 - seed), model.config.vocab_size)
    hidden = model(given.tokens_BS.flatten(), given.positions_T, DenseAttend(given.cu_seqlens))
    scores = model.logits(hidden).float().log_softmax(-1)
    loss_T = -scores.gather(1, given.labels_BS.flatten()[:, None])[:, 0]
    return float((loss_T * known.flatten()).sum() / known.sum())


def write_start(
    cfg: ModelConfig, target: Path, steps: int, seed: int, log: Callable[[str], None]
) -> float:
    """Write a model folder in which a run begins; returns its `known_loss`.

    Raises `UsageError` for a shape that cannot begin so, or if the target exists.
    """
    check_free(target)
    model = copying_model(cfg, seed)
    loss = train_to_copy(model, steps, seed, log)
    with atomic_folder(target) as scratch:
        save_model(model, cfg, scratch)
    return loss


def train_to_copy(model: Ling, steps: int, seed: int, log: Callable[[str], None]) -> float:
    """`steps` steps of the course, in place; returns and logs `known_loss`."""
    before, model.compute_dtype = model.compute_dtype, torch.bfloat16
    network = LingForTraining(model)
    network.uses_mtp = False
    recipe = TrainConfig(
        global_batch_size=ROWS, micro_batch_size=ROWS, bias_update_rate=1e-2, mtp_loss_weight=0
    )
    optim = OptimConfig(schedule="constant", lr=LR, warmup_steps=min(WARMUP_STEPS, steps))
    state = TrainState(network, build_optimizer(model, optim), torch.device("cpu"))
    objective, rng = Pretraining(0.0, recipe.z_loss_coef), random.Random(seed)
    network.train()
    for step in range(steps + 1):
        if step % 25 == 0 or step == steps:
            loss = known_loss(model, seed)
            log(f"copying, step {step}/{steps}: loss {loss:.3f} of what can be known")
        if step < steps:
            given, _ = rows(rng, model.config.vocab_size)
            train_step(state, objective, [given], recipe, optim)
    model.compute_dtype = before
    return loss
