"""Perplexity and bits per byte of text files."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

from ...data.corpus import documents
from ...errors import DataError, UsageError
from ..kept import Kept
from ..scorers.choose import Subject
from ..text_bits import text_bits, windows
from .files import files_id
from .task import Outcome, TaskOptions

FOLDER = "text"
"""Of the data folder, where it has one: what is text and what are questions."""


class Perplexity:
    """`ppl`: loss by the trainer's own measure, on rows of tokens that follow each other."""

    name = "ppl"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options

    def settings(self) -> dict[str, Any]:
        options = self._options
        given = {"seq_length": options.seq_length, "rows": options.limit}
        return {"task": self.name, **given, "data": files_id(_texts(options))}

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        if subject.is_url or subject.options.scorer != "ling":
            raise UsageError(
                f"{subject.model}: `ppl` reads a checkpoint, as the trainer does; `bpb` asks any "
                "scorer"
            )
        from ..perplexity import perplexity

        engine = subject.options.engine
        if given := next((name for name in ("format", "lora") if getattr(engine, name)), None):
            raise UsageError(
                f"{subject.model}: `ppl` reads a checkpoint as it is, without `{given}`; `bpb` "
                "asks the engine"
            )
        dtype = engine.dtype
        report = perplexity(
            subject.model,
            _texts(self._options),
            seq_length=self._options.seq_length,
            rows=self._options.limit,
            dtype="float32" if dtype == "auto" else dtype,
        )
        return Outcome(report, "perplexity", higher_is_better=False, count=report["tokens"])


class BitsPerByte:
    """`bpb`: windows of the same bytes for every model, each scored alone."""

    name = "bpb"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options

    def settings(self) -> dict[str, Any]:
        options = self._options
        return {"task": self.name, "windows": options.limit, "data": files_id(_texts(options))}

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        texts = (d.text for d in documents(_texts(self._options)))
        cut = list(islice(windows(texts), self._options.limit))
        bits = text_bits(scorer, cut)
        if not bits.tokens:
            raise DataError("no text in it", path=self._options.data[0])
        metrics = bits.as_dict() | {"perplexity": math.exp(min(bits.nats / bits.tokens, 700))}
        return Outcome(metrics, "bits_per_byte", higher_is_better=False, count=len(cut))


def _texts(options: TaskOptions) -> list[str]:
    """Files of text; of a folder with a folder `text`, what is in that."""
    return [
        str(inner) if (inner := Path(given) / FOLDER).is_dir() else given for given in options.data
    ]
