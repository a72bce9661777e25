"""A KV cache of noise: what a decode step reads behind a long prompt that nobody had to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from ..infer.engine import Engine
from ..infer.pages import PAGE, BlockTable, pages_for


def cache_noise(engine: Engine, prompt: Sequence[int]) -> None:
    """Let `engine` have cached pages of `prompt`, whose keys and values are noise.

    Raises `UsageError` where the cache is too small.
    """
    pool, table = engine.pool, BlockTable()
    if not pool.allocate(table, len(prompt)):
        raise UsageError(
            f"the KV cache has {pool.num_pages} pages, the prompt needs {pages_for(len(prompt))}"
        )
    for number, page in enumerate(table.pages):
        for part in engine.runner.page(page):
            part.copy_(noise_like(part, engine.config.head_dim, seed=number))
    pool.publish(table, prompt, "", len(prompt))
    pool.free(table)


def noise_like(part: Tensor, head_dim: int, seed: int) -> Tensor:
    """Noise in the layout of a page's part, of any format of the cache: values of a tensor's own
    type, or the C++ core's bytes."""
    generator = torch.Generator().manual_seed(seed)
    if part.dtype != torch.uint8:
        return torch.randn(part.shape, generator=generator).to(part.dtype)
    if part[0, 0].nbytes == 2 * PAGE * head_dim * 2:
        values = torch.randn(*part.shape[:-1], part.shape[-1] // 2, generator=generator)
        return values.to(torch.bfloat16).view(torch.uint8)
    # Integers: the codes of the keys, a float32 scale for each position, and the values alike.
    codes = torch.randint(1, 256, part.shape, generator=generator, dtype=torch.uint8)
    codes.view(-1, part.shape[-1] // 2)[:, -4 * PAGE :].view(torch.float32).fill_(0.01)
    return codes
