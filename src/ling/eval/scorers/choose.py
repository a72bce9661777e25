"""Which scorer a model's name means, and which model exactly it is."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoint.fingerprint import weights_id
from ...checkpoint.open import tokenizer_folder
from ...config.engine import EngineConfig
from ...errors import CheckpointError, UsageError
from ...hub import resolve_model
from ...text import nearest
from ..scorer import Scorer
from ..serving.client import Client

SCORERS = ("ling", "transformers")
# What an engine's answers depend on; all other options are about speed.
_ANSWERS = ("device", "dtype", "format", "lora", "kv_cache_dtype", "max_model_len")
# Of these, what nothing but our engine can do.
_ENGINE_ONLY = ("format", "lora", "kv_cache_dtype", "max_model_len")


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """How models are opened."""

    scorer: str = "ling"
    engine: EngineConfig = field(default_factory=EngineConfig)
    served_model: str | None = None
    """The model of a server, by default its first one."""
    tokenizer: str | None = None
    """For a server: its model's tokenizer."""
    api_key: str | None = None
    timeout_s: float = 600.0
    """For a server: how long it may take to answer a request, which is repeated then."""

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            known = list(SCORERS)
            raise UsageError(
                f"`--scorer` is `{self.scorer}`, expected {' or '.join(known)}"
                f"{nearest(self.scorer, known)}"
            )
        if len(self.engine.adapter_folders) > 1:
            raise UsageError("give one `lora`: an evaluation is of one model")
        changed = [n for n in _ENGINE_ONLY if getattr(self.engine, n) != getattr(EngineConfig(), n)]
        if self.scorer == "transformers" and changed:
            raise UsageError(
                f"`--scorer transformers` opens a folder as it is, without `{changed[0]}`"
            )


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated: a folder, a name or a URL, as the user gave it."""

    model: str
    options: ScorerOptions = field(default_factory=ScorerOptions)

    @property
    def is_url(self) -> bool:
        """Whether a server has it."""
        return self.model.startswith(("http://", "https://"))

    @property
    def file_name(self) -> str:
        """The name of its results' folder: models of one server have one each."""
        served = f" {self.options.served_model or ''}" if self.is_url else ""
        name = re.sub(r"[^\w.-]+", "_", self.model + served).encode()[-150:]
        return name.decode(errors="ignore").strip("_.") or "model"

    def described(self) -> dict[str, Any]:
        """What answers depend on: two models that differ here are not the same.

        A server whose model is not named is asked which one it has; raises as `Client.listed`.
        """
        options, engine = self.options, self.options.engine
        if self.is_url:
            return {
                "scorer": "url",
                "url": self.model,
                "model": options.served_model or asyncio.run(self._client().models())[0],
                "tokenizer": options.tokenizer,
                "max_model_len": engine.max_model_len,
            }
        folder = resolve_model(self.model)
        try:
            weights = weights_id(folder)[:16]
            words = _words_id(folder)
            adapters = [weights_id(path)[:16] for path in engine.adapter_folders.values()]
        except OSError as err:
            raise CheckpointError(f"{err.filename or folder}: {err.strerror or err}") from None
        own = {name: getattr(engine, name) for name in _ANSWERS}
        which = {"weights": weights, "words": words, "adapters": adapters}
        return {"scorer": options.scorer, "model": self.model, **which, **own}

    def open(self) -> Scorer:
        """Load the model, or find it on its server."""
        options, engine = self.options, self.options.engine
        if self.is_url:
            from .server import ServerScorer

            return ServerScorer(
                self._client(),
                options.served_model,
                tokenizer=options.tokenizer,
                max_length=engine.max_model_len,
            )
        if options.scorer == "transformers":
            from .transformers import TransformersScorer

            folder = resolve_model(self.model)
            return TransformersScorer(folder, dtype=engine.dtype, device=engine.device)
        from ...llm import LLM
        from .engine import EngineScorer

        adapter = next(iter(engine.adapter_folders), None)
        return EngineScorer(LLM(self.model, **dataclasses.asdict(engine)), adapter)

    def _client(self) -> Client:
        options = self.options
        key = options.api_key or os.environ.get("OPENAI_API_KEY")
        return Client(self.model, key, options.timeout_s)


def _words_id(folder: Path) -> str:
    """A hash of what `weights_id` leaves out and answers depend on: configuration, tokenizer and
    chat template."""
    whole = hashlib.sha256()
    for place in dict.fromkeys([folder, tokenizer_folder(folder)]):
        for file in sorted(place.glob("*")) if place is not None else ():
            if file.name in ("config.json", "tokenizer.json", "tokenizer_config.json") or (
                file.suffix == ".jinja"
            ):
                whole.update(file.name.encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:16]


def labels(models: list[str]) -> list[str]:
    """Short names of models that tell them apart: the last parts of their paths."""
    parts = [Path(m).parts for m in models]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        short = ["/".join(p[-depth:]) for p in parts]
        if len(set(short)) == len(set(models)):
            return short
    return list(models)
