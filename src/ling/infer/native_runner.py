"""The native runner: packed weights and KV pages handed to the C++ core, one call a forward
pass.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.packed.folder import PackedFolder
from ..checkpoint.packed.load import PackedWeights
from ..checkpoint.packed.names import packed_specs
from ..config.model import ModelConfig
from ..errors import RequestError, UsageError
from ..model.rope import inverse_frequencies
from ..ops import native
from ..ops.formats import TILE
from ..ops.packing import Packed
from .memory import check_cache, check_kv_cache_dtype, kv_page_bytes
from .offload import ExpertStreaming, plan
from .pages import PAGE, Segment
from .runner import Bans

log = logging.getLogger("ling")

FORCE = "LING_KERNELS"
# The head is a third of what a draft reads; a draft outside of its first ids is rarely right.
DRAFT_VOCAB = 16384


def why_not(cfg: ModelConfig) -> str | None:
    """None if the native kernels can run this model, else the reason."""
    if os.environ.get(FORCE) == "reference":
        return f"{FORCE}=reference"
    if native.library() is None:
        return "the kernel library is not built (no C++ compiler at install)"
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
        widths |= {cfg.moe_intermediate_size, cfg.moe_shared_expert_intermediate_size}
    return widths


class NativeRunner(Bans):
    """Runs packed weights. The handle keeps every tensor alive that the C++ side points to."""

    max_step_tokens = 2048

    def __init__(
        self,
        weights: PackedWeights,
        max_memory: int | None = None,
        kv_cache_dtype: str = "bf16",
    ) -> None:
        check_kv_cache_dtype(kv_cache_dtype)
        self.kv_value_bytes = 1 if kv_cache_dtype == "int8" else 2
        self.config = cfg = weights.config
        self.weights, self.max_memory = weights, max_memory
        self.mapped_bytes = weights.mapped_bytes if max_memory is None else 0
        self.streaming: ExpertStreaming | None = None
        self.draft_vocab = DRAFT_VOCAB if cfg.vocab_size > 2 * DRAFT_VOCAB else 0
        self.lib = native.required()
        self._keep: list[Any] = []
        self.specs = packed_specs(cfg)
        self.format_name = weights.format.name
        self.bits_per_weight = weights.format.bits
        self.layers = (native.LayerC * cfg.num_cache_layers)(
            *(self._layer(weights, n) for n in range(cfg.num_cache_layers))
        )
        head = weights.matrix(self.specs["lm_head"])
        self.head, self.head_bits = self._hold(head), head.format.bits
        self.table, self.table_scales = weights.embedding()
        self._keep += [self.table, self.table_scales]
        self.norm = self._float(weights, "model.norm.weight")
        self.model = ctypes.c_void_p()
        # Fresh pages for every step's scores would cost more than their argmax.
        self._room = torch.empty(0)

    # ---- weights -------------------------------------------------------------------------------

    def _hold(self, packed: Packed) -> native.Matrix:
        self._keep.append(packed)
        if self.max_memory is None:
            native.map_in(packed)
        return native.matrix(packed)

    def map_in(self) -> None:
        """Read the weights' file in again, as far as the system dropped it."""
        for held in self._keep:
            if isinstance(held, Packed):
                native.map_in(held)

    def _float(self, weights: PackedWeights, name: str) -> int:
        tensor = weights.plain(name).float().contiguous()
        self._keep.append(tensor)
        return tensor.data_ptr()

    def _layer(self, weights: PackedWeights, n: int) -> native.LayerC:
        cfg, prefix = self.config, f"model.layers.{n}."

        def matrix(name: str) -> native.Matrix:
            spec = self.specs.get(prefix + name)
            return native.Matrix() if spec is None else self._hold(weights.matrix(spec))

        def floats(name: str, wanted: bool = True) -> int | None:
            return self._float(weights, prefix + name) if wanted else None

        moe, mtp = cfg.is_moe_layer(n), n >= cfg.num_hidden_layers
        dense = "mlp.shared_experts." if moe else "mlp."
        return native.LayerC(
            input_norm=floats("input_layernorm.weight"),
            qkv=matrix("attention.query_key_value"),
            qkv_bias=floats("attention.query_key_value.bias", cfg.use_qkv_bias),
            q_norm=floats("attention.query_layernorm.weight", cfg.use_qk_norm),
            k_norm=floats("attention.key_layernorm.weight", cfg.use_qk_norm),
            dense=matrix("attention.dense"),
            dense_bias=floats("attention.dense.bias", cfg.use_bias),
            post_norm=floats("post_attention_layernorm.weight"),
            gate_up=matrix(dense + "gate_up_proj"),
            down=matrix(dense + "down_proj"),
            is_moe=int(moe),
            router=self._router(weights, prefix) if moe else None,
            expert_bias=floats("mlp.gate.expert_bias", moe),
            expert_gate_up=matrix("mlp.experts.gate_up_proj"),
            expert_down=matrix("mlp.experts.down_proj"),
            eh_proj=matrix("eh_proj"),
            enorm=floats("enorm.weight", mtp),
            hnorm=floats("hnorm.weight", mtp),
            final_norm=floats("final_layernorm.weight", mtp),
        )

    def _router(self, weights: PackedWeights, prefix: str) -> int:
        """bfloat16, tiles of 16 experts with columns outermost."""
        w_ED = weights.plain(prefix + "mlp.gate.weight").to(torch.bfloat16)
        w = torch.nn.functional.pad(w_ED, (0, 0, 0, -len(w_ED) % TILE))
        w = w.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()
        self._keep.append(w)
        return w.data_ptr()

    def _rotary(self, positions: int) -> tuple[Tensor, Tensor]:
        freq, factor = inverse_frequencies(self.config)
        angles = torch.arange(positions).float()[:, None] * freq[None]
        return angles.cos() * factor, angles.sin() * factor

    # ---- runner --------------------------------------------------------------------------------

    def page_bytes(self) -> int:
        return kv_page_bytes(self.config, self.kv_value_bytes)

    def allocate(self, num_pages: int) -> None:
        cfg = self.config
        if self.max_memory is None:
            smaller = kv_page_bytes(cfg, 1)
            check_cache(num_pages, self.page_bytes(), self.mapped_bytes, smaller)
        try:
            # Keys, then values; how each lies in its page: csrc/ling_kernels.h.
            self.kv = torch.zeros(2, num_pages * self.page_bytes() // 2, dtype=torch.uint8)
        except RuntimeError:
            need = num_pages * self.page_bytes()
            raise UsageError(
                f"a KV cache of {num_pages * PAGE} positions takes {need / 1e9:.1f} GB, more than "
                "there is; lower `max_model_len`"
            ) from None
        positions = min(cfg.context_length, num_pages * PAGE)
        self.cos, self.sin = self._rotary(positions)
        scales = self.table_scales
        config = native.ModelConfigC(
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
            embedding_format=3 if scales is None else 2,
            embedding_group=0 if scales is None else cfg.hidden_size // scales.shape[1],
            embedding=self.table.data_ptr(),
            embedding_scales=None if scales is None else scales.data_ptr(),
            norm=self.norm,
            head=self.head,
            cos=self.cos.data_ptr(),
            sin=self.sin.data_ptr(),
            k_pages=self.kv[0].data_ptr(),
            v_pages=self.kv[1].data_ptr(),
            num_pages=num_pages,
            kv_format=2 if self.kv_value_bytes == 1 else 3,
        )
        native.check(
            self.lib,
            self.lib.ling_model_new(ctypes.byref(config), self.layers, ctypes.byref(self.model)),
        )
        self._stream(num_pages)

    def _stream(self, num_pages: int) -> None:
        """With a bound on memory that the weights exceed: keep the hot experts only."""
        if self.max_memory is None:
            return
        if not isinstance(self.weights, PackedFolder):
            raise UsageError(
                "`--max-memory` needs a folder in int4 or int8 (`ling convert --to int4`)"
            )
        budget = plan(self.weights, self.max_memory, num_pages * self.page_bytes())
        if budget.slots < budget.experts:
            self.streaming = ExpertStreaming(self, self.weights, budget)
            log.warning("%s", self.streaming.statement(self.config))

    def step_done(self) -> None:
        if self.streaming is not None:
            self.streaming.step_done()

    def __del__(self) -> None:
        if getattr(self, "model", None):
            self.lib.ling_model_free(self.model)
        streaming: ExpertStreaming | None = getattr(self, "streaming", None)
        if streaming is not None:
            streaming.close()

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

    def logits(self, hidden: Tensor, vocab: int = 0) -> tuple[Tensor, list[int]]:
        hidden, rows = hidden.contiguous(), len(hidden)
        width = vocab or self.config.vocab_size
        if rows * width > self._room.numel():
            self._room = torch.empty(rows * width)
        logits = self._room[: rows * width].view(rows, width)
        best = (ctypes.c_int64 * rows)()
        banned = None if self.banned is None else self.banned.data_ptr()
        status = self.lib.ling_logits(
            self.model, hidden.data_ptr(), rows, vocab, banned, 0, logits.data_ptr(), best
        )
        native.check(self.lib, status)
        chosen = list(best)
        if min(chosen) < 0:
            raise RequestError("no token may be chosen: every id is banned")
        return logits, chosen

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
    array: Any = (native.SegmentC * len(segments))()
    # The structures hold addresses only, so the array keeps what they point to.
    array.pages = [(ctypes.c_int32 * len(s.pages))(*s.pages) for s in segments]
    for i, s in enumerate(segments):
        pages = ctypes.addressof(array.pages[i])
        array[i] = native.SegmentC(s.first, s.start, s.stop, pages, len(s.pages))
    return array
