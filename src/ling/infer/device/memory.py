"""How many KV pages a device has room for beside the weights."""

from __future__ import annotations

import torch

from ...checkpoint.source import Source
from ...errors import UsageError
from ...model.names import tensor_specs
from ..memory import default_pages, free_pages
from ..pages import PAGE, pages_for

CACHE_SHARE = 0.85
"""Of what is free behind the weights the part that pages may take: the rest is for what a step
computes, and for programs."""
MOST_SHARE = 0.95
"""The same where the size is given."""
SMALLER = (
    "an FP8 folder takes half of a bf16 one (`ling convert --to fp8`), "
    '`device="cpu"` runs either, and `ling deploy vllm --gpus N` splits it'
)


def room(device: torch.device, share: float = CACHE_SHARE) -> int:
    """Bytes that pages may take on a GPU, after the weights."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(share * free)


def why_no_room(name: str, source: Source, device: torch.device) -> str | None:
    """None if the weights fit beside what is on the GPU already, else what does."""
    free, _ = torch.cuda.mem_get_info(device)
    need = sum(source.stored_bytes(tensor) for tensor in tensor_specs(source.config))
    if need <= free:
        return None
    return (
        f"{name}: takes {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU's memory are "
        f"free: {SMALLER}"
    )


def device_pages(device: torch.device, positions: int, page_bytes: int, requests: int) -> int:
    """Pages for that many requests of the longest length, as far as there is room; for one anyway.

    On a CPU what its own runners take.
    """
    if device.type != "cuda":
        return default_pages(positions, page_bytes, 0)
    one = pages_for(positions)
    return max(one, min(requests * one, room(device) // page_bytes))


def check_cache(device: torch.device, num_pages: int, page_bytes: int) -> None:
    """Refuse a KV cache that does not fit, and say how long a context would."""
    on_gpu = device.type == "cuda"
    fits = room(device, MOST_SHARE) // page_bytes if on_gpu else free_pages(page_bytes, 0)
    if num_pages > fits:
        way = f"`max_model_len={(fits - 1) * PAGE}` fits" if fits > 1 else SMALLER
        raise UsageError(
            f"a KV cache of {num_pages * PAGE} positions takes {num_pages * page_bytes / 1e9:.1f} "
            f"GB, and {fits * page_bytes / 1e9:.1f} GB of the GPU's memory are left for it beside "
            f"the weights: {way}"
        )
