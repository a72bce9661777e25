"""Options of the engine, the server and sampling: checked once, here, and the command line's flags.

A field that has `_flag(...)` is a flag of `ling generate`, `chat` and `serve`; every field of
`EngineConfig` is a keyword of `ling.LLM`. A new engine option is a field here and the code that
reads it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from ..text import parse_bytes, shown

F = TypeVar("F", bound=Callable[..., Any])
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "bfloat16", "float32")
KV_CACHE_DTYPES = ("bf16", "int8", "int4")
SPECULATIVE = ("mtp", "ngram", "auto", "off")
MOST_DRAFTS = 32
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
# Fields of config.json that no tensor's shape depends on.
POSITIONS = ("max_position_embeddings", "rope_scaling", "rope_theta")
# Compared as text with what a browser sends: lower case, no path, no slash at the end.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")


def _flag(
    help: str | None = None, group: str = "", aliases: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Metadata of a field that is a flag; `group` says beside which others the help lists it."""
    return {"flag": True, "help": help, "group": group, "aliases": aliases}


def _one_of(name: str, value: str, expected: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"`{name}` is `{value}`, expected {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How a model is loaded and run."""

    device: str = field(default="cpu", metadata=_flag("cpu, cuda (a GPU) or auto", "compute"))
    """Where the model runs; `auto` is a GPU where PyTorch sees one that can run the checkpoint."""
    dtype: str = field(default="auto", metadata=_flag("auto, bfloat16 or float32", "compute"))
    """Compute type: `auto` is the fastest there is, `float32` is float32 throughout, in PyTorch."""
    format: str | None = field(
        default=None,
        metadata=_flag("pack weights at load: {formats}", "compute"),
    )
    """Number format to pack weights to as they are loaded; None keeps what the checkpoint has."""
    lora: list[str] | None = field(
        default=None, metadata=_flag("adapter, NAME=FOLDER or (one) FOLDER", "compute")
    )
    """Adapters (LoRA): `NAME=FOLDER` each, or a mapping of names to folders; requests choose one by
    name. One folder without a name is for all requests that choose none. On the CPU only."""
    max_memory: str | None = field(
        default=None, metadata=_flag("run a larger int4/int8 model in, say, 6GB", "memory")
    )
    """Bytes, such as `6GB`, for a larger packed folder: only its hot experts stay in memory."""
    kv_cache_dtype: str = field(
        default="bf16",
        metadata=_flag("bf16; int8: half the memory; int4: about a quarter", "memory"),
    )
    """Type of cached keys and values; `int8` and `int4` have a scale for each position and head.
    `int4` needs a head dimension that is a power of two."""
    max_model_len: int | None = field(
        default=None, metadata=_flag("longest context, in tokens", "memory")
    )
    """Most tokens of a prompt and its continuation; None is the model's own context."""
    cache_dir: str | None = field(
        default=None, metadata=_flag("folder of cached prefixes that outlive the process", "memory")
    )
    """Folder for pages of the KV cache, saved on idle and at the end; made with mode 0700."""
    cache_dir_size: str = field(
        default="10GB", metadata=_flag("most bytes in that folder", "memory")
    )
    """Bytes that `cache_dir` may take; the pages that were of no use for longest are removed."""
    speculative: str = field(default="off", metadata=_flag("mtp, ngram, auto or off", "compute"))
    """How tokens are drafted, where that pays: `mtp` by the model's MTP layers, `ngram` by what
    followed the last tokens earlier in the text, `auto` by either."""
    num_drafts: int = field(default=4, metadata=_flag("most tokens drafted in a step", "compute"))
    """Most tokens drafted in a step of one request."""
    tokenizer: str | Path | None = None
    """Folder of the tokenizer; None is the model's own."""
    hf_overrides: Mapping[str, Any] | None = None
    """Fields of config.json to change, of those that say how positions are rotated:
    `max_position_embeddings`, `rope_scaling` and `rope_theta`."""
    num_pages: int | None = None
    """Pages (of 64 positions) in the KV cache; None sizes it by the context and free memory."""
    kv_cache_memory: str | None = field(
        default=None,
        metadata=_flag(
            "size of the KV cache, say, 2GB", "memory", aliases=("--kv-cache-memory-bytes",)
        ),
    )
    """Bytes of the KV cache, such as `2GB`; None sizes it by the context and free memory."""
    max_num_seqs: int = field(
        default=256, metadata=_flag("most requests that run together", "scheduling")
    )
    """Most requests with pages of the KV cache; others wait."""
    max_step_ms: float = field(
        default=250.0,
        metadata=_flag("time of a step while another request waits", "scheduling"),
    )
    """Milliseconds after which a step should end while another caller's request decodes or waits:
    prompts are read in parts of that time."""
    seed: int = 0
    """Seed of requests that bring none, together with the number of requests before them."""

    def __post_init__(self) -> None:
        _one_of("device", self.device, "auto, cpu or cuda", DEVICES)
        _one_of("dtype", self.dtype, "auto, bfloat16 or float32", DTYPES)
        _one_of("kv_cache_dtype", self.kv_cache_dtype, "bf16, int8 or int4", KV_CACHE_DTYPES)
        _one_of("speculative", self.speculative, "mtp, ngram, auto or off", SPECULATIVE)
        if not 0 <= self.num_drafts <= MOST_DRAFTS:
            raise UsageError(f"`num_drafts` is {self.num_drafts}, expected 0 to {MOST_DRAFTS}")
        if self.num_pages is not None and self.num_pages < 1:
            raise UsageError(f"`num_pages` is {self.num_pages}, expected at least 1")
        if self.num_pages is not None and self.kv_cache_memory is not None:
            raise UsageError("give `num_pages` or `kv_cache_memory`, not both")
        if self.max_num_seqs < 1:
            raise UsageError(f"`max_num_seqs` is {self.max_num_seqs}, expected at least 1")
        if not 0 < self.max_step_ms < math.inf:
            raise UsageError(f"`max_step_ms` is {self.max_step_ms}, expected more than 0")
        for key in self.hf_overrides or ():
            if key not in POSITIONS:
                raise UsageError(
                    f"`hf_overrides` has {shown(key)}; there are {', '.join(POSITIONS)}"
                )
        object.__setattr__(self, "lora", _adapters_listed(self.lora))
        _ = self.adapter_folders, self.max_memory_bytes
        _ = self.kv_cache_memory_bytes, self.cache_dir_bytes

    @property
    def most_drafts(self) -> int:
        """Most tokens drafted in a step; 0 without speculation."""
        return self.num_drafts if self.speculative != "off" else 0

    @property
    def uses_mtp(self) -> bool:
        """Whether the MTP layers draft."""
        return self.num_drafts > 0 and self.speculative in ("mtp", "auto")

    @property
    def uses_ngrams(self) -> bool:
        """Whether the request's own text drafts."""
        return self.num_drafts > 0 and self.speculative in ("ngram", "auto")

    @property
    def adapter_folders(self) -> dict[str, str]:
        """Folders of the adapters by their names; one without a name has its folder's."""
        found: dict[str, str] = {}
        for text in self.lora or ():
            name, folder = _named_folder(text)
            if name is None and len(self.lora or ()) > 1:
                raise UsageError(
                    f"`lora` has {shown(text)}, expected NAME=FOLDER for each of several"
                )
            name = name or Path(folder).resolve().name
            if name in found:
                raise UsageError(f"`lora` has the name `{name}` twice")
            found[name] = folder
        return found

    @property
    def default_adapter(self) -> str | None:
        """The adapter of requests that choose none: the one that was given without a name."""
        given = self.lora or []
        is_unnamed = len(given) == 1 and _named_folder(given[0])[0] is None
        return next(iter(self.adapter_folders)) if is_unnamed else None

    @property
    def max_memory_bytes(self) -> int | None:
        """`max_memory` as a number."""
        return None if self.max_memory is None else parse_bytes(self.max_memory, "max_memory")

    @property
    def kv_cache_memory_bytes(self) -> int | None:
        """`kv_cache_memory` as a number."""
        text = self.kv_cache_memory
        return None if text is None else parse_bytes(text, "kv_cache_memory")

    @property
    def cache_dir_bytes(self) -> int:
        """`cache_dir_size` as a number."""
        return parse_bytes(self.cache_dir_size, "cache_dir_size")


_ADAPTER = re.compile(r"([^=/\\]*)=(.*)", re.DOTALL)
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def _adapters_listed(given: Any) -> list[str] | None:
    """One text each, of what Python callers may give: a folder, a mapping, or a list."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        for name in given:
            _check_adapter_name(str(name))
        listed = [f"{name}={_adapter_text(folder)}" for name, folder in given.items()]
    else:
        several = given if isinstance(given, (list, tuple)) else [given]
        listed = [_adapter_text(text) for text in several]
    return listed


def _adapter_text(given: Any) -> str:
    if not isinstance(given, (str, Path)):
        raise UsageError(f"`lora` has {shown(given)}, expected NAME=FOLDER, or folders by name")
    return str(given)


def _named_folder(text: str) -> tuple[str | None, str]:
    """Name, None without one, and folder of an adapter."""
    found = _ADAPTER.fullmatch(text)
    name, folder = found.groups() if found else (None, text)
    if name is not None:
        _check_adapter_name(name)
    if not folder:
        raise UsageError(f"`lora` is {shown(text) if text else 'empty'}, expected NAME=FOLDER")
    return name, folder


def _check_adapter_name(name: str) -> None:
    if not _ADAPTER_NAME.fullmatch(name):
        raise UsageError(
            f"`lora` has the name {shown(name)}: names have up to 128 letters, digits and `._:-`, "
            "as in NAME=FOLDER"
        )


DEFAULTS = EngineConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Where and to whom `ling serve` answers."""

    host: str = field(default="127.0.0.1", metadata=_flag())
    """Address to listen on; one that other machines reach needs a key."""
    port: int = field(default=8000, metadata=_flag())
    """TCP port; 0 is any free one."""
    served_model_name: str | None = field(default=None, metadata=_flag())
    """The model's name in requests and replies; None is the folder's."""
    allowed_host: list[str] | None = field(
        default=None,
        metadata=_flag("names under which clients reach this server, `*` for any"),
    )
    """Names that a `Host` header may carry besides this machine's own; None is any with a key."""
    api_key_file: str | None = field(
        default=None,
        metadata=_flag("file of the keys that clients may send, one a line"),
    )
    """File of keys; each has cached prefixes of its own."""
    api_key: str | None = field(
        default=None,
        repr=False,
        metadata=_flag("one key, which process lists show; or the variable LING_API_KEY"),
    )
    """Key that clients must send; without any, the variable's, if it is set."""
    allow_no_key: bool = False
    """Serve other machines without a key."""
    allowed_origins: list[str] | None = field(
        default=None,
        metadata=_flag("web pages of other hosts that may ask, such as https://a.example"),
    )
    """Origins that browsers let ask from their pages (CORS), `*` for any; None is none."""
    metrics_port: int | None = field(
        default=None, metadata=_flag("port for /metrics alone, which then needs no key")
    )
    """TCP port of the metrics and probes; None keeps the metrics on `port`, behind the key."""
    drain_s: float = field(
        default=30.0,
        metadata=_flag(
            "seconds that running requests have after SIGTERM", aliases=("--shutdown-timeout",)
        ),
    )
    """Seconds that running requests have to end after the first signal."""
    request_timeout_s: float = 30.0
    """Seconds that a client has to send a whole request."""
    log_level: str = field(
        default="warning", metadata=_flag("debug, info (a line a request), warning or error")
    )
    """Least level of log lines; the command line's default is `info`."""
    log_format: str = field(default="text", metadata=_flag("text or json"))
    """Form of log lines; `json` is an object a line."""
    otlp_traces_endpoint: str | None = field(
        default=None,
        metadata=_flag("OpenTelemetry collector, such as http://localhost:4318/v1/traces"),
    )
    """URL for a span of each request; None is that of OpenTelemetry's variables, if set."""

    def __post_init__(self) -> None:
        for port in (self.port, self.metrics_port or 0):
            if not self.host or not 0 <= port <= 65535:
                raise UsageError(
                    f"`{self.host}` port {port} is no address; ports go from 0 to 65535"
                )
        if self.metrics_port is not None and self.metrics_port == self.port != 0:
            raise UsageError(f"`metrics_port` is {self.port}, which is `port` as well")
        if not 0 <= self.drain_s < math.inf:
            raise UsageError(f"`drain_s` is {self.drain_s}, expected 0 or more")
        for origin in self.allowed_origins or ():
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"`allowed_origins` has `{origin}`, expected what browsers send, such as "
                    "https://a.example or http://localhost:3000, or `*`"
                )
        _one_of("log_level", self.log_level, ", ".join(LOG_LEVELS), LOG_LEVELS)
        _one_of("log_format", self.log_format, "text or json", LOG_FORMATS)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingFlags:
    """Sampling as the command line has it.

    What is None comes from the model's `generation_config.json`, or else from the command.
    """

    max_new_tokens: int = field(
        default=128, metadata=_flag("-1 to the end of the context", aliases=("--max-tokens",))
    )
    """Most tokens to generate."""
    temperature: float | None = field(
        default=None,
        metadata=_flag(
            "0 is greedy; default: generation_config.json's, else {temperature}", "defaults"
        ),
    )
    """Divides the scores."""
    top_k: int | None = field(
        default=None, metadata=_flag("0 is off; default: generation_config.json's", "defaults")
    )
    """Choose among the K most likely tokens."""
    top_p: float | None = field(
        default=None, metadata=_flag("1 is off; default: generation_config.json's", "defaults")
    )
    """Choose among the most likely tokens that together have this probability."""
    repetition_penalty: float | None = field(
        default=None, metadata=_flag("1 is off; default: generation_config.json's", "defaults")
    )
    """Divides the scores of tokens that have been seen."""
    seed: int | None = field(default=None, metadata=_flag())
    """Makes sampling repeatable."""
    stop: list[str] | None = field(
        default=None, metadata=_flag("stop strings; \\n is a newline, \\\\ a backslash")
    )
    """Texts that end the continuation."""


# A command that is tried first gives the same text each time, a chat varies, and a server does
# what clients of the OpenAI API expect.
TEMPERATURES = {"generate": 0.0, "chat": 0.7, "serve": 1.0}


def flags(config: Any, group: str | None = None) -> list[dataclasses.Field[Any]]:
    """Fields of a configuration that are flags, in their order; those of one `group` if given."""
    return [
        f
        for f in dataclasses.fields(config)
        if f.metadata.get("flag") and group in (None, f.metadata["group"])
    ]


def shows_options(config: type) -> Callable[[F], F]:
    """Give a function that ends in `**options` the signature with the fields of `config`."""

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        *fixed, _ = signature.parameters.values()
        options = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for f in dataclasses.fields(config)
        ]
        function.__signature__ = signature.replace(parameters=[*fixed, *options])  # type: ignore[attr-defined]
        return function

    return shown
