"""Schemas that cost a server much: how long their answers take, and /health meanwhile.

    python benchmarks/hostile_schemas.py [--rounds 3]

Serves a tiny model with random weights and 157,184 ids in a process of its own and sends it each
schema of `tests/helpers/hostile.py` through each API, while /health is asked again and again.
Prints one JSON object for each schema, its slowest answer and probe, and one for all of them with
the machine's load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from many_users import ask, served_folder
from serve_models import full_tokenizer

from ling import from_config, preset
from ling.checkpoint.hf.save import save_model

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from hostile import HOSTILE, requests_with

MODEL = "tiny"
VOCAB_SIZE = 157_184
Row = dict[str, Any]


def made(folder: Path) -> Path:
    """A tiny model folder with the vocabulary of a large one."""
    folder.mkdir()
    config = preset("ling-tiny").replace(dtype="float32", vocab_size=VOCAB_SIZE)
    save_model(from_config(config, seed=1), config, folder)
    full_tokenizer(VOCAB_SIZE).save(folder)
    return folder


async def health(port: int, seconds: list[float]) -> None:
    """Note how long /health takes, until cancelled."""
    while True:
        seconds.append((await ask(port, "GET", "/health"))[2])
        await asyncio.sleep(0.02)


async def beside_health(port: int, path: str, body: Row) -> Row:
    """One request: its status, its seconds, and those of the slowest /health meanwhile."""
    seconds: list[float] = []
    probing = asyncio.create_task(health(port, seconds))
    status, reply, answer_s = await ask(port, "POST", path, body)
    while not seconds:  # an answer that came sooner than the first probe's
        await asyncio.sleep(0.001)
    probing.cancel()
    if status not in (200, 400):
        raise SystemExit(f"{path}: {status} {reply.decode()[:200]}")
    return {
        "path": path,
        "status": status,
        "answer_s": round(answer_s, 3),
        "health_s": round(max(seconds), 3),
    }


async def ask_all(port: int, rounds: int) -> list[Row]:
    """The worst times of each schema over all APIs and rounds."""
    warm_up = {"model": MODEL, "prompt": "hi", "max_tokens": 2, "guided_regex": "a"}
    await ask(port, "POST", "/v1/completions", warm_up)  # the grammar's tokenizer is made once
    rows = []
    for name, schema in HOSTILE.items():
        requests = requests_with(schema, MODEL)
        done = [await beside_health(port, *r) for _ in range(rounds) for r in requests]
        slowest = max(done, key=lambda row: row["answer_s"])
        rows.append({"schema": name, **slowest, "health_s": max(r["health_s"] for r in done)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = made(Path(name) / MODEL)
        with served_folder(folder, threads=1) as (port, _):
            rows = asyncio.run(ask_all(port, args.rounds))
    worst = {name: max(row[name] for row in rows) for name in ("answer_s", "health_s")}
    print(json.dumps({"schema": "all", **worst, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
