"""The GPUs that a plan knows, by the figures of their makers."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..text import nearest
from .constants import Constants

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Peaks of one GPU: dense operations a second, bytes a second in one direction.

    `usable_bytes` are what torch can allocate: without the driver's part, a CUDA context and the
    buffers of NCCL, for which 2 GiB are left.
    """

    name: str
    bf16_flops: float
    fp8_flops: float | None
    usable_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    """To the other GPUs of the machine."""
    net_bytes_per_s: float
    """To other machines: 400 Gbit/s a GPU assumed (A100: 200)."""
    per_node: int = 8
    device: str = "cuda"
    source: str = ""


_NVLINK = "link: half of the two-way bandwidth"

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="h100-80g",
            bf16_flops=989.4e12,
            fp8_flops=1978.9e12,
            usable_bytes=77 * GIB,
            memory_bytes_per_s=3.35e12,
            link_bytes_per_s=450e9,
            net_bytes_per_s=50e9,
            source=f"NVIDIA H100 data sheet, SXM5, dense; {_NVLINK}",
        ),
        Gpu(
            name="h800-80g",
            bf16_flops=989.4e12,
            fp8_flops=1978.9e12,
            usable_bytes=77 * GIB,
            memory_bytes_per_s=3.35e12,
            link_bytes_per_s=200e9,
            net_bytes_per_s=50e9,
            source=f"as H100 SXM5, NVLink of 400 GB/s (arXiv 2412.19437); {_NVLINK}",
        ),
        Gpu(
            name="h20-96g",
            bf16_flops=148e12,
            fp8_flops=296e12,
            usable_bytes=93 * GIB,
            memory_bytes_per_s=4.0e12,
            link_bytes_per_s=450e9,
            net_bytes_per_s=50e9,
            source=f"NVIDIA H20 data sheet, dense; {_NVLINK}",
        ),
        Gpu(
            name="a100-80g",
            bf16_flops=312e12,
            fp8_flops=None,
            usable_bytes=77 * GIB,
            memory_bytes_per_s=2.039e12,
            link_bytes_per_s=300e9,
            net_bytes_per_s=25e9,
            source=f"NVIDIA A100 data sheet, SXM4 80 GB, dense; {_NVLINK}",
        ),
    )
}
NAMES = (*GPUS, "cpu")
# A word of torch's name for a GPU, and the one here with the same peaks; an H200 has the products
# of an H100, and more memory, whose size and speed are measured.
_WORDS = {
    "H100": "h100-80g",
    "H200": "h100-80g",
    "H800": "h800-80g",
    "H20": "h20-96g",
    "A100": "a100-80g",
}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name; `UsageError` lists those that there are."""
    if name not in GPUS:
        raise UsageError(
            f"no GPU `{name}`{nearest(name, list(NAMES))}; there are {', '.join(NAMES)}"
        )
    return GPUS[name]


def gpu_like(name: str) -> Gpu | None:
    """The GPU with the peaks of what torch calls `name`; None where none is known."""
    words = name.replace("-", " ").split()
    return next((GPUS[ours] for word, ours in _WORDS.items() if word in words), None)


CPU_CONSTANTS = Constants(
    gemm_share=0.77,
    attention_share=0.35,
    expert_share_by_rows={64: 0.55, 512: 0.7},
    stream_share=0.2,
    all_to_all_share=0.8,
    gather_share=0.5,
    fp8_gemm_factor=0.8,
    fp8_expert_factor=0.8,
)
"""Those of a CPU, assumed: they give a step about a third of the peak, as it was once measured on
two cores at two small shapes. FP8 is an emulation there."""
