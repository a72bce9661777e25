"""The reference runner: the model in plain PyTorch, float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..config.engine import DEFAULTS, EngineConfig
from ..model.adapter import Adapter
from ..model.ling import Ling
from ..model.swap import row_blocks, swap
from .adapters import table_of
from .choice import Chosen, RowChoice
from .memory import check_cache, check_kv_cache_dtype, default_pages, kv_page_bytes
from .pages import Segment
from .routed import StepRouting
from .runner import RunnerBase
from .sampler import choose
from .torch_adapters import RowAdapters, adapted
from .torch_attention import PagedAttend, PageTensor


class TorchRunner(RunnerBase):
    """The reference: the module itself, products in row blocks so that a row's bits are its own.

    A KV cache in "bf16" has what the module computes, so float32 where that is the dtype.
    """

    mapped_bytes = 0
    max_step_tokens = 512
    draft_vocab = 0
    weights_id = ""

    def __init__(self, model: Ling, config: EngineConfig = DEFAULTS) -> None:
        swap(model.eval(), row_blocks)
        self.model, self.config = model, model.config
        self._routing: StepRouting | None = None
        self._rows = RowAdapters()
        self.kv_cache_dtype = config.kv_cache_dtype
        check_kv_cache_dtype(self.config, self.kv_cache_dtype)
        if self.kv_cache_dtype == "bf16" and model.model.norm.weight.dtype == torch.float32:
            self.kv_cache_dtype = "float32"

    def page_bytes(self) -> int:
        return kv_page_bytes(self.config, self.kv_cache_dtype)

    def default_pages(self, positions: int) -> int:
        return default_pages(positions, self.page_bytes(), self.mapped_bytes)

    def page(self, number: int) -> list[Tensor]:
        return [part[:, number] for cache in self.cache for part in cache.parts()]

    def clear_mtp(self, number: int) -> None:
        for part in self.page(number):
            part[self.config.num_hidden_layers :].zero_()

    def use_adapters(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = table_of(adapters, self.config)
        swap(self.model, adapted([*adapters.values()], self._rows))

    def numerics(self) -> str:
        isa = torch.backends.cpu.get_cpu_capability()
        return f"torch {torch.__version__} on {isa}, {self.model.model.norm.weight.dtype}"

    def allocate(self, num_pages: int) -> None:
        cfg, dtype = self.config, self.kv_cache_dtype
        check_cache(cfg, dtype, num_pages, self.mapped_bytes)
        self.cache = PageTensor(cfg, num_pages, dtype), PageTensor(cfg, num_pages, dtype)

    def step_done(self) -> None:
        pass

    def trace_experts(self, routing: StepRouting | None) -> None:
        self._routing = routing

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        attend = PagedAttend(self.cache, segments)
        routing, self._routing = self._routing, None
        self._rows.assign(segments)
        return self.model(torch.tensor(tokens), _positions(segments), attend, routing)

    @torch.inference_mode()
    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        attend = PagedAttend(self.cache, segments)
        positions = _positions(segments)
        self._rows.clear()
        return self.model.mtp(j, torch.tensor(next_tokens), hidden, positions, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        return self.model.logits(hidden)[:, : vocab or None].float()

    def choose(self, scores: Tensor, choices: Sequence[RowChoice]) -> list[Chosen]:
        rows = zip(scores.numpy(), choices, strict=True)
        return [choose(row, choice, self.banned_ids) for row, choice in rows]


def _positions(segments: Sequence[Segment]) -> Tensor:
    return torch.cat([torch.arange(s.first, s.first + s.stop - s.start) for s in segments])
