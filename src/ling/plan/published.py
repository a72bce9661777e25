"""The published training throughput of Ling-mini-2.0 and two dense models, as a plan has it.

Three constants are fitted to the twelve figures. What else had to be assumed is in `ASSUMPTIONS`;
other assumptions that fit as well are in `OTHERS`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..config.model import ModelConfig
from ..config.parallel import ParallelConfig
from ..config.recipe import DataConfig, PretrainConfig, TrainConfig
from ..presets import preset
from .constants import ASSUMED, Constants
from .estimate import Estimate, estimate
from .gpus import GPUS, Gpu

SOURCE = "README of inclusionAI/Ling-V2: tokens a second on 8, 16 and 32 GPUs of 80 GB"
GPU_COUNTS = (8, 16, 32)
SEQ_LENGTH, MICRO_BATCH, DENSE_MICRO_BATCH, ROWS_PER_GPU = 8192, 2, 1, 16

ASSUMPTIONS = (
    "GPUs are H800 (989 TFLOP/s in bfloat16, NVLink of 400 GB/s): the page says 80 GB only",
    f"rows of {SEQ_LENGTH:,} tokens, {MICRO_BATCH} a micro-batch ({DENSE_MICRO_BATCH} of dense "
    "models), FP8 products in all models: the page gives the global batch (128, 256, 512) alone",
    "FP8 makes products of linear layers 1.25 times as fast, quantising included, and those of "
    "experts no faster",
    "8 expert-parallel ranks, all in one machine; each token goes to at most 4 of them",
    "weights are gathered and gradients added up once a step (Megatron's distributed optimizer), "
    "beside the computation of one micro-batch",
    "a token's rows travel once for each rank, not once for each expert",
    "recomputing experts repeats 60% of the memory traffic of their layer",
    "all-to-all reaches 85% of NVLink: fixed, as no figure tells it from the rest",
    "Qwen3 8B recomputes everything (a guess: its operations are within 2% of LLaMA's, and it is "
    "31% slower)",
    "Ling recomputes its experts in all cells but those without MTP on 16 and 32 GPUs (a guess: it "
    "explains why two machines are 2.39 times as fast as one)",
)
NOT_IDENTIFIABLE = (
    "experts' products, memory traffic and all-to-all: they always appear together, in the six "
    "figures of Ling",
    "H100 or H800, and whether the dense models ran in FP8",
    "the micro-batch: while gathering is hidden, it changes no planned figure",
    "pipelines, context parallelism, and expert parallelism across machines: no figure has them",
    "from 8 to 32 GPUs all models scale by 98 to 102%, so twelve figures are about six",
)


@dataclass(frozen=True)
class Cell:
    """One published figure: tokens a second of a model on a number of GPUs."""

    model: str
    gpus: int
    recompute: str
    tokens_per_s: int


def _row(model: str, recompute: tuple[str, str, str], figures: tuple[int, int, int]) -> list[Cell]:
    return [Cell(model, *each) for each in zip(GPU_COUNTS, recompute, figures, strict=True)]


LLAMA, QWEN, LING = "LLaMA 3.1 8B", "Qwen3 8B", "Ling-mini-2.0"
WITHOUT = f"{LING} without MTP"
CELLS = (
    *_row(LLAMA, ("none",) * 3, (81222, 161319, 321403)),
    *_row(QWEN, ("full",) * 3, (55775, 109799, 219943)),
    *_row(LING, ("moe",) * 3, (109532, 221585, 448726)),
    *_row(WITHOUT, ("moe", "none", "none"), (128298, 307264, 611466)),
)


def model_of(name: str) -> ModelConfig:
    """The shape of a model of the table."""
    dense = {"use_qk_norm": False, "partial_rotary_factor": 1.0}
    if name == LLAMA:
        return preset("dense-8b").replace(vocab_size=128256, intermediate_size=14336, **dense)
    if name == QWEN:
        layers = {"num_hidden_layers": 36, "max_window_layers": 36, "first_k_dense_replace": 36}
        return preset("dense-8b").replace(vocab_size=151936, **layers, partial_rotary_factor=1.0)
    return preset("ling-mini-2.0").replace(num_nextn_predict_layers=int(name == LING))


@dataclass(frozen=True, kw_only=True)
class Other:
    """Other assumptions, and the constants that fit the figures best with them."""

    text: str
    large: float
    experts: float
    stream: float
    all_to_all: float = ASSUMED.all_to_all_share
    gpu: str = "h800-80g"
    dense_fp8: bool = True

    def constants(self) -> Constants:
        """As `planned` takes them."""
        return dataclasses.replace(
            ASSUMED,
            gemm_share=self.large,
            attention_share=self.large,
            expert_share_by_rows={4096: self.experts},
            stream_share=self.stream,
            all_to_all_share=self.all_to_all,
        )

    def errors(self) -> list[float]:
        """Planned over published, less one, of every figure."""
        made = [(c, recipe_of(c, dense_fp8=self.dense_fp8)) for c in CELLS]
        gpu, constants = GPUS[self.gpu], self.constants()
        return [planned(c, constants, gpu, r).tokens_per_s / c.tokens_per_s - 1 for c, r in made]


OTHERS = (
    Other(text="slow experts", large=0.498, experts=0.15, stream=0.384),
    Other(text="fast experts", large=0.7, experts=0.5, stream=0.149),
    Other(
        text="50% of the link for rows of experts",
        large=0.581,
        experts=0.554,
        stream=0.215,
        all_to_all=0.5,
    ),
    Other(text="H100, 85% of its link", large=0.625, experts=0.186, stream=0.182, gpu="h100-80g"),
    Other(
        text="H100, as many bytes a second as on H800",
        large=0.62,
        experts=0.257,
        stream=0.185,
        all_to_all=0.425,
        gpu="h100-80g",
    ),
    Other(
        text="dense models in bfloat16", large=0.71, experts=0.222, stream=0.203, dense_fp8=False
    ),
)


def recipe_of(cell: Cell, *, dense_fp8: bool = True) -> PretrainConfig:
    """The assumed run behind a figure."""
    is_ling = cell.model.startswith(LING)
    is_fp8 = is_ling or dense_fp8
    layout: dict[str, Any] = {"dp_shard": cell.gpus, "recompute": cell.recompute}
    layout["ep"] = 8 if is_ling else 1
    return PretrainConfig(
        model=cell.model,
        data=DataConfig(prefix=["data"], seq_length=SEQ_LENGTH),
        train=TrainConfig(
            global_batch_size=ROWS_PER_GPU * cell.gpus,
            micro_batch_size=MICRO_BATCH if is_ling else DENSE_MICRO_BATCH,
            fp8="blockwise" if is_fp8 else "off",
            fp8_param_gather=is_fp8,
        ),
        parallel=ParallelConfig(**layout),
    )


def planned(
    cell: Cell,
    constants: Constants = ASSUMED,
    gpu: Gpu = GPUS["h800-80g"],
    recipe: PretrainConfig | None = None,
) -> Estimate:
    """What a plan says of it, or of another run behind it."""
    cfg, recipe = model_of(cell.model), recipe or recipe_of(cell)
    return estimate(cfg, recipe, gpu, constants, per_micro_batch=False)


def errors(constants: Constants = ASSUMED) -> list[float]:
    """Planned over published, less one, of every figure."""
    return [planned(c, constants).tokens_per_s / c.tokens_per_s - 1 for c in CELLS]


def rms(values: list[float]) -> float:
    """Root of the mean square."""
    return math.sqrt(sum(v * v for v in values) / len(values))
