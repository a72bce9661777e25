"""Reading Megatron-Core `torch_dist` checkpoints, without Megatron."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ...errors import DCPError
from ...model.names import tensor_specs
from ..dcp.folder import DCPFolder
from ..raw.shards import Extent
from ..run_folder import MEGATRON_ARGS, MEGATRON_LATEST
from ..slices import Slice, whole_tensor
from ..source import tokenizer_in
from .args import config_from_args, read_args
from .names import deinterleave, is_qkv, is_weight, megatron_slices, spellings

_MTP = re.compile(r"mtp\.layers\.([0-9]{1,9})\.")
_QKV = ("q", "k", "v")


def find_iteration(path: Path) -> Path | None:
    """The iteration folder that `path` is, or the newest of the training that it is."""
    if (path / ".metadata").exists():
        return path if (path / MEGATRON_ARGS).exists() else None
    latest = path / MEGATRON_LATEST
    if not latest.is_file():
        return None
    with latest.open("r", errors="replace") as file:
        text = file.read(32).strip()
    if text != "release" and not (text.isascii() and text.isdigit()):
        raise DCPError(f"{latest}: expected the number of an iteration or `release`")
    folder = path / (text if text == "release" else f"iter_{int(text):07d}")
    if not (folder / ".metadata").exists():
        raise DCPError(f"{folder}: no .metadata; is this iteration complete?")
    return folder


def tokenizer_folder(folder: Path) -> Path | None:
    """Of an iteration: beside it, or beside all iterations."""
    return tokenizer_in(folder, folder / "tokenizer", folder.parent / "tokenizer")


class MegatronSource:
    """An iteration folder; every weight in it has a place, every place has a weight.

    The configuration comes from the training arguments, MTP layers and tied embeddings from the
    tensors. Raises `DCPError` naming the tensor or the argument.
    """

    kind = "Megatron checkpoint"

    def __init__(self, folder: Path) -> None:
        args = read_args(folder)
        self._held = DCPFolder(folder)
        keys = {k for k in self._held.tensors if is_weight(k)}
        mtp = {int(m[1]) for k in keys if (m := _MTP.match(k))}
        tied = "output_layer.weight" not in keys
        try:
            config = config_from_args(args, tied=tied, mtp_layers=len(mtp))
        except (ValueError, RecursionError) as err:  # lists may hold themselves
            raise DCPError(f"{folder / MEGATRON_ARGS}: {err}") from None
        embedding = self._held.tensors.get("embedding.word_embeddings.weight")
        if embedding is not None:
            config = config.replace(dtype=str(embedding.dtype).removeprefix("torch."))
        self.config = config
        self._specs = tensor_specs(config)
        self._parts = {name: self._find(p) for name, p in megatron_slices(config).items()}
        self._check_leftovers(keys)
        self.tokenizer_folder = tokenizer_folder(folder)

    def _find(self, usual: Slice) -> tuple[Slice, ...]:
        """The box, or the boxes to join, that hold a tensor; none for a bias that was not used."""
        for place in spellings(usual, self.config.num_hidden_layers):
            if place.key in self._held.tensors:
                self._held.check(place)
                return (place,)
        if split := self._split_qkv(usual):
            return split
        if usual.key.endswith(".expert_bias") and not self.config.moe_router_enable_expert_bias:
            return ()
        raise DCPError(f"{self._held.folder}: tensor `{usual.key}` is missing")

    def _split_qkv(self, usual: Slice) -> tuple[Slice, ...] | None:
        """Older checkpoints keep queries, keys and values apart, each with a norm in front."""
        if ".linear_qkv." not in usual.key:
            return None
        names = [usual.key.replace(".linear_qkv.", f".linear_{part}.") for part in _QKV]
        if not all(name in self._held.tensors for name in names):
            return None
        cfg = self.config
        sizes = (cfg.q_size, cfg.kv_size, cfg.kv_size)
        shapes = [(n, *usual.whole[1:]) if is_qkv(usual) else usual.whole for n in sizes]
        parts = tuple(whole_tensor(n, s) for n, s in zip(names, shapes, strict=True))
        for part in parts:
            self._held.check(part)
        return parts

    def _check_leftovers(self, keys: set[str]) -> None:
        for key in sorted(keys - {p.key for parts in self._parts.values() for p in parts}):
            raise DCPError(f"{self._held.folder}: unexpected tensor `{key}`, Ling 2.0 has no such")

    def tensor(self, name: str) -> Tensor:
        parts, spec = self._parts[name], self._specs[name]
        if not parts:
            return torch.zeros(spec.shape)
        values = [self._held.slice(p) for p in parts]
        if len(values) == 1:
            (value,) = values
            value = value.reshape(spec.shape)
            return deinterleave(value, self.config) if is_qkv(parts[0]) else value
        if parts[0].key.endswith("layer_norm_weight"):
            return self._one_norm(parts, values)
        return torch.cat(values)

    def values(self, name: str) -> Tensor:
        return self.tensor(name)

    def extent(self, name: str) -> Extent | None:
        parts = self._parts[name]
        if len(parts) != 1 or is_qkv(parts[0]):
            return None
        return self._held.slice_extent(parts[0], self._specs[name].shape)

    def _one_norm(self, parts: tuple[Slice, ...], values: list[Tensor]) -> Tensor:
        if all(torch.equal(values[0], v) for v in values):
            return values[0]
        layer = parts[0].key.partition(".self_attention")[0]
        raise DCPError(
            f"{self._held.folder}: `{layer}` has different norms before queries, keys and values, "
            "which the released layout cannot hold"
        )

    def stored_bytes(self, name: str) -> int:
        return sum(self._held.slice_bytes(p) for p in self._parts[name])

    def stored_as(self, name: str) -> str:
        """Always floats, as they were trained."""
        return "float"

    def close(self) -> None:
        self._held.close()
