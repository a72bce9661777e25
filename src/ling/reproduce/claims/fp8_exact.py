"""Two savings of FP8 that must change no result: weights transposed on demand, padded routing."""

from __future__ import annotations

from typing import Any

from ...config.recipe import TrainConfig
from ...presets import preset
from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together


def measure(context: Context) -> Result:
    both, one, same = on_demand(context)
    outputs, gradients = padded(context)
    transposed: Outcome = "agrees" if same and 2 * one == both else "disagrees"
    routed: Outcome = "agrees" if outputs and gradients <= context["tolerance"] else "disagrees"
    figures = [
        Figure(
            "transposed on demand: bytes of FP8 weights",
            "1/2",
            f"{one / both:g}",
            "counted",
            one / both,
            27,
            transposed,
        ),
        Figure(
            "transposed on demand: gradients equal bit for bit", "exact", _yes(same), "measured"
        ),
        Figure(
            "padded routing map: outputs and gradients of rows equal",
            "same",
            _yes(outputs),
            "measured",
            row=28,
            outcome=routed,
        ),
        Figure(
            "padded routing map: gradients of weights, largest relative difference",
            "same",
            f"{gradients:.2g}",
            "measured",
            gradients,
        ),
    ]
    return Result(
        figures,
        together((transposed, routed)),
        f"Transposing on demand leaves {one / both:.0%} of the copies and changes "
        f"{'no bit' if same else 'bits'}. The padded map changes {'no bit' if outputs else 'bits'} "
        "of what rows give. Gradients of weights are sums over tiles of tokens: the last of an "
        "expert also has the added tokens, whose weight is 0, and may get another scale from them.",
    )


def on_demand(context: Context) -> tuple[int, int, bool]:
    """Bytes with both layouts and with one, and whether all gradients are the same."""
    import torch

    from ...model.layers import Linear
    from ...train.fp8.emulation import RoundedProducts
    from ...train.fp8.layers import Fp8Linear
    from ...train.fp8.weights import kept_weights, save_memory

    class OfTransposed(RoundedProducts):
        """The gradient of inputs from the transposed bytes, as GPUs compute it."""

        reads_transposed = True

        def linear_dgrad(self, dy_MN: Any, w: Any) -> Any:
            return super().linear(dy_MN, w.transposed())

    torch.manual_seed(context.seed)
    outs, ins, rows = context["shape"]
    weight, x = torch.randn(outs, ins), torch.randn(rows, ins).bfloat16()
    found: list[tuple[int, list[Any]]] = []
    for on_demand in (False, True):
        layer = Fp8Linear(Linear(ins, outs, bias=False), OfTransposed())
        layer.load_state_dict({"weight": weight})
        train = TrainConfig(fp8="blockwise", fp8_transpose_on_demand=on_demand)
        save_memory(layer, train, reads_transposed=True)
        given = x.clone().requires_grad_()
        layer(given).square().sum().backward()
        (kept,) = kept_weights(layer)
        found.append((kept.nbytes, [given.grad, layer.weight.grad]))
    (both, first), (one, second) = found
    return both, one, all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def padded(context: Context) -> tuple[bool, float]:
    """Whether outputs and gradients of rows are the same, and how far those of weights differ."""
    import torch
    from torch import nn

    from ...model.moe import Experts
    from ...train.fp8.rule import fp8

    torch.manual_seed(context.seed)
    cfg = preset("ling-nano").replace(num_experts=8, moe_intermediate_size=64)
    tokens = context["shape"][2]
    x, dout = torch.randn(2, tokens, cfg.hidden_size).bfloat16()
    ids, weights = torch.rand(tokens, 8).topk(2).indices, torch.rand(tokens, 2)
    found: list[tuple[list[Any], list[Any]]] = []
    for pad in (False, True):
        torch.manual_seed(context.seed + 1)
        module = nn.ModuleDict({"experts": Experts(cfg)})
        for p in module.parameters():
            nn.init.normal_(p, std=0.1)
        fp8(module, TrainConfig(fp8="blockwise", fp8_pad_routing=pad))
        given = [t.clone().requires_grad_() for t in (x, weights)]
        out = module["experts"](given[0], ids, given[1])
        out.backward(dout)
        found.append(([out, *(t.grad for t in given)], [p.grad for p in module.parameters()]))
    (rows, of_weights), (same, near) = found
    far = [float((a - b).norm() / a.norm()) for a, b in zip(of_weights, near, strict=True)]
    return all(torch.equal(a, b) for a, b in zip(rows, same, strict=True)), max(far)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_SETTINGS = {"shape": [256, 384, 90], "tolerance": 1e-3}

CLAIM = Claim(
    name="fp8-exact",
    title="FP8 weights transposed on demand, and the padded routing map",
    published="Transposing on demand halves the storage of FP8 weights, with the same bits; "
    "padding the routing map needs no copies and gives the same result.",
    source="report",
    differs="FP8 products are emulated on the CPU, with the numerics of a GPU's. The bytes "
    "of a whole training are in docs/evidence/fp8-savings.md.",
    quick=Scale(budget_s=10, settings=_SETTINGS),
    full=Scale(budget_s=10, settings=_SETTINGS),
    measure=measure,
    by_hand="python benchmarks/fp8_savings.py",
)
