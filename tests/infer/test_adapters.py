"""Adapters at run time: which rows they change and how, the same tokens however a request is run,
and pages that are never another adapter's.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_adapters import merge, random_adapter
from unpacked_models import BOUND, distances, random_model, unpacked

from ling.config.engine import EngineConfig
from ling.errors import CheckpointError, RequestError
from ling.infer.adapters import MAX_RANK, digest, table_of
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner
from ling.model.adapter import Adapter, LowRank
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

CFG = preset("ling-tiny")
FMTS = [
    None,
    *(["bf16", "int8", "int4", "fp8, int8 KV", "int4, int4 KV"] if native.library() else []),
]
formats = pytest.mark.parametrize("fmt", FMTS, ids=lambda f: f or "reference")
PROMPT = torch.randint(CFG.vocab_size, (130,), generator=torch.Generator().manual_seed(3)).tolist()
LENGTHS = (130, 58, 40, 60, 120, 62, 17)


@functools.cache
def adapters() -> dict[str, Adapter]:
    """Of all matrices, of some, and with a rank that fills no vector."""
    every = dict.fromkeys(("attention", "dense", "shared", "experts"), 8)
    return {
        "all": random_adapter(CFG, 1, ranks=every),
        "attention": random_adapter(CFG, 2, ranks={"attention": 16}),
        "odd": random_adapter(CFG, 3, ranks={"experts": 3, "shared": 5, "dense": 1}),
    }


NAMES = (None, "all", "attention", "odd")


def large_model():
    """Larger weights than at the start of training: varied continuations."""
    model = from_config(CFG.replace(num_nextn_predict_layers=1), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return model


def engine(fmt, **options):
    weights, _, cache = (fmt or "").removesuffix(" KV").partition(", ")
    config = EngineConfig(format=weights or None, kv_cache_dtype=cache or "bf16", **options)
    runner = runner_for(large_model(), config)
    runner.use_adapters(adapters())
    return Engine(runner, config, adaptive=False)


def add(e, i, n=10):
    """Request i: prompts of many lengths that begin alike, each under one of the adapters."""
    params = SamplingParams(max_tokens=n, temperature=0.8, seed=i, ignore_eos=True)
    return e.add(PROMPT[: LENGTHS[i]], params, adapter=NAMES[i % len(NAMES)])


def finish(e):
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages


@functools.cache
def alone(fmt):
    torch.set_num_threads(2)
    out = []
    for i in range(len(LENGTHS)):
        e = engine(fmt)
        request = add(e, i)
        finish(e)
        out.append(request.output)
    return out


def together(e):
    requests = [add(e, i) for i in range(len(LENGTHS))]
    finish(e)
    return [r.output for r in requests]


@formats
def test_requests_of_several_adapters_in_one_batch(fmt):
    assert together(engine(fmt)) == alone(fmt)


@formats
@pytest.mark.parametrize("step_tokens", [7, 50])
def test_prompts_in_chunks(fmt, step_tokens):
    if fmt is None and step_tokens < 50:
        pytest.skip("the reference takes long")
    e = engine(fmt)
    e.runner.max_step_tokens = step_tokens
    assert together(e) == alone(fmt)


@formats
def test_one_thread_drafts_and_pages_that_are_cached(fmt):
    want = alone(fmt)
    torch.set_num_threads(1)
    e = engine(fmt, speculative="mtp", num_drafts=2)
    assert together(e) == want
    assert e.stats.drafted > 0
    assert together(e) == want
    again = add(e, 0)
    finish(e)
    assert again.num_cached_tokens == 128
    assert again.output == want[0]


@formats
def test_preempted_requests(fmt):
    e = engine(fmt, num_pages=5, max_model_len=150)
    assert together(e) == alone(fmt)
    assert e.stats.preemptions


@formats
def test_pages_are_shared_within_an_adapter_only(fmt):
    e = engine(fmt)
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    for name in NAMES:
        for cached in (0, 128):
            request = e.add(PROMPT, params, adapter=name)
            finish(e)
            assert request.num_cached_tokens == cached
    salted = e.add(PROMPT, params, cache_salt="all", adapter=None)
    finish(e)
    assert salted.num_cached_tokens == 0


def hidden(runner, ids, *segments):
    return runner.forward(ids, [Segment(*s) for s in segments]).clone()


@pytest.mark.parametrize("fmt", FMTS, ids=lambda f: f or "reference")
def test_rows_without_an_adapter_keep_their_bits(fmt):
    runner = engine(fmt).runner
    plain = engine(fmt).runner
    ids = PROMPT[:90]
    got = hidden(runner, ids, ([0], 0, 0, 30, 1), ([1], 0, 30, 60, 0), ([2], 0, 60, 90, 2))
    want = hidden(plain, ids, ([0], 0, 0, 30), ([1], 0, 30, 60), ([2], 0, 60, 90))
    assert torch.equal(got[30:60], want[30:60])
    for rows in (slice(0, 30), slice(60, 90)):
        assert (got[rows] - want[rows]).norm(dim=1).div(want[rows].norm(dim=1)).min() > 0.1


@pytest.mark.parametrize("name", NAMES[1:])
def test_merged_weights_give_the_same_logits(name):
    merged = merge(large_model(), adapters()[name])
    runner = TorchRunner(large_model())
    runner.use_adapters(adapters())
    runner.allocate(4)
    ids, number = PROMPT[:100], NAMES.index(name)
    with torch.no_grad():
        out = merged(torch.tensor(ids), torch.arange(100), DenseAttend([0, 100]))
        want = merged.logits(out)
    got = runner.logits(hidden(runner, ids, ([0, 1], 0, 0, 100, number)))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


def _first_two(matrix: LowRank):
    """A and B of rank 2."""
    return matrix.a.narrow(-2, 0, 2), matrix.b.narrow(-1, 0, 2)


@pytest.mark.skipif(native.library() is None, reason="no kernel library")
@pytest.mark.parametrize("fmt", ["bf16", "fp8", "int8", "int4"])
def test_the_kernels_do_what_the_reference_does(fmt):
    """Every token takes every expert: one that took another would be far away."""
    cfg = CFG.replace(num_experts=4, n_group=1, topk_group=1, num_experts_per_tok=4)
    model, ranks = random_model(cfg), {"attention": 16, "dense": 3, "shared": 5, "experts": 8}
    given = {"a": random_adapter(cfg, 4, ranks=ranks), "b": random_adapter(cfg, 5)}
    some = given["a"].matrices  # of these layers gate has another rank than up, or one has none
    some["model.layers.1.mlp.experts.up_proj"] = LowRank(
        *_first_two(some["model.layers.1.mlp.experts.up_proj"]), 2.0
    )
    del some["model.layers.2.mlp.shared_experts.gate_proj"]
    runner = runner_for(model, EngineConfig(format=fmt))
    twin = TorchRunner(unpacked(cfg, model, fmt))
    segments = ([0], 0, 0, 40, 1), ([1], 0, 40, 70, 2), ([2], 0, 70, 120, 1)
    got, want = [], []
    for each, out in ((runner, got), (twin, want)):
        each.use_adapters(given)
        each.allocate(4)
        out.append(hidden(each, PROMPT[:120], *segments))
    assert distances(got[0], want[0]).mean() < BOUND[fmt]


LEVEL = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
import test_adapters as t
runner, h = t.engine("int4").runner, hashlib.sha256()
runner.allocate(4)
for n in range(len(t.NAMES)):
    h.update(t.hidden(runner, t.PROMPT[:100], ([0, 1], 0, 0, 100, n)).numpy().tobytes())
print(t.native.isa(), h.hexdigest())
"""


@pytest.mark.skipif(native.library() is None, reason="no kernel library")
def test_instruction_sets_without_bfloat16_instructions_give_the_same_bits():
    here, found = Path(__file__).parent, {}
    for level in ("generic", "avx2", "avx512vnni"):
        done = subprocess.run(
            [sys.executable, "-c", LEVEL, here, here.parent / "helpers"],
            env={**os.environ, "LING_ISA": level},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        isa, bits = done.stdout.split()
        found[isa] = bits
    assert len(set(found.values())) == 1, found


def test_an_adapter_that_does_not_fit_is_refused_by_its_first_tensor():
    a, b = torch.zeros(4, CFG.hidden_size), torch.zeros(CFG.hidden_size, 4)
    name = "model.layers.0.attention.query_key_value"
    with pytest.raises(CheckpointError, match=rf"adapter `x`: {name}: B has shape \[64, 4\]"):
        table_of({"x": Adapter({name: LowRank(a, b, 1.0)})}, CFG)
    large = torch.zeros(MAX_RANK + 1, CFG.hidden_size)
    with pytest.raises(CheckpointError, match=r"rank 65; adapters of rank 1 to 64 .*--merge"):
        table_of({"x": Adapter({name: LowRank(large, b, 1.0)})}, CFG)
    with pytest.raises(CheckpointError, match=r"mlp\.gate: the model has no such matrix"):
        table_of({"x": Adapter({"model.layers.1.mlp.gate": LowRank(a, b, 1.0)})}, CFG)


def test_an_adapter_that_is_not_there_is_refused():
    with pytest.raises(RequestError, match="no adapter `other`") as caught:
        engine(None).add([1], SamplingParams(), adapter="other")
    assert (caught.value.status, caught.value.param) == (404, "model")


def test_adapters_have_one_hash_only_where_they_are_equal():
    one, other = random_adapter(CFG, 1), random_adapter(CFG, 1)
    assert digest(one) == digest(other) != digest(random_adapter(CFG, 2))
    name, (a, b, scale) = next(iter(one.matrices.items()))
    for changed in (
        LowRank(a, b, 2 * scale),
        LowRank(a, b.clone().index_fill_(0, torch.tensor(0), 1), scale),
    ):
        assert digest(Adapter({**one.matrices, name: changed})) != digest(one)
