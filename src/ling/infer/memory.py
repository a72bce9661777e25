"""Whether a model and its KV cache fit in memory; refused before they would not."""

from __future__ import annotations

from ..config.model import ModelConfig
from ..errors import UsageError
from ..model.size import KV_BITS, describe, kv_cache_dtypes, kv_head_bytes
from ..ops import limits
from ..ops.formats import by_size
from .pages import PAGE, pages_for

NO_LIMIT = 1 << 40
DEFAULT_CACHE_BYTES = 1 << 30


def kv_page_bytes(cfg: ModelConfig, dtype: str) -> int:
    """KV bytes of one page, all layers; `dtype` is one of `KV_BITS`."""
    return cfg.num_cache_layers * 2 * cfg.num_key_value_heads * PAGE * kv_head_bytes(cfg, dtype)


def check_kv_cache_dtype(cfg: ModelConfig, dtype: str) -> None:
    """Refuse a KV cache in int4 for heads that have no Hadamard matrix."""
    if dtype not in kv_cache_dtypes(cfg):
        raise UsageError(
            f'`kv_cache_dtype="{dtype}"` needs a head dimension that is a power of two, and this '
            f'model has {cfg.head_dim}; use "int8"'
        )


def check_packing(name: str, cfg: ModelConfig, fmt: str, nbytes: int | None = None) -> None:
    """Refuse weights that would be made in memory and do not fit; names the formats that do.

    `nbytes` is their size where the configuration and format alone do not tell.
    """
    room, sizes = limits.memory_available(), describe(cfg)["bytes"]
    need = sizes[fmt] if nbytes is None else nbytes
    if room is None or need <= room:
        return
    fit = [f.name for f in reversed(by_size()) if f.integer and sizes[f.name] <= room]
    advice = "convert it with `ling convert --to int4`, and run that with `max_memory`"
    if fit:
        advice = f'`format="{fit[0]}"` takes {sizes[fit[0]] / 1e9:.1f} GB'
    raise UsageError(
        f"{name}: takes {need / 1e9:.1f} GB in {fmt}, and {room / 1e9:.1f} GB of memory are "
        f"free: {advice}"
    )


def check_mapping(name: str, nbytes: int) -> None:
    """Refuse weights whose file does not fit, before it pushes everything else out."""
    room = limits.memory_available()
    if room is not None and nbytes > room:
        raise UsageError(
            f"{name}: has {nbytes / 1e9:.1f} GB, and {room / 1e9:.1f} GB of memory are free: "
            f'`max_memory="{0.9 * room / 1e9:.1f}GB"` keeps only what is used most'
        )


def free_pages(page_bytes: int, mapped: int) -> int:
    """KV pages that fit beside `mapped` bytes of weights, which the system counts as free."""
    room = limits.memory_available()
    return NO_LIMIT if room is None else max(0, room - mapped) // page_bytes


def default_pages(positions: int, page_bytes: int, mapped: int) -> int:
    """Pages for the longest request, and more up to a gigabyte, as far as that is free."""
    one = pages_for(positions)
    more = min(DEFAULT_CACHE_BYTES // page_bytes, 16 * one)
    return max(one, min(more, free_pages(page_bytes, mapped)))


def check_cache(cfg: ModelConfig, dtype: str, num_pages: int, mapped: int) -> None:
    """Refuse a KV cache that does not fit; says how long a context would, and which type would."""
    page_bytes = kv_page_bytes(cfg, dtype)
    free = free_pages(page_bytes, mapped)
    if num_pages <= free:
        return
    advice = ""
    for smaller in _smaller(cfg, dtype):
        need = kv_page_bytes(cfg, smaller)
        if num_pages <= free_pages(need, mapped):
            advice = f'`kv_cache_dtype="{smaller}"` takes {num_pages * need / 1e9:.1f} GB, or '
            break
    # One page is kept back: drafts may reach into it.
    raise UsageError(
        f"a KV cache of {num_pages * PAGE} positions takes {num_pages * page_bytes / 1e9:.1f} GB, "
        f"and {free * page_bytes / 1e9:.1f} GB of memory are free beside the weights: {advice}"
        f"`max_model_len={max(0, free - 1) * PAGE}` fits"
    )


def _smaller(cfg: ModelConfig, dtype: str) -> list[str]:
    """Integer types of fewer bits that the model may have, the best first."""
    return [kv for kv in kv_cache_dtypes(cfg) if KV_BITS[kv] < min(KV_BITS[dtype], 16)]
