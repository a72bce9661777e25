"""`ling convert`: any checkpoint to any format, tensor by tensor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.adapter.merge import with_adapter
from ..checkpoint.dtypes import DTYPES
from ..checkpoint.gguf.sink import FILE as GGUF_FILE
from ..checkpoint.open import layout_for, open_source, sink_for
from ..checkpoint.sink import Sink, SinkOptions
from ..checkpoint.source import Source
from ..config.model import ModelConfig
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, UsageError
from ..files.atomic import scratch_path
from ..ops.formats import integer_formats
from ..text import parse_bytes, size
from ..tools.files import Tools, tools_of_model, write_tools
from .options import MTP_ONLY, Options
from .target import check_space, check_target, final_path, restore, target_folder
from .transfer import Log, Progress, transfer
from .verify import verify

MTP_FOLDER = "mtp"


def convert(
    source: str | Path, target: str | Path, *, log: Log | None = None, **options: Any
) -> dict[str, int]:
    """Write `target` from any checkpoint; returns the files and their sizes, tokenizer apart.

    The target appears complete or not at all; an existing one is replaced only with `overwrite`,
    and when the new one is complete. Memory: one tensor per worker, in and out. `options` are the
    fields of `Options`.
    """
    wanted, target = Options(**options), final_path(Path(target))
    restore(target, log)
    with contextlib.closing(_open(source, wanted)) as opened:
        check_target(Path(source), target, wanted)
        job = plan(opened, scratch_path(target), wanted, log=log)
        if wanted.dry_run:
            _show(opened, target, job.files, log)
            return job.files
        check_space(target, sum(job.files.values()))
        with target_folder(target, wanted) as folder:
            job.write(folder, log)
            if wanted.verify:
                written = folder / GGUF_FILE if wanted.to == "gguf" else folder
                report = verify(source, written, with_logits=False, opened=opened)
                _check_bits(report, wanted)
                (log or _silent)(f"verified: {report['summary']}")
    return job.files


def _open(source: str | Path, wanted: Options) -> Source:
    opened = open_source(source)
    return opened if wanted.merge is None else with_adapter(opened, source, wanted.merge)


def _check_bits(report: dict[str, Any], wanted: Options) -> None:
    """Packing is deterministic: what was just written has the bits that packing gives again."""
    if wanted.to not in {f.name for f in integer_formats()} or wanted.calibrate:
        return
    others = sum(found["other_bits"] for found in report["formats"].values())
    if others:
        raise CheckpointError(f"{others} tensors are not on the disk as they were packed")


def _silent(line: str) -> None:
    """The log of a caller that wants none."""


@dataclass(frozen=True)
class Job:
    """What one process has to write: the writers, by the subfolder they write to."""

    source: Source
    wanted: Options
    sinks: dict[str, Sink]
    tokenizer: Tokenizer | None
    stop_token_ids: Sequence[int] = ()
    tools: Tools | None = None

    @property
    def files(self) -> dict[str, int]:
        """File names below the target, and their bytes."""
        return {
            f"{sub}/{name}" if sub else name: count
            for sub, sink in self.sinks.items()
            for name, count in sink.files.items()
        }

    def write(self, folder: Path, log: Log | None) -> None:
        """Fill `folder`, for which the job was planned."""
        _write(self.source, self.sinks, folder, self.wanted, log)
        if self.tokenizer is not None:
            self.tokenizer.save(folder, self.stop_token_ids)
        if self.tools is not None:
            write_tools(folder, self.tools)


def plan(
    source: Source,
    folder: Path,
    wanted: Options,
    *,
    rank: int = 0,
    world_size: int = 1,
    log: Log | None = None,
) -> Job:
    """The writers for `folder`, checked as far as can be without reading tensors."""
    found = Path(wanted.tokenizer) if wanted.tokenizer else source.tokenizer_folder
    tokenizer = Tokenizer.from_folder(found) if found else None
    cfg = _with_token_ids(source.config, tokenizer) if wanted.tokenizer else source.config
    if wanted.tokenizer and tokenizer and tokenizer.vocab_size > cfg.vocab_size:
        raise UsageError(
            f"{found}: {tokenizer.vocab_size} tokens, but the model has {cfg.vocab_size}"
        )
    options = SinkOptions(
        dtype=DTYPES[wanted.dtype] if wanted.dtype else None,
        max_shard_bytes=parse_bytes(wanted.max_shard_size, "--max-shard-size"),
        tokenizer=found,
        gguf_type=wanted.gguf_type,
        importance=_importance(source, found, wanted, log),
        rank=rank,
        world_size=world_size,
    )
    # One id alone may be a shape's placeholder; a list was written by someone who meant it.
    listed = cfg.end_token_ids if len(cfg.end_token_ids) > 1 else ()
    ends = [i for i in listed if 0 <= i < cfg.vocab_size]
    if wanted.mtp == MTP_ONLY:
        return Job(source, wanted, {"": _mtp_sink(folder, cfg, wanted, options)}, tokenizer, ends)
    main = cfg if wanted.mtp == "extra-layer" else cfg.replace(num_nextn_predict_layers=0)
    sinks = {}
    if wanted.mtp == "separate":
        sinks[MTP_FOLDER] = _mtp_sink(folder / MTP_FOLDER, cfg, wanted, options)
    sinks[""] = sink_for(wanted.to, folder, main, options)
    tools = None if found is None else _tools(found, log)
    return Job(source, wanted, sinks, tokenizer, ends, tools)


def _tools(folder: Path, log: Log | None) -> Tools | None:
    """What the folder's model may call. Its weights need no tools, so a bad file is left out."""
    try:
        return tools_of_model(folder)
    except UsageError as error:
        if log is not None:
            log(f"left out: {error}")
        return None


def _importance(
    source: Source, tokenizer: Path | None, wanted: Options, log: Log | None
) -> Mapping[str, Tensor] | None:
    if wanted.calibrate is None or wanted.dry_run:
        return None
    if tokenizer is None:
        raise UsageError("`--calibrate` reads text: give `--tokenizer DIR`")
    from .calibrate import importance

    return importance(source, Path(wanted.calibrate), tokenizer, log or _silent)


def _mtp_sink(folder: Path, cfg: ModelConfig, wanted: Options, options: SinkOptions) -> Sink:
    layout = layout_for(wanted.to, options)
    if layout is None:
        raise UsageError(f"`--mtp separate` writes safetensors, not `{wanted.to}`")
    if not cfg.num_nextn_predict_layers:
        raise UsageError("`--mtp separate`: the source has no MTP layers")
    from ..checkpoint.hf.sink import SeparateMTPSink

    return SeparateMTPSink(folder, cfg, layout)


def _write(
    source: Source, sinks: dict[str, Sink], tmp: Path, wanted: Options, log: Log | None
) -> None:
    workers = wanted.workers or len(os.sched_getaffinity(0))
    threads = torch.get_num_threads()
    total = sum(source.stored_bytes(n) for sink in sinks.values() for n in sink.names)
    progress = Progress(total, log)
    start = time.monotonic()
    try:
        for sub, sink in sinks.items():
            (tmp / sub).mkdir(exist_ok=True)
            transfer(source, sink, workers, progress)
            sink.finish()
    finally:
        progress.close()
        torch.set_num_threads(threads)
    if log is not None:
        took = time.monotonic() - start
        log(f"read {size(total)} of a {source.kind} in {took:.1f} s, {progress.rate()}")


def _show(source: Source, target: Path, files: dict[str, int], log: Log | None) -> None:
    if log is None:
        return
    log(f"{source.kind} -> {target}, nothing is written (--dry-run)")
    for name, count in files.items():
        log(f"  {size(count):>10}  {name}")
    log(f"  {size(sum(files.values())):>10}  in all")


def _with_token_ids(cfg: ModelConfig, tokenizer: Tokenizer | None) -> ModelConfig:
    """Ids that config.json repeats from the tokenizer, taken from the one that was given."""
    if tokenizer is None:
        return cfg
    ids = {
        f"{name}_id": tokenizer.token_to_id(token)
        for name, token in tokenizer.special_tokens.items()
        if name in ("eos_token", "bos_token", "pad_token")
    }
    # The list in config.json is of the tokenizer before.
    return cfg.replace(end_token_ids=(), **{k: v for k, v in ids.items() if v is not None})
