"""The native runner: packed weights and KV pages go to the C++ core, one call a forward pass."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.packed.folder import PackedFolder
from ..checkpoint.packed.load import PackedWeights
from ..config.engine import DEFAULTS, EngineConfig
from ..config.model import ModelConfig
from ..errors import UsageError
from ..model.adapter import Adapter
from ..model.rope import inverse_frequencies
from ..ops import native, native_abi
from ..ops.formats import BF16, EMBEDDING_INT8, FORMATS, TILE, Format
from ..ops.kernels import why_no_kernels
from .adapters import table_of
from .choice import Chosen, RowChoice
from .memory import check_cache, check_kv_cache_dtype, default_pages, kv_page_bytes
from .native_adapters import NativeAdapters
from .native_choice import native_choose
from .native_weights import NativeWeights
from .offload import ExpertOffload, plan
from .pages import PAGE, Segment
from .routed import StepRouting
from .runner import RunnerBase

log = logging.getLogger("ling")

FORCE = "LING_KERNELS"
# The head is a third of what a draft reads; a draft outside its first ids is rarely right.
DRAFT_VOCAB = 16384


def why_not(cfg: ModelConfig, fmt: Format = BF16) -> str | None:
    """None if the native kernels can run this model in that format, else the reason."""
    if os.environ.get(FORCE) == "reference":
        return f"{FORCE}=reference"
    if (reason := why_no_kernels(fmt)) is not None:
        return reason
    native.isa()
    if cfg.hidden_size % 32 or cfg.head_dim % 32:
        return f"hidden size {cfg.hidden_size} or head size {cfg.head_dim} is not a multiple of 32"
    for width in _widths(cfg):
        if width % TILE:
            return f"an MLP width of {width} is not a multiple of {TILE}"
    if cfg.num_attention_heads // cfg.num_key_value_heads > 64:
        return "more than 64 query heads share a key head"
    if cfg.head_dim > 1024 or cfg.n_group > 256:
        return "heads of more than 1024 channels or more than 256 groups of experts"
    return None


def _widths(cfg: ModelConfig) -> set[int]:
    widths = set()
    if not cfg.is_moe_layer(0):
        widths.add(cfg.intermediate_size)
    if cfg.num_experts:
        widths |= {cfg.moe_intermediate_size, cfg.shared_expert_width}
    return widths


class NativeRunner(RunnerBase):
    """Runs packed weights in the C++ core."""

    max_step_tokens = 2048
    weights_id = ""

    def __init__(self, weights: PackedWeights, config: EngineConfig = DEFAULTS) -> None:
        self.config = cfg = weights.config
        self.max_memory = config.max_memory_bytes
        self.kv_cache_dtype = config.kv_cache_dtype
        check_kv_cache_dtype(cfg, self.kv_cache_dtype)
        self.mapped_bytes = weights.mapped_bytes if self.max_memory is None else 0
        self.offload: ExpertOffload | None = None
        self.draft_vocab = DRAFT_VOCAB if cfg.vocab_size > 2 * DRAFT_VOCAB else 0
        self.lib = native.required()
        self.weights = weights
        self.format_name, self.bits_per_weight = weights.format.name, weights.format.bits
        self.dense_bits = weights.format.of_matrix(".attention.dense").bits
        self.native_weights = NativeWeights(weights, map_in=self.max_memory is None)
        self.head_bits = self.native_weights.head_bits
        self.model = ctypes.c_void_p()
        # Fresh pages for every step's scores would cost more than choosing among them.
        self._logits = torch.empty(0)
        self._routing: StepRouting | None = None
        self._native_adapters: NativeAdapters | None = None

    def use_adapters(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = table_of(adapters, self.config)
        self._native_adapters = NativeAdapters([*adapters.values()], self.config)

    def map_in(self) -> None:
        """Read the weights' file in again, as far as the system dropped it."""
        self.native_weights.map_in()

    def _rotary(self, positions: int) -> tuple[Tensor, Tensor]:
        freq, factor = inverse_frequencies(self.config)
        angles = torch.arange(positions).float()[:, None] * freq[None]
        return angles.cos() * factor, angles.sin() * factor

    def page_bytes(self) -> int:
        return kv_page_bytes(self.config, self.kv_cache_dtype)

    def default_pages(self, positions: int) -> int:
        return default_pages(positions, self.page_bytes(), self.mapped_bytes)

    def page(self, number: int) -> list[Tensor]:
        return [self.kv[:, :, number]]

    def clear_mtp(self, number: int) -> None:
        for part in self.page(number):  # by numpy: torch would wake threads for it
            part[self.config.num_hidden_layers :].numpy().fill(0)

    def numerics(self) -> str:
        return f"{native.isa()} kernels {native.library_id()}, {self.format_name}"

    def allocate(self, num_pages: int) -> None:
        if self.max_memory is None:
            check_cache(self.config, self.kv_cache_dtype, num_pages, self.mapped_bytes)
        try:
            # [layers, kv heads, pages, keys and then values]; csrc/ling_kernels.h has the layout.
            heads = (self.config.num_cache_layers, self.config.num_key_value_heads)
            of_head = self.page_bytes() // (heads[0] * heads[1])
            self.kv = torch.empty(*heads, num_pages, of_head, dtype=torch.uint8)
            native.use_large_pages(self.kv)
            self.kv.zero_()
        except RuntimeError:
            need = num_pages * self.page_bytes()
            raise UsageError(
                f"a KV cache of {num_pages * PAGE} positions takes {need / 1e9:.1f} GB, more than "
                "there is; lower `max_model_len`"
            ) from None
        config, layers = self._c_config(num_pages), self.native_weights.layers
        native.check(
            self.lib,
            self.lib.ling_model_new(ctypes.byref(config), layers, ctypes.byref(self.model)),
        )
        own = self._native_adapters
        if own is not None:
            status = self.lib.ling_model_adapters(self.model, ctypes.byref(own.layers), own.count)
            native.check(self.lib, status)
        if self.max_memory is not None:
            used = 0 if own is None else own.nbytes
            self._offload(self.max_memory, num_pages * self.page_bytes() + used)

    def _c_config(self, num_pages: int) -> native_abi.ModelConfigC:
        cfg = self.config
        positions = min(cfg.context_length, num_pages * PAGE)
        self.cos, self.sin = self._rotary(positions)
        weights, scales = self.native_weights, self.native_weights.embedding_scales
        embedding = BF16 if scales is None else EMBEDDING_INT8
        return native_abi.ModelConfigC(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            num_layers=cfg.num_hidden_layers,
            num_mtp_layers=cfg.num_nextn_predict_layers,
            num_heads=cfg.num_attention_heads,
            num_kv_heads=cfg.num_key_value_heads,
            head_dim=cfg.head_dim,
            rotary_size=cfg.rotary_size,
            num_experts=cfg.num_experts,
            num_experts_per_tok=cfg.num_experts_per_tok,
            n_group=cfg.n_group,
            topk_group=cfg.topk_group,
            expert_width=cfg.moe_intermediate_size,
            max_positions=positions,
            rms_norm_eps=cfg.rms_norm_eps,
            routed_scaling_factor=cfg.routed_scaling_factor,
            norm_topk_prob=int(cfg.norm_topk_prob),
            embedding_format=embedding.kernel,
            embedding_group=0 if scales is None else embedding.group,
            embedding=weights.embedding.data_ptr(),
            embedding_scales=None if scales is None else scales.data_ptr(),
            norm=weights.norm,
            head=weights.head,
            cos=self.cos.data_ptr(),
            sin=self.sin.data_ptr(),
            kv_pages=self.kv.data_ptr(),
            num_pages=num_pages,
            kv_format=FORMATS[self.kv_cache_dtype].kernel,
        )

    def _offload(self, max_memory: int, beside: int) -> None:
        """Where the weights exceed the bound on memory, keep the hot experts only; `beside` them
        are so many bytes of pages and adapters."""
        if not isinstance(self.weights, PackedFolder):
            raise UsageError(
                "`max_memory` needs a folder in int4 or int8 (`ling convert --to int4`)"
            )
        budget = plan(self.weights, max_memory, beside)
        if budget.slots < budget.experts:
            self.offload = ExpertOffload(self, self.weights, budget)
            log.warning("%s", self.offload.statement(self.config))

    def step_done(self) -> None:
        if self.offload is not None:
            self.offload.step_done()

    def __del__(self) -> None:
        if getattr(self, "model", None):
            self.lib.ling_model_free(self.model)
        offload: ExpertOffload | None = getattr(self, "offload", None)
        if offload is not None:
            offload.close()

    def trace_experts(self, routing: StepRouting | None) -> None:
        if routing is None and self._routing is None:
            return
        r = routing
        at = (None, None, 0) if r is None else (r.ids_at, r.weights_at, r.rows)
        native.check(self.lib, self.lib.ling_trace_experts(self.model, *at))
        # The core keeps the addresses until the next pass, so this keeps what is there.
        self._routing = routing

    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        ids, c_segments = torch.tensor(tokens), _segments(segments)
        hidden = torch.empty(len(tokens), self.config.hidden_size)
        status = self.lib.ling_forward(
            *(self.model, ids.data_ptr(), len(tokens)),
            *(c_segments, len(segments), hidden.data_ptr()),
        )
        native.check(self.lib, status)
        return hidden

    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        ids, c_segments = torch.tensor(next_tokens), _segments(segments)
        hidden, out = hidden.contiguous(), torch.empty_like(hidden)
        status = self.lib.ling_mtp(
            *(self.model, j, ids.data_ptr(), hidden.data_ptr(), len(next_tokens)),
            *(c_segments, len(segments), out.data_ptr()),
        )
        native.check(self.lib, status)
        return out

    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        hidden, rows = hidden.contiguous(), len(hidden)
        width = vocab or self.config.vocab_size
        if rows * width > self._logits.numel():
            self._logits = torch.empty(rows * width)
        logits = self._logits[: rows * width].view(rows, width)
        status = self.lib.ling_logits(self.model, hidden.data_ptr(), rows, vocab, logits.data_ptr())
        native.check(self.lib, status)
        return logits

    def choose(self, scores: Tensor, choices: Sequence[RowChoice]) -> list[Chosen]:
        return native_choose(self.lib, scores, choices, self.banned_ids)

    # ---- measuring -----------------------------------------------------------------------------

    def profile(self) -> dict[str, float]:
        """Seconds per stage since the last call."""
        n = ctypes.c_int64(32)
        names, seconds = (ctypes.c_char_p * 32)(), (ctypes.c_double * 32)()
        status = self.lib.ling_profile(self.model, names, seconds, ctypes.byref(n))
        native.check(self.lib, status)
        return {(names[i] or b"").decode(): seconds[i] for i in range(n.value)}

    def expert_counts(self) -> Tensor:
        """Routed tokens per layer and expert since the last call."""
        cfg = self.config
        counts = torch.zeros(cfg.num_cache_layers, max(cfg.num_experts, 1), dtype=torch.int64)
        native.check(self.lib, self.lib.ling_expert_counts(self.model, counts.data_ptr()))
        return counts


def _segments(segments: Sequence[Segment]) -> Any:
    array: Any = (native_abi.SegmentC * len(segments))()
    # The structures hold addresses only, so the array keeps what they point to.
    array.pages = [(ctypes.c_int32 * len(s.pages))(*s.pages) for s in segments]
    for i, s in enumerate(segments):
        pages = ctypes.addressof(array.pages[i])
        array[i] = native_abi.SegmentC(s.first, s.start, s.stop, pages, len(s.pages), s.adapter)
    return array
