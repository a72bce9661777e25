"""The model on the device beside what upstream computed, and the grouped products beside a loop.

Legend: B rows · S positions · R rows of all experts · E experts · D hidden · F expert width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ling.checkpoint.load import load_model
from ling.checkpoint.raw.safetensors import SafetensorsFile
from ling.model.attention import DenseAttend
from ling.model.ling import Ling, from_config, to_dtype
from ling.model.names import in_module
from ling.ops import experts, grouped
from ling.presets import preset

from .compare import largest, relative, seeded
from .stage import Stage, Values

FLOAT32 = ("tiny_fp32", "tiny_yarn_fp32", "tiny_nomtp_fp32")
MTP_WEIGHT = 0.1


def run(stage: Stage) -> None:
    """All checks of the stage."""
    for case in cases(stage.fixtures):
        for path in ("grouped", "loop"):
            stage.check(f"{case.name} float32 {path}", float32, stage, case, path)
            if case.grads:
                stage.check(f"{case.name} gradients {path}", gradients, stage, case, path)
    stage.check("bfloat16 logits", bfloat16, stage)
    stage.check("bfloat16 gradients", bfloat16_gradients, stage)
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((5, 32, 24, 16), (64, 2048, 2048, 512)):
            if stage.tiny and shape[1] > 64:
                continue
            name = f"grouped {str(dtype)[6:]} E={shape[0]} R={shape[1]} D={shape[2]} F={shape[3]}"
            stage.check(name, grouped_products, stage, dtype, *shape)


# ---- cases -------------------------------------------------------------------------------------


@dataclass
class Trace:
    """Ids and logits of every routing, by layer."""

    seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        self.seen[layer] = logits_TE, ids_TA


@dataclass
class Case:
    """A model with the results that are right for some tokens."""

    name: str
    model: Ling
    ids_BS: Tensor
    labels_BS: Tensor
    logits: list[Tensor]
    """Scores of the main layers, then of each MTP layer."""
    routed: dict[int, Tensor]
    """Experts of each layer, by id."""
    grads: dict[str, Tensor]


def cases(fixtures: Path | None) -> list[Case]:
    """Those of upstream's code where they are, else one whose results the CPU computes."""
    if fixtures is None:
        return [computed_case()]
    return [stored_case(fixtures / "model" / name) for name in FLOAT32]


def stored_case(folder: Path) -> Case:
    """A folder of tests/fixtures/model."""
    io = SafetensorsFile(folder / "io.safetensors")
    model = load_model(folder)
    mtp = [f"mtp_logits.{j}" for j in range(model.config.num_nextn_predict_layers)]
    grads = {}
    if (folder / "grads.safetensors").exists():
        stored = SafetensorsFile(folder / "grads.safetensors")
        grads = {name: stored.read(name) for name in stored.entries}
    return Case(
        folder.name,
        model,
        io.read("input_ids"),
        io.read("labels"),
        [io.read(name).flatten(0, -2) for name in ("logits", *mtp)],
        {n: io.read(f"router.{n}.topk_idx") for n in model.config.moe_layers},
        grads,
    )


def computed_case() -> Case:
    """ling-tiny with random weights, as the CPU computes it."""
    model = from_config(preset("ling-tiny"), seed=0)
    ids_BS = torch.randint(0, model.config.vocab_size, (1, 48), generator=seeded())
    trace = Trace()
    logits = scores(model, ids_BS, trace)
    loss(logits, ids_BS).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    routed = {n: ids for n, (_, ids) in trace.seen.items()}
    want = [x.detach() for x in logits]
    return Case("ling-tiny on the CPU", model, ids_BS, ids_BS, want, routed, grads)


def scores(model: Ling, ids_BS: Tensor, trace: Trace | None = None) -> list[Tensor]:
    """Scores_TV of the main layers and of each MTP layer, as upstream's forward has them."""
    B, S = ids_BS.shape
    positions = torch.arange(S, device=ids_BS.device).repeat(B)
    attend = DenseAttend(list(range(0, B * S + 1, S)))
    hidden = model(ids_BS.flatten(), positions, attend, trace)
    found, ids = [model.logits(hidden)], ids_BS
    for j in range(model.config.num_nextn_predict_layers):
        ids = F.pad(ids[:, 1:], (0, 1))
        hidden = model.mtp(j, ids.flatten(), hidden, positions, attend, trace)
        found.append(model.logits(hidden))
    return found


def loss(logits: list[Tensor], labels_BS: Tensor) -> Tensor:
    """Main loss and weighted MTP loss as upstream's training step has them."""

    def part(scores_TV: Tensor, shift: int) -> Tensor:
        scores_BSV = scores_TV.unflatten(0, labels_BS.shape)
        targets = labels_BS[:, shift:].flatten()
        return F.cross_entropy(scores_BSV[:, :-shift].flatten(0, 1), targets)

    main, *mtp = [part(x, j + 1) for j, x in enumerate(logits)]
    return main + MTP_WEIGHT * sum(mtp)


@contextlib.contextmanager
def path_of(name: str) -> Iterator[None]:
    """Experts' products as `grouped` (one for all experts) or `loop`, whatever the device does."""
    kept = experts.Slots.groups

    def groups(slots: experts.Slots) -> experts.Groups:
        ends = slots.starts_E1[1:].to(torch.int32)
        return ends if name == "grouped" else slots.offsets

    experts.Slots.groups = property(groups)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        experts.Slots.groups = kept  # type: ignore[method-assign]


# ---- checks ------------------------------------------------------------------------------------


def float32(stage: Stage, case: Case, path: str) -> Values:
    """Logits within 1e-4 of upstream's, and the same experts for every token."""
    trace, model = Trace(), moved(case.model, stage.device)
    with torch.no_grad(), path_of(path):
        got = scores(model, case.ids_BS.to(stage.device), trace)
    return {
        "error": max(largest(a, b) for a, b in zip(got, case.logits, strict=True)),
        "limit": 1e-4,
        "equal": all(same_experts(trace.seen[n][1], ids) for n, ids in case.routed.items()),
    }


def moved(model: Ling, device: torch.device, dtype: torch.dtype | None = None) -> Ling:
    """A copy of the model there."""
    with torch.device("meta"):
        made = to_dtype(Ling(model.config), dtype or next(model.parameters()).dtype)
    made.to_empty(device=device)
    made.load_state_dict(model.state_dict())
    return made


def same_experts(got_TA: Tensor, want_TA: Tensor) -> bool:
    """The same sets, in whatever order."""
    return torch.equal(got_TA.cpu().sort(1).values, want_TA.cpu().sort(1).values)


def gradients(stage: Stage, case: Case, path: str) -> Values:
    """Each within 1e-4 of upstream's."""
    model, device = moved(case.model, stage.device), stage.device
    with path_of(path):
        loss(scores(model, case.ids_BS.to(device)), case.labels_BS.to(device)).backward()
    errors = {name: largest(gradient(model, name), want) for name, want in case.grads.items()}
    worst = max(errors, key=lambda name: errors[name])
    return {"error": errors[worst], "limit": 1e-4, "worst": worst, "tensors": len(errors)}


def gradient(model: Ling, name: str) -> Tensor:
    """The gradient of a tensor by its name in the module or on disk."""
    parameters = dict(model.named_parameters())
    key, expert = (name, None) if name in parameters else in_module(name)
    grad = parameters[key].grad
    assert grad is not None, name
    return grad if expert is None else grad[expert]


def bfloat16(stage: Stage) -> Values:
    """Logits in bfloat16 beside upstream's on a CPU, of tokens whose experts are the same.

    A rounding more or less moves a choice now and then, and with it the tokens behind it: the
    error is that of 19 tokens of 20, and may be twice that of our own code on this CPU.
    """
    model, ids_BS, want = _bfloat16_case(stage.fixtures)
    trace, on_cpu = Trace(), Trace()
    with torch.no_grad():
        got = scores(moved(model, stage.device), ids_BS.to(stage.device), trace)[0].cpu()
        cpu = scores(model, ids_BS, on_cpu)[0]
    pairs = [(ids.cpu(), on_cpu.seen[n][1]) for n, (_, ids) in trace.seen.items()]
    same_T = torch.stack([(a.sort(1).values == b.sort(1).values).all(1) for a, b in pairs]).all(0)
    error_T, cpu_T = ((x - want).abs().amax(1)[same_T] for x in (got, cpu))
    cpu_error = float(cpu_T.quantile(0.95))
    return {
        "error": float(error_T.quantile(0.95)),
        "limit": 2 * cpu_error + 0.05,
        "cpu_error": cpu_error,
        "largest": float(error_T.max()),
        "same_experts": float(same_T.float().mean()),
    }


def _bfloat16_case(fixtures: Path | None) -> tuple[Ling, Tensor, Tensor]:
    """Model, tokens and logits."""
    if fixtures is None:
        model = from_config(preset("ling-tiny"), dtype=torch.bfloat16, seed=0)
        ids_BS = torch.randint(0, model.config.vocab_size, (1, 48), generator=seeded())
        with torch.no_grad():
            return model, ids_BS, scores(model, ids_BS)[0]
    folder = fixtures / "model" / "tiny_bf16"
    io = SafetensorsFile(folder / "io.safetensors")
    logits = io.read("logits_fp32_bias").flatten(0, -2).float()
    return load_model(folder), io.read("input_ids"), logits


def bfloat16_gradients(stage: Stage) -> Values:
    """Mixed precision beside float32: the device may be as far from it as twice the CPU is."""
    case = cases(stage.fixtures)[0]
    want = _flat_gradient(case, torch.device("cpu"), None)
    cpu = _flat_gradient(case, torch.device("cpu"), torch.bfloat16)
    got = _flat_gradient(case, stage.device, torch.bfloat16)
    cpu_error = relative(cpu, want)
    return {"error": relative(got, want), "limit": 2 * cpu_error + 0.01, "cpu_error": cpu_error}


def _flat_gradient(case: Case, device: torch.device, dtype: Any) -> Tensor:
    model = moved(case.model, device)
    model.compute_dtype = dtype
    loss(scores(model, case.ids_BS.to(device)), case.labels_BS.to(device)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([g.flatten().cpu() for g in grads])


def grouped_products(
    stage: Stage, dtype: torch.dtype, E: int, R: int, D: int, width: int
) -> Values:
    """One product of all experts beside a loop over them: rows out, and all gradients.

    Counts are uneven, one expert has no row, another a single one.
    """
    ends = _uneven_ends(E, R)
    made = [
        torch.randn(shape, generator=seeded(k)) for k, shape in enumerate(_shapes(E, R, D, width))
    ]
    rows: list[list[Tensor]] = []
    for groups in (ends, ends.to(stage.device, torch.int32)):
        x, *weights = [t.to(stage.device, dtype).requires_grad_() for t in made[:4]]
        borders = [0, *ends.tolist()] if groups is ends else groups
        y = grouped.swiglu(x, borders, *weights)
        y.backward(made[4].to(stage.device, dtype))
        rows.append([y, *(t.grad for t in (x, *weights) if t.grad is not None)])
    names = ("y", "dx", "dgate", "dup", "ddown")
    errors = {n: relative(b, a) for n, a, b in zip(names, *rows, strict=True)}
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    return {"error": max(errors.values()), "limit": limit, **errors}


def _shapes(E: int, R: int, D: int, width: int) -> list[tuple[int, ...]]:
    return [(R, D), (E, width, D), (E, width, D), (E, D, width), (R, D)]


def _uneven_ends(E: int, R: int) -> Tensor:
    """Ends of E groups of R rows: the first has none, the second one, the rest what chance says."""
    inner = torch.randint(1, R, (E - 3,), generator=seeded()).sort().values
    return torch.cat((torch.tensor([0, 1]), inner, torch.tensor([R])))
