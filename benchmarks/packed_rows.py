"""CPU seconds of a training step in transformers on batches of several documents or of padding.

    python benchmarks/packed_rows.py [--steps 5]

`ling-tiny` with one MTP layer, float32, one thread. Prints one JSON line a batch: the median step
and the first loss. Compare two versions of ling by running it in the environment of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import transformers
from torch import Tensor

import ling  # noqa: F401  (registers the model with transformers)
from ling.presets import preset

Batch = dict[str, Tensor]


def documents(tokens: int, count: int) -> Batch:
    """One row of documents, long and short in turn."""
    lengths = [tokens // count + (-1) ** i * (tokens // count // 4) for i in range(count)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids = torch.randint(0, 200, (1, tokens))
    return {"input_ids": ids, "labels": ids, "position_ids": positions}


def padded(tokens: int, end: int) -> Batch:
    """Two rows, the second padded at the right from `end` on."""
    ids = torch.randint(0, 200, (2, tokens))
    mask = torch.ones_like(ids)
    mask[1, end:] = 0
    return {"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100), "attention_mask": mask}


def main() -> None:
    """Time a step on each batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = preset("ling-tiny").replace(dtype="float32", num_nextn_predict_layers=1).to_dict()
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).train()

    def step(batch: Batch) -> float:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        model.zero_grad()
        return loss.item()

    batches = {
        "4096 tokens, 16 documents": documents(4096, 16),
        "2048 tokens, 8 documents": documents(2048, 8),
        "2 x 2048 tokens, one padded from 1500": padded(2048, 1500),
    }
    for name, batch in batches.items():
        loss = step(batch)
        seconds = []
        for _ in range(args.steps):
            start = time.process_time()
            step(batch)
            seconds.append(time.process_time() - start)
        record = {"batch": name, "cpu_s": round(statistics.median(seconds), 3), "loss": loss}
        print(json.dumps(record | {"transformers": transformers.__version__}), flush=True)


if __name__ == "__main__":
    main()
