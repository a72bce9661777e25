"""The card of a made `ling-nano`: what it can do, measured on what was held out.

`OUT/card/card.json` has every figure; pictures, the page of the docs and the README of the weights
are made of it (`pictures.py`, `page.py`). What is in it already is not measured again.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.open import open_source
from ..checkpoint.run_folder import step_of
from ..config.recipe import PretrainConfig
from ..config.recipe_file import load_recipe
from ..data.chat_prompts import template_of
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..eval.bench_engine import BenchOptions
from ..eval.bench_infer import run as bench
from ..eval.draft_gain import Drafts, draft_gain
from ..eval.turns import measure_turns
from ..files.atomic import files_below, make_folder, read_json, write_atomic
from ..llm import LLM
from ..model.size import parameter_counts
from ..train.log import each_row, read_metrics
from ..train.resume import start_of
from ..train.starts import machine_facts
from .checkpoints import along, held_out_of, measure_checkpoints
from .dialogues import records
from .dialogues.offered import HELD_OUT_NAMES
from .held_out import HeldOutPart, held_out_parts, spread
from .page import page, reached, readme
from .peer import peer_bits
from .pictures import draw
from .questions import answers

Facts = dict[str, Any]
Log = Callable[[str], None]

_POINTS = 100  # of a curve, each the mean of the steps since the one before
_MISSED = 16  # turns that are printed
_PROMPTS, _PROMPT_TOKENS, _CONTINUED = 12, 48, 96
_SEED, _RECORDS = 2, 700  # of held-out dialogues besides those that fine-tuning left out
_LESS = 256  # records that each checkpoint is asked


@dataclass(frozen=True)
class Made:
    """Where `ling nano OUT` leaves what the card is about."""

    out: Path

    @property
    def run(self) -> Path:
        """The pre-training."""
        return self.out / "pretrain"

    @property
    def base(self) -> Path:
        """Its merged checkpoints."""
        return self.out / "base"

    @property
    def model(self) -> Path:
        """The folder that is shipped."""
        return self.out / "model"

    @cached_property
    def parts(self) -> list[HeldOutPart]:
        """Held-out text."""
        return held_out_parts(self.out / "data")

    @cached_property
    def records(self) -> list[Facts]:
        """Held-out dialogues: those that fine-tuning left out, and more of them."""
        path = self.out / "sft" / "valid.jsonl"
        if not path.is_file():
            raise UsageError(f"{path}: no such file; run `ling nano` up to its stage `sft`")
        first = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        every = (*first, *records("held_out", _SEED, _RECORDS))
        return list({json.dumps(record["messages"]): record for record in every}.values())

    @cached_property
    def note(self) -> Facts:
        """What the stages noted."""
        path = self.out / "nano.json"
        return read_json(path) if path.is_file() else {}


def write_card(out: Path, log: Log) -> Facts:
    """Measure what `out/card/card.json` has not yet of these weights, and write all that is made
    of it; returns the shares that have goals."""
    made, folder = Made(Path(out)), make_folder(Path(out) / "card")
    card = _begun(made, folder / "card.json")
    for name, measured in SECTIONS.items():
        if name in card:
            continue
        log(f"card: {name}")
        begin = time.monotonic()
        card["dates"][name] = _today()
        card[name] = measured(made, log)
        card["seconds"][name] = round(time.monotonic() - begin, 1)
        write_atomic(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    draw(card, folder)
    write_atomic(folder / "ling-nano.md", page(card))
    for place in (folder, made.model):
        write_atomic(place / "README.md", readme(card))
    log(f"card: {folder / 'ling-nano.md'}")
    return reached(card)


def _begun(made: Made, path: Path) -> Facts:
    """The card so far, if it is of these weights."""
    identity = start_of(str(made.model), is_weights=True)
    if path.is_file():
        card = read_json(path)
        if isinstance(card, dict) and card.get("weights") == identity:
            return card
    machine = {**machine_facts(), "threads": torch.get_num_threads()}
    return {"weights": identity, "date": _today(), "machine": machine, "seconds": {}, "dates": {}}


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


# ---- sections ----------------------------------------------------------------------------------


def _model(made: Made, log: Log) -> Facts:
    source = open_source(made.model)
    cfg, files = source.config, files_below(made.model)
    source.close()
    sizes = {name: path.stat().st_size for name, path in files.items() if name != "README.md"}
    shape = ("hidden_size", "num_hidden_layers", "num_experts", "num_experts_per_tok", "vocab_size")
    return {
        "parameters": parameter_counts(cfg),
        "mtp_layers": cfg.num_nextn_predict_layers,
        "shape": {key: getattr(cfg, key) for key in shape},
        "context": cfg.max_position_embeddings,
        "files": sizes,
        "bytes": sum(sizes.values()),
    }


def _making(made: Made, log: Log) -> Facts:
    stages = made.note.get("stages", {})
    # A stage's own seconds are those of its last try.
    spent = {"pretrain": _seconds(made.run), "sft": _seconds(made.out / "sft" / "run")}
    return {
        "commands": ["ling nano OUT"],
        "seconds": {
            name: max(facts.get("seconds") or 0.0, spent.get(name, 0.0))
            for name, facts in stages.items()
        },
        "packages": stages.get("fetch", {}).get("packages", {}),
        "parts": stages.get("corpus", {}).get("parts", {}),
        "merged": stages.get("merge", {}).get("from", []),
        "settings": made.note.get("settings", {}),
    }


def _seconds(run: Path) -> float:
    """What the steps of a run took, in all its tries."""
    total, before = 0.0, 0
    for row in each_row(run / "metrics.jsonl"):
        total, before = total + (row["tokens"] - before) / row["tokens_per_s"], row["tokens"]
    return round(total, 1)


def _curve(made: Made, log: Log) -> Facts:
    rows = read_metrics(made.run / "metrics.jsonl")
    valid = [row for row in rows if row.get("valid_loss") is not None]
    recipe: PretrainConfig = load_recipe(made.run / "config.yaml")
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "train": curve_of(rows),
        "held_out": {
            "part": [Path(prefix).parent.name for prefix in recipe.data.valid_prefix[:1]],
            "step": [row["step"] for row in valid],
            "loss": [row["valid_loss"] for row in valid],
        },
        "kept": [step_of(folder) for folder in along(made.run)],
    }


def curve_of(rows: Sequence[Facts], points: int = _POINTS) -> dict[str, list[Any]]:
    """Steps, tokens and mean losses of at most `points` pieces of a run: a sample of its rows would
    follow the order in which a mixture takes its parts."""
    count = min(points, len(rows))
    cuts = [len(rows) * i // max(count, 1) for i in range(count + 1)]
    pieces = [rows[start:stop] for start, stop in itertools.pairwise(cuts)]
    curve: dict[str, list[Any]] = {
        key: [piece[-1][key] for piece in pieces] for key in ("step", "tokens")
    }
    for key in ("loss", "mtp_loss"):
        values = [[row[key] for row in piece if row.get(key) is not None] for piece in pieces]
        curve[key] = [math.fsum(one) / len(one) if one else None for one in values]
    return curve


def _dialogues(made: Made, log: Log) -> Facts:
    """Of the repertoire; and apart from it those that call a tool of a name that the model has
    never seen."""
    repertoire = [r for r in made.records if not _calls_a_new_name(r)]
    named = [r for r in made.records if _calls_a_new_name(r)]
    with LLM(made.model) as llm:
        found, new_names = measure_turns(llm, repertoire), measure_turns(llm, named)
        strict = [measure_turns(llm, each, strict=True).shares() for each in (repertoire, named)]
    return {
        "records": len(made.records),
        "shares": found.shares(),
        "new": found.of_new().shares(),
        "strict": strict[0],
        "new_names": new_names.shares(),
        "new_names_strict": strict[1],
        "kinds": found.by_kind(),
        "missed": found.missed(_MISSED),
    }


def _calls_a_new_name(record: Facts) -> bool:
    """Whether a record calls a tool of a name that is in no training record."""
    calls = (call for m in record["messages"] for call in m.get("tool_calls") or ())
    return any(call["function"]["name"] in HELD_OUT_NAMES for call in calls)


def _bits_per_byte(made: Made, log: Log) -> Facts:
    with LLM(made.model) as llm:
        ours = {part.name: part.bits(llm).as_dict() for part in made.parts}
    return {"ling-nano": {"parts": ours}, "smollm2-135m": peer_bits(made.parts)}


def _mtp(made: Made, log: Log) -> Facts:
    agreement = {name: score.mtp_agreement for name, score in held_out_of(made.model, made.parts)}
    gains = []
    for about, prompts, ends in _prompts(made):
        for temperature, every in itertools.product((0.0, 0.7), (None, 1)):
            drafts = Drafts(
                temperature=temperature,
                num_drafts=every,
                tokens=_CONTINUED,
                ignore_eos=not ends,
                cpu_time=torch.get_num_threads() == 1,
            )
            gains.append({"prompts_of": about, **draft_gain(made.model, prompts, drafts, ends)})
    return {"agreement": agreement, "gains": gains}


def _prompts(made: Made) -> list[tuple[str, list[list[int]], tuple[int, ...]]]:
    """Beginnings of text, which go on, and questions, whose answers end."""
    tok = Tokenizer.from_folder(made.model)
    template = template_of(tok)
    texts = {part.name: spread(part.windows, _PROMPTS) for part in made.parts if part.windows}
    found: list[tuple[str, list[list[int]], tuple[int, ...]]] = [
        (name, [tok.encode(text)[:_PROMPT_TOKENS] for text in some], ())
        for name, some in texts.items()
    ]
    asked = [
        template.encode(
            tok, [m for m in r["messages"][:2] if m["role"] != "assistant"], r.get("tools")
        )
        for r in spread(made.records, 4 * _PROMPTS)
    ]
    return [*found, ("dialogues", [prompt.ids for prompt in asked], tok.stop_token_ids)]


def _speed(made: Made, log: Log) -> Facts:
    found = {}
    for kind, tokens in (("decode", 64), ("prefill", 512)):
        report = bench(made.model, "ling-nano", BenchOptions(kind=kind, tokens=tokens), log=log)
        keys = ("tokens_per_s", "samples", "threads", "format", "peak_memory_gb", "load")
        found[kind] = {key: report[key] for key in keys}
    return found


def _questions(made: Made, log: Log) -> list[Facts]:
    with LLM(made.model) as llm:
        return answers(llm)


def _checkpoints(made: Made, log: Log) -> list[Facts]:
    records = spread(made.records, _LESS)
    return measure_checkpoints(made.run, made.base, made.parts, records, log)


SECTIONS: dict[str, Callable[[Made, Log], Any]] = {
    "model": _model,
    "making": _making,
    "curve": _curve,
    "dialogues": _dialogues,
    "questions": _questions,
    "mtp": _mtp,
    "speed": _speed,
    "bits_per_byte": _bits_per_byte,
    "checkpoints": _checkpoints,
}
