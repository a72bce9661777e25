"""Packed weights for the C++ core: structures of addresses, and the tensors behind them."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoint.packed.load import PackedWeights
from ..checkpoint.packed.names import packed_specs
from ..ops import native, native_abi
from ..ops.formats import TILE
from ..ops.packing import Packed


class NativeWeights:
    """Structures for `ling_model_new`. Keeps every tensor alive that they point to.

    `map_in` says whether to read the weights' file in at once.
    """

    def __init__(self, weights: PackedWeights, *, map_in: bool) -> None:
        cfg = weights.config
        self._weights, self._mapped_in = weights, map_in
        self._specs = packed_specs(cfg)
        self._tensors: list[Any] = []
        self.layers = (native_abi.LayerC * cfg.num_cache_layers)(
            *(self._layer(n) for n in range(cfg.num_cache_layers))
        )
        head = weights.matrix(self._specs["lm_head"])
        self.head, self.head_bits = self._matrix(head), head.format.bits
        self.embedding, self.embedding_scales = weights.embedding()
        self.norm = self._floats("model.norm.weight")

    def _matrix(self, packed: Packed) -> native_abi.Matrix:
        self._tensors.append(packed)
        if self._mapped_in:
            native.map_in(packed)
        return native.matrix(packed)

    def map_in(self) -> None:
        """Read the weights' file in again, as far as the system dropped it."""
        for tensor in self._tensors:
            if isinstance(tensor, Packed):
                native.map_in(tensor)

    def _floats(self, name: str) -> int:
        tensor = self._weights.plain(name).float().contiguous()
        self._tensors.append(tensor)
        return tensor.data_ptr()

    def _layer(self, n: int) -> native_abi.LayerC:
        cfg, prefix = self._weights.config, f"model.layers.{n}."

        def matrix(name: str) -> native_abi.Matrix:
            spec = self._specs.get(prefix + name)
            return native_abi.Matrix() if spec is None else self._matrix(self._weights.matrix(spec))

        def floats(name: str, wanted: bool = True) -> int | None:
            return self._floats(prefix + name) if wanted else None

        moe, mtp = cfg.is_moe_layer(n), n >= cfg.num_hidden_layers
        dense = "mlp.shared_experts." if moe else "mlp."
        return native_abi.LayerC(
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
            router=self._router(prefix) if moe else None,
            expert_bias=floats("mlp.gate.expert_bias", moe),
            expert_gate_up=matrix("mlp.experts.gate_up_proj"),
            expert_down=matrix("mlp.experts.down_proj"),
            eh_proj=matrix("eh_proj"),
            enorm=floats("enorm.weight", mtp),
            hnorm=floats("hnorm.weight", mtp),
            final_norm=floats("final_layernorm.weight", mtp),
        )

    def _router(self, prefix: str) -> int:
        """bfloat16, tiles of 16 experts with columns outermost."""
        w_ED = self._weights.plain(prefix + "mlp.gate.weight").to(torch.bfloat16)
        w = torch.nn.functional.pad(w_ED, (0, 0, 0, -len(w_ED) % TILE))
        w = w.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()
        self._tensors.append(w)
        return w.data_ptr()
