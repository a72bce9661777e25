"""Which products of a network are FP8: linear layers, shared and routed experts, of MTP too.

In high precision stay embedding, head, router, norms, attention itself, and what mixes an MTP
layer's inputs (`eh_proj`).
"""

from __future__ import annotations

from torch import nn

from ...config.recipe import TrainConfig
from ...model.layers import Linear
from ...model.moe import Experts
from ...model.swap import swap
from ..device import device_type
from ..norms import parts_of
from .backend import choose
from .health import Meter, Watched
from .layers import Fp8Linear, Fp8SwiGLU
from .products import Products
from .weights import save_memory

HIGH_PRECISION = ("lm_head", "eh_proj")


def fp8(network: nn.Module, train: TrainConfig) -> None:
    """Replace the products of `network`, in place; names of parameters stay.

    `plan.layouts.check_fp8_sizes` has refused weights whose sizes FP8 products cannot have.
    """
    if train.fp8 == "off":
        return
    products = choose(train.fp8_scales, device_type(train.device), train.fp8_products)
    meter = Meter(train.fp8_scales)
    names = [name for name, _ in network.named_parameters()]
    parts = dict(zip(names, parts_of(names), strict=True))

    def watched(parameter: str) -> Products:
        return Watched(products, parts[parameter] or "norms", meter)

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Experts):
            module.multiply = Fp8SwiGLU(watched(f"{name}.gate_proj"))
        elif isinstance(module, Linear) and name.rpartition(".")[2] not in HIGH_PRECISION:
            return Fp8Linear(module, watched(f"{name}.weight"))
        return None

    swap(network, rule)
    save_memory(network, train, reads_transposed=products.reads_transposed)
