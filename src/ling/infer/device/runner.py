"""The runner of a device: the module itself over pages in the device's memory.

Any PyTorch device will do, which is how it is tested; on a GPU decode steps are CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...config.engine import DEFAULTS, EngineConfig
from ...model.layers import Linear
from ...model.ling import Ling
from ...model.moe import RoutingTrace
from ..choice import Chosen, RowChoice
from ..memory import kv_page_bytes
from ..native_runner import DRAFT_VOCAB
from ..pages import PAGE, Segment
from ..routed import StepRouting
from ..runner import RunnerBase
from .attention import SHORT_ROWS, EvenAttend, MixedAttend
from .choosing import choose_on_device
from .graphs import Capture, DecodeSteps, default_capture
from .inputs import StepInputs, flat_block, flat_shape, most_rows
from .memory import check_cache, device_pages
from .pages import DevicePages


class DeviceRunner(RunnerBase):
    """A network of `device_modules` with weights on a device.

    `capture` makes programs of decode steps; by default CUDA graphs on a GPU (not in float32), none
    elsewhere.
    """

    mapped_bytes = 0
    max_step_tokens = 2048
    weights_id = ""

    def __init__(
        self, model: Ling, config: EngineConfig = DEFAULTS, capture: Capture | None = None
    ) -> None:
        self.model, self.config, self.engine_config = model.eval(), model.config, config
        weight = model.model.norm.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.draft_vocab = DRAFT_VOCAB if model.config.vocab_size > 2 * DRAFT_VOCAB else 0
        self.capture = capture or default_capture(self.device, self.dtype)
        self._routing: StepRouting | None = None

    # ---- pages ---------------------------------------------------------------------------------

    def page_bytes(self) -> int:
        dtype = "float32" if self.dtype == torch.float32 else "bf16"
        return kv_page_bytes(self.config, dtype)

    def default_pages(self, positions: int) -> int:
        """Pages of a KV cache whose size nobody gave, for requests of at most that length."""
        most = self.engine_config.max_num_seqs
        return device_pages(self.device, positions, self.page_bytes(), most)

    def page(self, number: int) -> list[Tensor]:
        return [self.pages.values[:, :, number]]

    def clear_mtp(self, number: int) -> None:
        self.pages.values[self.config.num_hidden_layers :, :, number].zero_()

    def numerics(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"torch {torch.__version__} on {name}, {self.dtype}, by device"

    def described(self) -> dict[str, Any]:
        """Where it runs, for reports of measurements."""
        facts: dict[str, Any] = {"device": self.numerics(), "graphs": len(self.steps.programs)}
        if self.device.type == "cuda":
            facts["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return facts

    def allocate(self, num_pages: int) -> None:
        check_cache(self.device, num_pages, self.page_bytes())
        self.pages = DevicePages(self.config, num_pages, self.dtype, self.device)
        longest = -(-self.config.context_length // PAGE) + 1
        self.steps = DecodeSteps(
            self._even, self.device, self.pages.scratch, min(num_pages, longest), self.capture
        )
        if self.device.type == "cuda":
            self._warm_up()

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Compile and choose kernels before a request waits for that; writes to no page of one."""
        cfg, size = self.config, 2 * SHORT_ROWS
        drafting = self.engine_config.uses_mtp
        layers = range(cfg.num_nextn_predict_layers) if drafting else range(0)
        hidden = torch.zeros(1, cfg.hidden_size, dtype=self.dtype, device=self.device)
        self.steps.prepare(layers, hidden)
        rows = self.forward([0] * size, [Segment([self.pages.scratch], 0, 0, size)])
        self.choose(self.logits(rows[:1]), [RowChoice(num_best=0)])

    # ---- passes --------------------------------------------------------------------------------

    def trace_experts(self, routing: StepRouting | None) -> None:
        self._routing = routing

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        routing, self._routing = self._routing, None
        if routing is not None:
            return self._mixed(None, tokens, segments, None, _HostTrace(routing))
        return self._pass(None, tokens, segments, None)

    @torch.inference_mode()
    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        return self._pass(j, next_tokens, segments, hidden)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        head = self.model.lm_head
        if vocab and isinstance(head, Linear):  # a draft reads only its part of the head
            return torch.nn.functional.linear(hidden, head.weight[:vocab]).float()
        return self.model.logits(hidden)[:, : vocab or None]

    @torch.inference_mode()
    def choose(self, scores: Tensor, choices: Sequence[RowChoice]) -> list[Chosen]:
        return choose_on_device(scores, choices, self.banned_ids)

    def step_done(self) -> None:
        pass

    def _pass(
        self,
        layer: int | None,
        tokens: Sequence[int],
        segments: Sequence[Segment],
        hidden: Tensor | None,
    ) -> Tensor:
        if most_rows(segments) <= SHORT_ROWS:
            return self.steps.run(layer, tokens, segments, hidden)
        return self._mixed(layer, tokens, segments, hidden, None)

    def _mixed(
        self,
        layer: int | None,
        tokens: Sequence[int],
        segments: Sequence[Segment],
        hidden: Tensor | None,
        trace: RoutingTrace | None,
    ) -> Tensor:
        shape = flat_shape(segments)
        block = torch.from_numpy(flat_block(tokens, segments, shape))
        inputs = StepInputs(block.to(self.device), shape)
        attend = MixedAttend(self.pages, inputs, segments)
        return self._compute(layer, inputs, hidden, attend, trace)

    def _even(self, layer: int | None, inputs: StepInputs, hidden: Tensor | None) -> Tensor:
        return self._compute(layer, inputs, hidden, EvenAttend(self.pages, inputs), None)

    def _compute(
        self,
        layer: int | None,
        inputs: StepInputs,
        hidden: Tensor | None,
        attend: EvenAttend | MixedAttend,
        trace: RoutingTrace | None,
    ) -> Tensor:
        tokens, positions = inputs.tokens_T, inputs.positions_T
        if layer is None:
            return self.model(tokens, positions, attend, trace)
        assert hidden is not None
        return self.model.mtp(layer, tokens, hidden, positions, attend)


class _HostTrace:
    """Hands a layer's routing to buffers in the CPU's memory."""

    def __init__(self, routing: StepRouting) -> None:
        self.routing = routing

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        self.routing.record(layer, logits_TE.cpu(), ids_TA.cpu())
