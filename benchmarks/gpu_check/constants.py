"""What `ling plan --calibrate` wants to know of a GPU: products, memory, experts, copies.

Times are those of the work as training does it, forward and backward. What the products reach is
told as a rate; the shares of peaks that a plan takes are made of these at the end.
Legend: T tokens · R rows of all experts · E experts · D hidden · F expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ling.config.optim import OptimConfig
from ling.model import fused
from ling.model.attention import DenseAttend
from ling.model.layers import Linear
from ling.model.ling import Block, Ling, init_module
from ling.model.rope import inverse_frequencies, rotary_tables
from ling.ops import experts, grouped, reference
from ling.ops.causal import causal_attention
from ling.ops.fp8_tiles import POWER_OF_TWO
from ling.plan.compute import forward_work
from ling.plan.shape import shape_of
from ling.train.fp8 import products as fp8_products
from ling.train.fp8.weights import quantised
from ling.train.optim import build_optimizer

from .for_plan import constants, known_gpu
from .fp8 import kernels_of, products_of
from .shapes import LING, LLAMA, QWEN3, rank_of_ep8, shape
from .stage import Stage, Values
from .timing import Clock, Work

EXPERTS = 32
"""Of a rank of EP 8."""
ROWS = (64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = 8192
"""Of a micro-batch; with them an expert of EP 8 has 2048 rows."""


def run(stage: Stage) -> None:
    """All measurements of the stage."""
    clock = Clock(stage.device, tiny=stage.tiny)
    # A process that goes on behind one that broke needs what that one has measured.
    found = {name: entry for name, entry in stage.done.items() if entry["status"] == "ok"}

    def check(name: str, function: Callable[..., Values], *args: Any) -> None:
        def kept() -> Values:
            found[name] = function(stage, clock, *args)
            return found[name]

        stage.check(name, kept, needs_s=2)

    check("copy on the device", device_copy)
    check("copy to the device", host_copy, True)
    check("copy from the device", host_copy, False)
    tokens = 64 if stage.tiny else TOKENS
    for name, sizes in products(stage.tiny).items():
        check(f"product {name}", product, tokens, *sizes)
        check(f"FP8 product {name}", fp8_product, tokens, *sizes)
    for rows in (16, 64) if stage.tiny else ROWS:
        check(f"experts, {rows} rows each", expert_products, rows)
        check(f"FP8 experts, {rows} rows each", fp8_expert_products, rows)
    for length in (64,) if stage.tiny else (4096, 8192):
        check(f"attention, {length} tokens", attention, length)
    check("a MoE layer", moe_layer, tokens)
    # Here and not at the end, which time may not reach: what follows is in no constant.
    stage.check("constants of a plan", constants_of_plan, stage, found)
    for name, function in STREAMS.items():
        check(f"stream: {name}", function, tokens)
    for kind in ("rows", "columns", "blocks"):
        check(f"quantise {kind}", quantise, kind, tokens)
    check("AdamW", adamw)
    check("AdamW of 8 bits", adamw8bit)


def constants_of_plan(stage: Stage, found: dict[str, Values]) -> Values:
    """What the measurements come to."""
    name = torch.cuda.get_device_name(stage.device) if stage.cuda else "as if it were an H100"
    gpu = known_gpu(name)
    return {"gpu": gpu.name, "constants": constants(found, gpu)}


def products(tiny: bool) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the linear layers that most of the time goes to."""
    found: dict[str, tuple[int, int]] = {}
    for name in (LING, QWEN3, LLAMA):
        cfg = shape(name, 2, tiny=tiny)
        hidden, short = cfg.hidden_size, name.split("-")[0]
        found[f"{short} qkv"] = cfg.q_size + 2 * cfg.kv_size, hidden
        found[f"{short} attention output"] = hidden, cfg.q_size
        found[f"{short} up"] = cfg.intermediate_size, hidden
        found[f"{short} down"] = hidden, cfg.intermediate_size
    found["shared expert up"] = shape(LING, 2, tiny=tiny).shared_expert_width, found["ling up"][1]
    return found


# ---- measurements ------------------------------------------------------------------------------


def random(stage: Stage, *size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Values on the device; not zeros, which run faster."""
    return torch.randn(size, device=stage.device, dtype=dtype)


def trainable(stage: Stage, *size: int) -> Tensor:
    return random(stage, *size).requires_grad_()


def both_ways(function: Callable[..., Tensor], *inputs: Any) -> Callable[[], None]:
    """A call of `function` and of its backward pass, with a random gradient."""
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    gradient = torch.randn_like(function(*inputs))

    def work() -> None:
        torch.autograd.grad(function(*inputs), wanted, gradient)

    return work


def device_copy(stage: Stage, clock: Clock) -> Values:
    """Bytes read and written by a large copy."""
    source = random(stage, 1 << (14 if stage.tiny else 29), dtype=torch.float32)
    target = torch.empty_like(source)
    seconds = clock.seconds(lambda: target.copy_(source))
    return _bandwidth(seconds, 2 * source.nbytes)


def host_copy(stage: Stage, clock: Clock, to_device: bool) -> Values:
    """Between pinned memory and the device."""
    size = 1 << (14 if stage.tiny else 28)
    here = torch.ones(size, dtype=torch.int8, pin_memory=stage.cuda)
    there = torch.ones(size, dtype=torch.int8, device=stage.device)
    target, source = (there, here) if to_device else (here, there)
    seconds = clock.seconds(lambda: target.copy_(source, non_blocking=True), repeats=5)
    return _bandwidth(seconds, size)


def product(stage: Stage, clock: Clock, tokens: int, outputs: int, inputs: int) -> Values:
    """A linear layer forward and backward: three products."""
    x, w = trainable(stage, tokens, inputs), trainable(stage, outputs, inputs)
    seconds = clock.seconds(both_ways(reference.linear, x, w))
    return _rate(seconds, 3 * 2 * tokens * outputs * inputs, shape=[tokens, outputs, inputs])


def fp8_product(stage: Stage, clock: Clock, tokens: int, outputs: int, inputs: int) -> Values:
    """The same in FP8, quantising rows included, in turns with it; weights are quantised before,
    as that is done once a step."""
    x, w = trainable(stage, tokens, inputs), trainable(stage, outputs, inputs)
    made, kept = products_of(stage, POWER_OF_TWO), quantised((w,), POWER_OF_TWO)
    ours = both_ways(lambda x, w: fp8_products.Linear.apply(x, w, kept, made), x, w)
    return _ratio(
        clock, ours, both_ways(reference.linear, x, w), made.name, tokens * outputs * inputs
    )


def _ratio(clock: Clock, ours: Work, base: Work, products: str, size: int) -> Values:
    found = clock.ratio(ours, base, pairs=10)
    return {**_rate(found["seconds_each"], 6 * size), **found, "products": products}


def expert_products(stage: Stage, clock: Clock, rows: int) -> Values:
    """SwiGLU of a rank's experts forward and backward, each with as many rows."""
    x, ends, weights = experts_of(stage, rows)
    seconds = clock.seconds(both_ways(grouped.swiglu, x, ends, *weights))
    return _rate(seconds, 6 * len(x) * weights[0][0].numel() * 3, rows=rows)


def fp8_expert_products(stage: Stage, clock: Clock, rows: int) -> Values:
    """The same in FP8, beside it in turns."""
    x, ends, weights = experts_of(stage, rows)
    made = products_of(stage, POWER_OF_TWO)
    kept = quantised((weights[0], weights[1]), POWER_OF_TWO), quantised((weights[2],), POWER_OF_TWO)
    ours = both_ways(
        lambda x, *weights: fp8_products.SwiGLU.apply(x, ends, *weights, *kept, made), x, *weights
    )
    base = both_ways(grouped.swiglu, x, ends, *weights)
    size = len(x) * weights[0][0].numel() * 3
    return {**_ratio(clock, ours, base, made.name, size), "rows": rows}


def experts_of(stage: Stage, rows: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows of a rank's experts, each with as many, their borders, and gate, up and down."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    E = cfg.num_experts if stage.tiny else EXPERTS
    D, width = cfg.hidden_size, cfg.moe_intermediate_size
    ends = torch.arange(1, E + 1, device=stage.device, dtype=torch.int32) * rows
    weights = [trainable(stage, *size) for size in ((E, width, D), (E, width, D), (E, D, width))]
    return trainable(stage, E * rows, D), ends, weights


def _rate(seconds: float, flops: float, **fields: Any) -> Values:
    return {"seconds_each": seconds, "flops": flops, "flops_per_s": flops / seconds, **fields}


def attention(stage: Stage, clock: Clock, length: int) -> Values:
    """Causal attention of one row, forward and backward, which is counted as two forward passes (it
    is 2.5): as `model.size` and plans count, with half of the scores."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    heads = (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.num_key_value_heads)
    q, k, v = (trainable(stage, length, n, cfg.head_dim) for n in heads)
    seconds = clock.seconds(
        both_ways(lambda q, k, v: causal_attention(q, k, v, [0, length]), q, k, v)
    )
    return _rate(seconds, 3 * 2 * cfg.q_size * length**2, shape=[length, cfg.q_size, cfg.kv_size])


def moe_layer(stage: Stage, clock: Clock, tokens: int) -> Values:
    """A layer of a rank of EP 8, forward and backward, as training runs it: float32 weights, rows
    in bfloat16. `bytes` are what a plan counts between its products."""
    cfg = rank_of_ep8(2, tiny=stage.tiny, mtp=False)
    block = Block(cfg, 1).to(stage.device)
    for module in block.modules():
        init_module(module, cfg.initializer_range)
    x, positions = trainable(stage, tokens, cfg.hidden_size), torch.arange(tokens)
    tables = rotary_tables(*inverse_frequencies(cfg), positions, torch.bfloat16)
    rope = tables[0].to(stage.device), tables[1].to(stage.device)
    attend, weights = DenseAttend([0, tokens]), list(block.parameters())
    work = both_ways(lambda x, *_: block(x, rope, attend), x, *weights)
    moved = forward_work(shape_of(cfg, tokens), 1)[1]
    return {
        **_bandwidth(clock.seconds(work), round(3 * tokens * (moved.stream + moved.expert_stream))),
        "tokens": tokens,
        "rows": tokens * cfg.num_experts_per_tok // cfg.num_experts,
    }


# ---- what moves bytes --------------------------------------------------------------------------


def _bandwidth(seconds: float, moved: int) -> Values:
    return {"seconds_each": seconds, "bytes": moved, "bytes_per_s": moved / seconds}


def norm(stage: Stage, clock: Clock, tokens: int) -> Values:
    """RMSNorm forward and backward; bytes are inputs and outputs of both, once each."""
    D = shape(LING, 2, tiny=stage.tiny).hidden_size
    x, w = trainable(stage, tokens, D), trainable(stage, D)
    seconds = clock.seconds(both_ways(lambda x, w: fused.rms_norm(x, w, 1e-6), x, w))
    return _bandwidth(seconds, 5 * 2 * tokens * D)


def rotation(stage: Stage, clock: Clock, tokens: int) -> Values:
    """Rotary embedding of queries, forward and backward."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    x = trainable(stage, tokens, cfg.num_attention_heads, cfg.head_dim)
    tables = [random(stage, tokens, cfg.head_dim // 2) for _ in range(2)]
    seconds = clock.seconds(both_ways(lambda x: fused.rotate(x, *tables), x))
    return _bandwidth(seconds, 4 * 2 * tokens * cfg.q_size)


def routing(stage: Stage, clock: Clock, tokens: int) -> Values:
    """Rows to their experts and back, forward and backward, with sorting and the choice itself."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    D, E, A = cfg.hidden_size, cfg.num_experts, cfg.num_experts_per_tok
    x, logits = trainable(stage, tokens, D), random(stage, tokens, E, dtype=torch.float32)
    bias = torch.zeros(E, device=stage.device)
    choice: dict[str, Any] = {
        "num_experts_per_tok": A,
        "n_group": cfg.n_group,
        "topk_group": cfg.topk_group,
        "routed_scaling_factor": 2.5,
    }

    def there_and_back(x: Tensor) -> Tensor:
        ids, weights = reference.route(logits, bias, **choice)
        slots = experts.sort_by_expert(ids, E, experts.row_block(ids.numel(), E))
        return experts.combine(experts.dispatch(x, slots), slots, weights)

    seconds = clock.seconds(both_ways(there_and_back, x))
    return _bandwidth(seconds, 2 * tokens * D * (4 * A + 4))


def weight_cast(stage: Stage, clock: Clock, tokens: int) -> Values:
    """A layer's float32 weights to bfloat16."""
    layer = Linear(*products(stage.tiny)["ling up"], bias=False, device=stage.device)
    seconds = clock.seconds(lambda: layer.weight.to(torch.bfloat16))
    return _bandwidth(seconds, 6 * layer.weight.numel())


def activation(stage: Stage, clock: Clock, tokens: int) -> Values:
    """silu(gate) · up of the experts' rows, forward and backward."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    rows = tokens * cfg.num_experts_per_tok
    pair = [trainable(stage, rows, cfg.moe_intermediate_size) for _ in range(2)]
    seconds = clock.seconds(both_ways(lambda gate, up: F.silu(gate) * up, *pair))
    return _bandwidth(seconds, 8 * 2 * rows * cfg.moe_intermediate_size)


STREAMS: dict[str, Callable[..., Values]] = {
    "norm": norm,
    "rotation": rotation,
    "routing": routing,
    "cast": weight_cast,
    "activation": activation,
}


def quantise(stage: Stage, clock: Clock, kind: str, tokens: int) -> Values:
    """To FP8 by the kernel that the device has; 2 bytes read (4 of weights) and 1 written."""
    made = kernels_of(stage)
    D = shape(LING, 2, tiny=stage.tiny).hidden_size
    x = random(stage, tokens, D, dtype=torch.float32 if kind == "blocks" else torch.bfloat16)
    seconds = clock.seconds(lambda: made[kind](x, POWER_OF_TWO))
    return _bandwidth(seconds, x.nbytes + x.numel())


def adamw(stage: Stage, clock: Clock) -> Values:
    """Fused AdamW with float32 states; it reads 16 bytes a parameter and writes 12."""
    return _optimizer(stage, clock, "adamw", 28)


def adamw8bit(stage: Stage, clock: Clock) -> Values:
    """AdamW with moments of one byte; it reads 10 bytes a parameter and writes 6."""
    return _optimizer(stage, clock, "adamw8bit", 16)


def _optimizer(stage: Stage, clock: Clock, name: Any, moved: int) -> Values:
    size = 1 << (14 if stage.tiny else 28)
    weight = torch.nn.Parameter(random(stage, size // 256, 256, dtype=torch.float32))
    weight.grad = torch.randn_like(weight)
    holder = torch.nn.Module()
    holder.weight = weight
    optimizer = build_optimizer(cast(Ling, holder), OptimConfig(name=name))
    seconds = clock.seconds(optimizer.step, repeats=5)
    return {**_bandwidth(seconds, moved * size), "parameters_per_s": size / seconds}
