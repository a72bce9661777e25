"""Training runs of seconds: random tokens to train on, and what a run left in its folder."""

from __future__ import annotations

import numpy as np

from ling.checkpoint import run_folder
from ling.data.indexed import IndexedWriter
from ling.train.log import read_metrics


def write_tokens(prefix, top=300, tokens=4000, seed=0):
    ids = np.random.RandomState(seed).randint(0, top, tokens)
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in np.split(ids, 40):
            writer.add_document(document.tolist())


def quiet(text):
    pass


def logged_losses(out):
    return [(r["step"], r["loss"], r["grad_norm"]) for r in read_metrics(out / "metrics.jsonl")]


def saved_steps(out):
    return [p.name for p in run_folder.checkpoints(out)]
