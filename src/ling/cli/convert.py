"""Commands on checkpoints: download, convert, verify, inspect, synth."""

from __future__ import annotations

import sys
from typing import Any

from .options import (
    make_parser,
    say,
)


def download(args: list[str]) -> None:
    parser = make_parser("download")
    parser.add_argument("name", type=str, help="org/name, hf:..., modelscope:..., ling-mini-2.0")
    parser.add_argument("--hub", type=str, default=None, help="hf or modelscope (or LING_HUB)")
    parser.add_argument("--revision", type=str, default=None, help="branch, tag or commit")
    parser.add_argument("--local-dir", type=str, default=None, help="put plain files here")
    parser.add_argument("--cache-dir", type=str, default=None, help="another cache")
    parser.add_argument("--offline", action="store_true", help="only look at what is here")
    ns = parser.parse_args(args)
    from ..hub import download

    print(download(**{k: v for k, v in vars(ns).items() if k != "config"}))


def convert(args: list[str]) -> None:
    from ..checkpoint.open import writers
    from ..convert.options import MTP

    parser = make_parser("convert")
    parser.add_argument("source", type=str, help="model folder, run, DCP, Megatron or GGUF file")
    parser.add_argument("target", type=str, help="folder to write")
    parser.add_argument("--to", type=str, default="bf16", help=", ".join(writers()))
    parser.add_argument("--mtp", type=str, default="extra-layer", help=", ".join(MTP))
    parser.add_argument("--tokenizer", type=str, default=None, help="tokenizer folder to copy")
    parser.add_argument(
        "--max-shard-size", type=str, default="5GB", help="largest shard (decimal units)"
    )
    parser.add_argument("--workers", type=int, default=None, help="threads (default: all cores)")
    parser.add_argument("--revision", type=str, default=None, help="of a source on a hub")
    parser.add_argument(
        "--dtype", type=str, default=None, help="of tensors that stay floating point"
    )
    parser.add_argument("--gguf-type", type=str, default="bf16", help="bf16, q8_0, q4_0, ...")
    parser.add_argument(
        "--calibrate", type=str, default=None, help="text whose activations weigh int4/int8 errors"
    )
    parser.add_argument(
        "--merge", type=str, default=None, help="add the LoRA adapter in this folder to the weights"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the target")
    parser.add_argument("--dry-run", action="store_true", help="print the files, write nothing")
    parser.add_argument("--verify", action="store_true", help="read back and compare")
    options = vars(parser.parse_args(args))
    from ..convert.plan import convert
    from ..hub import resolve_model

    source, target = options.pop("source"), options.pop("target")
    source = resolve_model(source, revision=options.pop("revision"))
    files = convert(source, target, log=print, **options)
    if not options["dry_run"]:
        from ..text import size

        print(f"wrote {target}: {options['to']}, {size(sum(files.values()))} in {len(files)} files")
        print(f"next: {_next(options['to'], target)}")


def _next(to: str, target: str) -> str:
    """What a folder of that format is for, as a command."""
    import shlex

    from ..checkpoint.open import tokenizer_folder

    path = shlex.quote(target)
    other = {
        "dcp": f"`ling pretrain RECIPE.yaml --model {path}` trains it on",
        "megatron": f"Megatron-LM trains it on with `--load {path}`",
        "gguf": f"`ling generate {path} --prompt TEXT`, or llama.cpp: `llama-cli -m FILE`",
    }
    if to in other:
        return other[to]
    if tokenizer_folder(target) is None:
        return "it has no tokenizer yet: copy one into it, or convert again with `--tokenizer DIR`"
    return f"`ling generate {path} --prompt TEXT`, `ling chat {path}` or `ling serve {path}`"


def verify(args: list[str]) -> None:
    parser = make_parser("verify")
    parser.add_argument("a", type=str, help="checkpoint: model folder, run, hub name")
    parser.add_argument("b", type=str, nargs="?", default=None, help="another to compare with")
    parser.add_argument("--no-logits", action="store_true", help="compare tensors only")
    parser.add_argument(
        "--write-checksums", action="store_true", help="note every tensor's SHA-256 in the folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from ..convert.verify import verify
    from ..hub import resolve_model

    a, b = resolve_model(ns.a), ns.b and resolve_model(ns.b)
    report = verify(a, b, with_logits=not ns.no_logits, progress=sys.stderr.isatty())
    if ns.write_checksums:
        from ..checkpoint.hf.checksums import write_checksums

        report["checksums"] = write_checksums(a)
        report["summary"] += f"; {report['checksums']} checksums written"
    say(report, ns.json, report["summary"])


def inspect(args: list[str]) -> None:
    parser = make_parser("inspect")
    parser.add_argument("model", type=str, help="preset, checkpoint of any kind or hub name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    cfg, stored = _inspected(ns.model)
    from ..checkpoint.inventory import as_line
    from ..model.size import describe

    report = describe(cfg) | ({"stored": stored} if stored else {})
    counts, kv = report["parameters"], report["kv_bytes_per_token_by_dtype"]
    smaller = ", ".join(f"{size:,} in {name}" for name, size in kv.items() if name != "bf16")
    lines = [
        f"{ns.model}",
        *([f"  {as_line(stored)}"] if stored else []),
        f"  parameters         {counts['total']:>18,}",
        f"  active per token   {counts['active']:>18,}",
        f"  non-embedding      {counts['active_non_embedding']:>18,}",
        f"  one MTP layer      {counts['mtp']:>18,}  (model has {cfg.num_nextn_predict_layers})",
        f"  KV bytes per token {report['kv_bytes_per_token']:>18,}  ({smaller})",
        "  weights in each format:",
        *(f"  {name:<8} {size / 1e9:>27.2f} GB" for name, size in report["bytes"].items()),
    ]
    say(report, ns.json, "\n".join(lines))


def _inspected(model: str) -> tuple[Any, dict[str, Any] | None]:
    """The configuration of a preset, a checkpoint or a hub's model, and what is stored of it."""
    import os

    from ..presets import PRESETS, preset

    if model in PRESETS:
        return preset(model), None
    from ..checkpoint.hf.config import read_config
    from ..checkpoint.inventory import inventory
    from ..checkpoint.open import config_at, holds_weights
    from ..hub import resolve_model

    path = resolve_model(model, only="config.json")
    if not os.path.exists(model):  # from a hub comes the one file, weights may be here in part
        return read_config(path), None
    return config_at(path), inventory(path) if holds_weights(path) else None


def synth(args: list[str]) -> None:
    from ..ops.formats import integer_formats

    *names, last = ("bf16", "fp8", *(f.name for f in integer_formats()))
    parser = make_parser("synth")
    parser.add_argument("preset", type=str, help="a shape: ling-mini-2.0, dense-8b, ...")
    parser.add_argument("target", type=str, help="folder to write")
    parser.add_argument("--to", type=str, default="int4", help=f"{', '.join(names)} or {last}")
    parser.add_argument("--seed", type=int, default=0)
    ns = parser.parse_args(args)
    from pathlib import Path

    from ..convert.synth import synth
    from ..presets import preset

    synth(preset(ns.preset), Path(ns.target), to=ns.to, seed=ns.seed)
    print(f"wrote {ns.target}")
