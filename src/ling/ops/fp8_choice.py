"""Which FP8 products this process uses, and why: asked by training and by `ling doctor`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..errors import KernelError, UsageError
from ..text import one_line
from . import native, triton

Wanted = Literal["auto", "emulation"]
HOPPER = (9, 0)
# cuBLAS has products with a scale per 1 x 128 from this release of CUDA on, for Hopper only.
_CUDA = (12, 9)


@dataclass(frozen=True)
class Choice:
    """`name` is emulation, triton (our kernels) or scaled_mm (cuBLAS; experts by our kernels)."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(device: torch.device, wanted: Wanted = "auto") -> Choice:
    """The products for a device.

    Raises `UsageError` for a GPU that has none, unless the emulation is wanted.
    """
    if device.type != "cuda":
        how = "with the C++ kernel" if _has_core() else "in torch"
        return Choice("emulation", f"on a CPU, {how}")
    if wanted == "emulation":
        return Choice("emulation", "as `train.fp8_products` says")
    capability = torch.cuda.get_device_capability(device)
    if capability < HOPPER:
        raise UsageError(
            f"`train.fp8: blockwise` needs a GPU of compute capability 9.0 (H100) or above, "
            f"{torch.cuda.get_device_name(device)} has {_dotted(capability)}: set `train.fp8: "
            "off`, or `train.fp8_products: emulation` (the same numbers, slower than bfloat16)"
        )
    if not triton.is_installed():
        return Choice("emulation", "Triton is not installed; `pip install triton`")
    why_not = _why_no_scaled_mm(capability) or failed_trial(device)
    if why_not is not None:
        return Choice("triton", why_not)
    return Choice("scaled_mm", "cuBLAS; experts by our Triton kernels")


def _has_core() -> bool:
    try:
        return native.library() is not None
    except KernelError:  # `ling doctor` says what is wrong with it
        return False


def _why_no_scaled_mm(capability: tuple[int, int]) -> str | None:
    """None if torch multiplies FP8 with a scale per 1 x 128 on this GPU, else the reason."""
    kinds = getattr(F, "ScalingType", None)
    if not hasattr(F, "scaled_mm") or not hasattr(kinds, "BlockWise1x128"):
        return f"torch {torch.__version__} has no `F.scaled_mm` with scales of blocks"
    if capability[0] != HOPPER[0]:
        return f"cuBLAS has scales of blocks on capability 9 only, this GPU is {capability[0]}"
    built = tuple(int(n) for n in (torch.version.cuda or "0").split("."))
    if built < _CUDA:
        return f"torch is built for CUDA {torch.version.cuda}, scales of blocks need 12.9"
    return None


@functools.cache
def failed_trial(device: torch.device) -> str | None:
    """What is wrong with `F.scaled_mm` on a GPU; None if a product of one block is right."""
    codes = torch.ones((128, 128), device=device).to(torch.float8_e4m3fn)
    of_rows, of_blocks = (torch.ones((1, n), device=device).t() for n in (128, 4))
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
    try:
        found = F.scaled_mm(codes, codes.t(), of_rows, kinds[0], of_blocks, kinds[1])
    except (RuntimeError, ValueError) as err:
        return f"`F.scaled_mm` fails: {one_line(str(err))}"
    return None if bool((found == 128).all()) else "`F.scaled_mm` gives wrong sums"


def described() -> str:
    """The choice for this machine, in one line that also says what would be refused."""
    try:
        return str(choose(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    except UsageError as err:
        return f"refused: {err}"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
