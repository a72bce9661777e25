"""What the engine computes on the device beside the CPU: kernels, scores, tokens."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ling.config.engine import EngineConfig
from ling.infer.device.graphs import CudaCapture, eager_capture
from ling.infer.device.modules import device_modules
from ling.infer.device.runner import DeviceRunner
from ling.infer.device.weights import random_on_device
from ling.infer.engine import Engine
from ling.infer.pages import PAGE, Segment, pages_for
from ling.infer.request import SamplingParams
from ling.infer.runner import Runner
from ling.infer.torch_runner import TorchRunner
from ling.model.ling import Ling, from_config
from ling.model.swap import swap
from ling.ops import device_kernels, fp8_tiles, paged
from ling.ops.chosen import FP8Stack, PlainStack, Stack
from ling.ops.device_kernels import chosen_product
from ling.ops.fp8 import widen_blocks
from ling.presets import preset

from .compare import largest, relative, seeded
from .shapes import LING, shape
from .stage import Stage, Values

PROMPT = 90


def run(stage: Stage) -> None:
    """Part of the stage `decode`."""
    stage.check("attention and experts at full size beside their definitions", kernels, stage)
    stage.check("scores of a prompt and of decoding beside the CPU's", scores, stage)
    for fp8 in (False, True):
        name = "FP8 weights" if fp8 else "bfloat16"
        stage.check(f"scores with {name} beside the CPU's", rounded_scores, stage, fp8)
    stage.check("tokens of the engine beside the CPU's", tokens, stage)


# ---- scores and tokens -------------------------------------------------------------------------


def scores(stage: Stage) -> Values:
    """A small model in float32: a prompt at once, then token by token, beside the CPU's runner."""
    got, want = (scores_of(r) for r in (small_runner(stage.device), reference_runner()))
    return {"error": largest(got, want), "limit": 1e-3}


def scores_of(runner: Runner) -> Tensor:
    """Scores of `PROMPT` positions at once, of the next ones one by one, and of two at once."""
    ids = torch.randint(0, 300, (100,), generator=seeded()).tolist()
    pages = list(range(pages_for(len(ids))))
    runner.allocate(len(pages))
    rows = []
    for a, b in ((0, PROMPT), *((n, n + 1) for n in range(PROMPT, 98)), (98, 100)):
        hidden = runner.forward(ids[a:b], [Segment(pages, a, 0, b - a)])
        rows.append(runner.logits(hidden).float().cpu().clone())
    return torch.cat(rows)


def rounded_scores(stage: Stage, fp8: bool) -> Values:
    """The same in bfloat16, with weights in bfloat16 or FP8, whose roundings differ.

    A rounding more or less moves a choice of experts now and then, so the error is that of half of
    the rows: of the prompt or of decoding, whichever is larger. Scores in bfloat16 are 0.02 away
    from those in float32.
    """
    cfg = preset("ling-tiny").replace(
        hidden_size=256, moe_intermediate_size=128, intermediate_size=256, initializer_range=0.1
    )
    cpu = torch.device("cpu")
    model = random_on_device(cfg, torch.bfloat16, cpu, fp8=fp8)
    want = scores_of(DeviceRunner(copy.deepcopy(model)))
    runner = DeviceRunner(model.to(stage.device))
    got = scores_of(runner)
    error_T = (got - want).norm(dim=1) / want.norm(dim=1)
    halves = [float(part.nanquantile(0.5)) for part in error_T.split((PROMPT, 100 - PROMPT))]
    return {
        "error": max(halves) if bool(got.isfinite().all()) else float("inf"),
        "limit": 0.06,
        "largest": float(error_T.max()),
        "equal": not stage.cuda or bool(runner.steps.programs),
    }


def tokens(stage: Stage) -> Values:
    """Requests of several lengths together, greedy and drawn; of 100 tokens at most two may differ,
    as nearly equal scores can change places."""
    found = [continued(runner) for runner in (small_runner(stage.device), reference_runner())]
    pairs = list(zip(*found, strict=True))
    different = sum(a != b for a, b in pairs)
    return {"error": different / len(pairs), "limit": 0.02, "tokens": len(pairs)}


def continued(runner: Runner) -> list[int]:
    """The tokens of all requests, one behind the other."""
    engine = Engine(runner, EngineConfig(num_pages=64), adaptive=False)
    requests = []
    for n, length in enumerate((1, 17, 64, 65, 130)):
        ids = torch.randint(0, 300, (length,), generator=seeded(n)).tolist()
        params = SamplingParams(max_tokens=24, temperature=n % 2, seed=n, ignore_eos=True)
        requests.append(engine.add(ids, params))
    while engine.has_work:
        engine.step()
    return [token for request in requests for token in request.output]


def small_model() -> Ling:
    """Larger weights than at the start of training: layers that matter."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim > 1 else 1)
    return model


def reference_runner() -> Runner:
    """The CPU's, in plain torch."""
    return TorchRunner(small_model())


def small_runner(device: torch.device) -> Runner:
    """The device's, of the same model."""
    model = small_model().to(device)
    swap(model, device_modules())
    # Also in float32, where the engine itself makes none: these steps have few rows.
    return DeviceRunner(model, capture=CudaCapture() if device.type == "cuda" else eager_capture)


# ---- kernels -----------------------------------------------------------------------------------


def kernels(stage: Stage) -> Values:
    """At the sizes of Ling-mini, at the end of its context and with its last expert; on a GPU all
    of them are to be our kernels."""
    errors = {
        "attention": paged_error(stage),
        "experts": chosen_error(stage, fp8=False),
        "FP8 experts": chosen_error(stage, fp8=True),
    }
    used = [chosen_product(stage.device, fp8=fp8) is not None for fp8 in (False, True)]
    return {
        "error": max(errors.values()),
        "limit": 0.02,
        "equal": not stage.cuda or all(used),
        **errors,
    }


def paged_error(stage: Stage) -> float:
    """Of two requests in bfloat16, one of them short, with two rows each."""
    cfg, W = shape(LING, 2, tiny=stage.tiny), 4 if stage.tiny else 512
    H, G, K = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim
    k, v = (normal(stage, n, 2 * W, PAGE, G, K) for n in (1, 2))
    last = torch.tensor([[W * PAGE - 2, W * PAGE - 1], [98, 99]], dtype=torch.int32)
    table = torch.randperm(2 * W, generator=seeded()).view(2, W).to(torch.int32)
    rest = [x.to(stage.device) for x in (table, last, last[:, 1] + 1)]
    inputs = normal(stage, 3, 2, 2, H, K), k, v, *rest
    return relative(device_kernels.paged_attention(*inputs), paged.paged_attention(*inputs))


def chosen_error(stage: Stage, *, fp8: bool) -> float:
    """Of a few rows, each with several experts, the last one among them."""
    cfg = shape(LING, 2, tiny=stage.tiny)
    E, D, width = cfg.num_experts, cfg.hidden_size, cfg.moe_intermediate_size
    w, x = normal(stage, 1, E, 2 * width, D), normal(stage, 2, 2, D)
    ids = torch.tensor([E - 1, 0, 1, E - 1, E - 2, 2], device=stage.device)
    stack: Stack = PlainStack(w)
    if fp8:
        codes, scales = fp8_tiles.quantise_blocks(w)
        stack, w = FP8Stack(codes, scales), widen_blocks(codes, scales, torch.bfloat16)
    want = torch.einsum("nok,nk->no", w[ids].float(), x.repeat_interleave(3, 0).float())
    return relative(stack.product(x, ids), want)


def normal(stage: Stage, seed: int, *size: int) -> Tensor:
    """Random numbers in bfloat16, made on the device."""
    generator = torch.Generator(stage.device).manual_seed(seed)
    return torch.randn(size, generator=generator, device=stage.device, dtype=torch.bfloat16)
