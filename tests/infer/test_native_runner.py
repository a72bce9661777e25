"""Whole forward passes of the native runner against the module, and calls that it must refuse."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from unpacked_models import BOUND, distances, random_model, unpacked

from ling.checkpoint.load import load_model
from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.errors import KernelError, UsageError
from ling.infer.choice import RowChoice
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner, why_not
from ling.infer.open import open_runner, runner_for
from ling.infer.pages import Segment
from ling.infer.request import SamplingParams
from ling.infer.torch_runner import TorchRunner
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.ops import native
from ling.ops.formats import FORMATS
from ling.presets import preset

pytestmark = pytest.mark.skipif(native.library() is None, reason="the kernel library is not built")

TINY = preset("ling-tiny")
# Shapes at the kernels' borders: tails of tiles and groups, other head counts, other layer kinds.
SHAPES = {
    "tiny": TINY,
    "twenty experts": TINY.replace(num_experts=20, n_group=5, topk_group=2, num_experts_per_tok=5),
    "no groups": TINY.replace(n_group=1, topk_group=1, num_experts_per_tok=8),
    "one expert a token": TINY.replace(num_experts_per_tok=1),
    "raw weights": TINY.replace(norm_topk_prob=False),
    "two shared experts": TINY.replace(
        num_shared_experts=2, moe_shared_expert_intermediate_size=64
    ),
    "no shared expert": TINY.replace(num_shared_experts=0, moe_shared_expert_intermediate_size=0),
    "dense": TINY.replace(num_experts=0, num_nextn_predict_layers=0),
    "all layers routed": TINY.replace(first_k_dense_replace=0, intermediate_size=100),
    "every expert": TINY.replace(
        first_k_dense_replace=0, num_experts=4, n_group=1, topk_group=1, num_experts_per_tok=4
    ),
    "no norms of heads": TINY.replace(use_qk_norm=False),
    "biases": TINY.replace(use_qkv_bias=True, use_bias=True),
    "tied": TINY.replace(tie_word_embeddings=True),
    "odd widths": TINY.replace(
        hidden_size=96, num_attention_heads=3, vocab_size=131, intermediate_size=144,
        moe_intermediate_size=48, moe_shared_expert_intermediate_size=48,
    ),
    "wide heads": TINY.replace(head_dim=96, num_attention_heads=5, rotary_dim=18),
    "two kv heads": TINY.replace(
        num_attention_heads=4, num_key_value_heads=2, num_nextn_predict_layers=2
    ),
    "two MTP layers": TINY.replace(num_nextn_predict_layers=2),
    "no expert bias": TINY.replace(moe_router_enable_expert_bias=False),
}  # fmt: skip
# Two roundings of one value to 4 bits may be a level apart.
KV_BOUND = {"bf16": 0, "int8": 0, "int4": 0.12}
PAGES = [3, 0, 4, 1]


def reference(model, ids):
    """Hidden states of the main layers and of every MTP layer, in float32."""
    n = len(ids)
    tokens, positions, attend = torch.tensor(ids), torch.arange(n), DenseAttend([0, n])
    with torch.no_grad():
        out = [model(tokens, positions, attend)]
        for j in range(model.config.num_nextn_predict_layers):
            out.append(model.mtp(j, tokens.roll(-1 - j), out[-1], positions, attend))
    return out


def run(runner, ids, chunk):
    """The same through pages, `chunk` tokens a pass."""
    n, layers = len(ids), runner.config.num_nextn_predict_layers
    out = [[] for _ in range(1 + layers)]
    rolled = [torch.tensor(ids).roll(-1 - j).tolist() for j in range(layers)]
    for at in range(0, n, chunk):
        rows = min(chunk, n - at)
        segment = [Segment(PAGES, at, 0, rows)]
        hidden = runner.forward(ids[at : at + rows], segment).clone()
        out[0].append(hidden)
        for j in range(layers):
            hidden = runner.mtp(j, rolled[j][at : at + rows], hidden, segment).clone()
            out[1 + j].append(hidden)
    return [torch.cat(o) for o in out]


@pytest.mark.parametrize("fmt", [f.name for f in FORMATS.values() if f.kernel])
@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_are_those_of_the_module(shape, fmt):
    cfg = SHAPES[shape]
    model = random_model(cfg)
    g = torch.Generator().manual_seed(2)
    ids = torch.randint(cfg.vocab_size, (150,), generator=g).tolist()
    runner = runner_for(model, EngineConfig(format=fmt))
    assert isinstance(runner, NativeRunner)
    runner.allocate(5)
    got = run(runner, ids, 150)
    for a, b in zip(got, run(runner, ids, 37), strict=True):
        assert torch.equal(a, b)
    chosen = cfg.num_experts_per_tok < cfg.num_experts
    for have, want in zip(got, reference(unpacked(cfg, model, fmt), ids), strict=True):
        rows = distances(have, want)
        if not chosen:
            assert rows.max() < 2 * BOUND[fmt]
        # Where rounding flips the choice of an expert a row differs much, and those after it some.
        assert rows.median() < BOUND[fmt] * (2.5 if shape == "all layers routed" else 1)


LEVELS = ("generic", "avx2", "avx512vnni", "avx512bf16", "avx512amx")
LONG_PREFILL = """
import hashlib, torch
from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.infer.open import runner_for
from ling.infer.pages import Segment
from ling.model.ling import from_config
from ling.model.names import module_tensor
from ling.ops import native
from ling.presets import preset
cfg = preset("ling-tiny")
for fmt in ("int3", "int4", "int8"):
    runner = runner_for(from_config(cfg, seed=0), EngineConfig(format=fmt))
    runner.allocate(8)
    ids = torch.arange(300).remainder(cfg.vocab_size).tolist()
    hidden = runner.forward(ids, [Segment(list(range(5)), 0, 0, 300)])
    print(fmt, hashlib.sha256(hidden.numpy().tobytes()).hexdigest())
print(native.isa())
"""


def test_a_long_prefill_has_the_same_bits_with_and_without_the_matrix_unit():
    """From this many rows on, those of an expert are brought together for it."""

    def run_at(level):
        env = {**os.environ, "LING_ISA": level}
        done = subprocess.run(
            [sys.executable, "-c", LONG_PREFILL], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    unit = run_at("avx512amx")
    if unit[-1] != "avx512amx":
        pytest.skip("no matrix unit")
    # Both multiply bfloat16 pairs by two float32 instructions.
    assert run_at("avx512vnni")[:-1] == unit[:-1]


@pytest.mark.parametrize("fmt", ["bf16", "int4"])
@pytest.mark.parametrize("shape", ["tiny", "dense", "odd widths", "wide heads", "two kv heads"])
def test_int8_kv_cache_is_that_of_the_reference(shape, fmt):
    cfg = SHAPES[shape]
    model = random_model(cfg)
    ids = torch.randint(cfg.vocab_size, (150,), generator=torch.Generator().manual_seed(2)).tolist()
    runner = runner_for(model, EngineConfig(format=fmt, kv_cache_dtype="int8"))
    oracle = TorchRunner(unpacked(cfg, model, fmt), EngineConfig(kv_cache_dtype="int8"))
    for r in (runner, oracle):
        r.allocate(5)
    got = run(runner, ids, 150)
    for a, b in zip(got, run(runner, ids, 37), strict=True):
        assert torch.equal(a, b)
    for have, want in zip(got, run(oracle, ids, 150), strict=True):
        assert distances(have, want).median() < BOUND[fmt]
    parts = runner.kv.chunk(2, -1)
    for tensor, part, keys in zip(oracle.cache, parts, (True, False), strict=True):
        codes, scales = int8_pages(part, cfg, keys)
        # The first layer: what comes before it are one norm and one product.
        want, have = ((x[0, PAGES[:2]]) for x in (tensor.scales, scales))
        assert ((have - want).abs() / want).max() < 0.05
        off = (codes[0, PAGES[:2]] - tensor.values[0, PAGES[:2]]).abs().float()
        assert off.mean() < 1
        assert off.max() < 8


def int8_pages(part, cfg, keys):
    """Codes [layers, pages, G, 64, K] and scales [layers, pages, G, 64] of keys or values."""
    K = cfg.head_dim
    rows, columns = (64, K) if keys else (K, 64)
    pages = part.transpose(1, 2)
    scales = pages[..., 64 * K :].contiguous().view(torch.float32)
    tiles = pages[..., : 64 * K].unflatten(-1, (rows // 16, columns // 4, 16, 4))
    codes = tiles.transpose(-3, -2).reshape(*pages.shape[:3], rows, columns).int() - 128
    return codes if keys else codes.transpose(-1, -2), scales


@pytest.mark.parametrize("fmt", ["bf16", "int4"])
@pytest.mark.parametrize("shape", ["tiny", "dense", "odd widths", "two kv heads"])
def test_int4_kv_cache_is_that_of_the_reference(shape, fmt):
    cfg = SHAPES[shape]
    model = random_model(cfg)
    ids = torch.randint(cfg.vocab_size, (150,), generator=torch.Generator().manual_seed(2)).tolist()
    runner = runner_for(model, EngineConfig(format=fmt, kv_cache_dtype="int4"))
    oracle = TorchRunner(unpacked(cfg, model, fmt), EngineConfig(kv_cache_dtype="int4"))
    for r in (runner, oracle):
        r.allocate(5)
    got = run(runner, ids, 150)
    for a, b in zip(got, run(runner, ids, 37), strict=True):
        assert torch.equal(a, b)
    for have, want in zip(got, run(oracle, ids, 150), strict=True):
        assert distances(have, want).median() < BOUND[fmt] + KV_BOUND["int4"]
    parts = runner.kv.chunk(2, -1)
    for tensor, part, keys in zip(oracle.cache, parts, (True, False), strict=True):
        codes, scales = int4_pages(part, cfg, keys)
        # The first layer: what comes before it are one norm and one product.
        want, have = ((x[0, PAGES[:2]]) for x in (tensor.scales, scales))
        # Where the two largest magnitudes are all but equal, either may give the sign.
        assert ((have - want).abs() < 0.05 * want.abs()).float().mean() > 0.97
        packed = tensor.values[0, PAGES[:2]]
        same = codes[0, PAGES[:2]] == torch.cat((packed & 15, packed >> 4), -1)
        assert same.float().mean() > 0.9


def int4_pages(part, cfg, keys):
    """Codes [layers, pages, G, 64, K] and scales [layers, pages, G, 64] of keys or values."""
    K = cfg.head_dim
    pages = part.transpose(1, 2)
    scales = pages[..., 32 * K :].contiguous().view(torch.float32)
    shape = (4, K // 8, 16, 4) if keys else (K // 32, 16, 16, 4)
    packed = pages[..., : 32 * K].unflatten(-1, shape)
    halves = torch.stack((packed & 15, packed >> 4))
    # Of keys [half, ..., tile, eight columns, row, j]; of values [half, ..., tile pair, four
    # positions, row, j].
    order = (1, 2, 3, 4, 6, 5, 0, 7) if keys else (1, 2, 3, 5, 7, 4, 0, 6)
    return halves.permute(order).reshape(*pages.shape[:3], 64, K), scales


def test_int4_kv_cache_needs_heads_of_a_power_of_two():
    model = random_model(SHAPES["wide heads"])
    for fmt in (None, "int4"):
        with pytest.raises(UsageError, match='power of two, and this model has 96; use "int8"'):
            runner_for(model, EngineConfig(format=fmt, kv_cache_dtype="int4"))


LEVEL = """
import sys, torch
sys.path[:0] = sys.argv[1:]
import test_native_runner as t
model, ids = t.random_model(t.TINY), list(range(150))
for kv in t.KV_CACHE_DTYPES:
    runner = t.runner_for(model, t.EngineConfig(format="int4", kv_cache_dtype=kv))
    oracle = t.TorchRunner(t.unpacked(t.TINY, model, "int4"), t.EngineConfig(kv_cache_dtype=kv))
    for r in (runner, oracle):
        r.allocate(5)
    pairs = zip(t.run(runner, ids, 60), t.run(oracle, ids, 150), strict=True)
    print(kv, *(t.distances(a, b).median().item() for a, b in pairs))
print("level", t.native.isa())
"""


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_attends_as_the_reference_does(level):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LEVEL, here, f"{here}/../helpers"],
        env={**os.environ, "LING_ISA": level},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *rows, used = (line.split() for line in done.stdout.splitlines())
    assert LEVELS.index(used[1]) <= LEVELS.index(level)
    assert [row[0] for row in rows] == list(KV_CACHE_DTYPES)
    for row in rows:
        assert all(float(d) < BOUND["int4"] + KV_BOUND[row[0]] for d in row[1:])


@pytest.mark.parametrize("fmt", [None, "bf16"])
@pytest.mark.parametrize("kv", KV_CACHE_DTYPES)
def test_a_cleared_page_is_as_if_the_mtp_layers_had_never_read_it(fmt, kv):
    """As the layers see it, wherever in a page they keep what is theirs."""
    cfg = SHAPES["two kv heads"]
    model, ids = random_model(cfg), list(range(150))

    def rest(runner):
        """What all layers give from the second page on."""
        segment, tokens = [Segment(PAGES, 64, 0, 86)], torch.tensor(ids)
        out = [runner.forward(ids[64:], segment).clone()]
        for j in range(2):
            following = tokens.roll(-1 - j).tolist()[64:]
            out.append(runner.mtp(j, following, out[-1], segment).clone())
        return out

    known, blank = (runner_for(model, EngineConfig(format=fmt, kv_cache_dtype=kv)) for _ in "ab")
    known.allocate(5), blank.allocate(5)
    before = [rows[64:] for rows in run(known, ids, 150)]
    known.clear_mtp(PAGES[0])
    blank.forward(ids[:64], [Segment(PAGES, 0, 0, 64)])
    after = rest(known)
    assert all(map(torch.equal, after, rest(blank)))
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, False, False]


@pytest.mark.parametrize("fmt", [None, "bf16", "int4"])
@pytest.mark.parametrize("kv", KV_CACHE_DTYPES)
def test_a_later_token_that_is_not_finite_leaves_earlier_rows_alone(fmt, kv):
    model = random_model(TINY)
    with torch.no_grad():
        model.model.word_embeddings.weight[7] = float("nan")
        model.model.word_embeddings.weight[8] = float("inf")
    runner = runner_for(model, EngineConfig(format=fmt, kv_cache_dtype=kv))
    runner.allocate(3)
    segment = [Segment([1, 0], 0, 0, 80)]
    want = runner.forward(list(range(20, 100)), segment).clone()
    for bad in (7, 8):
        for at in (63, 64, 71, 5, 10):
            ids = list(range(20, 100))
            ids[at] = bad
            got = runner.forward(ids, segment)
            assert torch.equal(got[:at], want[:at])
            assert not got[at:].isfinite().any()
            # What a page still holds of it does not matter either.
            again = runner.forward(ids[:at], [Segment([1, 0], 0, 0, at)])
            assert torch.equal(again, want[:at])


@pytest.mark.parametrize("fmt", [None, "bf16", "int4"])
@pytest.mark.parametrize("kv", KV_CACHE_DTYPES)
def test_a_value_that_is_not_finite_spoils_the_rows_that_see_it(fmt, kv):
    """Through weights: one channel of V overflows for one token, its key stays finite."""
    cfg = TINY.replace(num_nextn_predict_layers=0)
    model = random_model(cfg)
    # Token 7 alone has this channel, and every other channel of it is zero.
    with torch.no_grad():
        table = model.model.word_embeddings.weight
        table[:, 3] = 0
        table[7] = 0
        table[7, 3] = 1
        qkv = model.model.layers[0].attention.query_key_value.weight
        qkv[-1, 3] = 3e38
    runner = runner_for(model, EngineConfig(format=fmt, kv_cache_dtype=kv))
    runner.allocate(2)
    ids, segment = list(range(20, 100)), [Segment([1, 0], 0, 0, 80)]
    want = runner.forward(ids, segment).clone()
    assert want.isfinite().all()
    ids[70] = 7
    got = runner.forward(ids, segment)
    assert torch.equal(got[:70], want[:70])
    assert not got[70:].isfinite().any()


def test_logits_are_those_of_the_head():
    model = random_model(TINY)
    runner = runner_for(model, EngineConfig(format="bf16"))
    runner.allocate(1)
    hidden = torch.randn(7, 64)
    logits = runner.logits(hidden).clone()  # valid until the next call
    want = model.lm_head(hidden.bfloat16().float()).detach()
    assert torch.allclose(
        logits, hidden.bfloat16().float() @ model.lm_head.weight.bfloat16().float().t(),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert ((logits - want).norm() / want.norm()) < 0.01
    assert torch.equal(runner.logits(hidden, 100), logits[:, :100])


def test_equal_scores_go_to_the_lowest_id_that_is_allowed():
    model = from_config(TINY, seed=0)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight[:1].expand(384, -1))
    runner = runner_for(model, EngineConfig(format="int8"))
    runner.allocate(1)
    scores = runner.logits(torch.randn(3, 64))
    assert [c.token_id for c in runner.choose(scores, [RowChoice()] * 3)] == [0, 0, 0]
    runner.ban_ids(lambda i: i >= 5)
    assert [c.token_id for c in runner.choose(scores, [RowChoice()] * 3)] == [5, 5, 5]


@pytest.mark.parametrize("fmt", ["int4", "bf16"])
def test_a_token_whose_embedding_is_not_finite_spoils_only_its_own_request(fmt):
    model = random_model(TINY)
    with torch.no_grad():
        model.model.word_embeddings.weight[7] = float("nan")
    runner = runner_for(model, EngineConfig(format=fmt))
    runner.allocate(3)
    clean = [Segment([0], 0, 0, 20)]
    want = runner.forward(list(range(20, 40)), clean).clone()
    runner.forward([7] * 64, [Segment([1], 0, 0, 64)])
    both = runner.forward(
        [*range(20, 40), *[7] * 10], [Segment([0], 0, 0, 20), Segment([1], 0, 20, 30)]
    )
    assert torch.equal(both[:20], want)
    assert both[20:].isnan().all()
    # And nothing stays behind in a page that another request gets.
    again = runner.forward(list(range(20, 40)), [Segment([1], 0, 0, 20)])
    assert torch.equal(again, want)


def test_expert_counts_count_every_choice_once():
    runner = runner_for(from_config(TINY, seed=0), EngineConfig(format="int8"))
    runner.allocate(4)
    runner.forward(list(range(100)), [Segment([0, 1], 0, 0, 100)])
    counts = runner.expert_counts()
    assert counts.sum(1).tolist() == [0, 200, 200, 0]
    assert runner.expert_counts().sum() == 0


def test_profile_names_every_stage_once():
    runner = runner_for(from_config(TINY, seed=0), EngineConfig(format="int8"))
    runner.allocate(4)
    runner.forward(list(range(100)), [Segment([0, 1], 0, 0, 100)])
    first = runner.profile()
    assert {"qkv", "attention", "router", "gate + up", "down"} <= set(first)
    assert sum(first.values()) > 0
    assert sum(runner.profile().values()) == 0


def test_two_engines_in_two_threads_give_the_tokens_of_each_alone():
    prompts = [[i, i + 1, i + 2] * 20 for i in range(6)]

    def tokens(fmt):
        config = EngineConfig(format=fmt, speculative="mtp", num_pages=40)
        e = Engine(runner_for(random_model(TINY), config), config)
        params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
        requests = [e.add(p, params) for p in prompts]
        while e.has_work:
            e.step()
        return [r.output for r in requests]

    want = {fmt: tokens(fmt) for fmt in ("int8", "int4")}
    got = {}
    threads = [threading.Thread(target=lambda f=f: got.update({f: tokens(f)})) for f in want]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == want


# ---- the upstream fixtures ---------------------------------------------------------------------


def test_a_shape_without_kernels_runs_on_the_module_and_says_why(fixtures, caplog):
    path = fixtures / "model" / "tiny_bf16"
    assert "head size 16" in why_not(load_model(path).config)
    with caplog.at_level(logging.WARNING, "ling"):
        assert isinstance(open_runner(path), TorchRunner)
    assert len(caplog.records) == 1
    with pytest.raises(UsageError, match="head size 16"):
        open_runner(path, EngineConfig(format="int4"))


def widened(model, cfg):
    """The same function with heads of 32 channels: the new ones are zero in every query, key and
    value, and scores keep their scale because queries are larger by sqrt(2)."""
    wide = from_config(cfg, seed=0)
    state, heads = model.state_dict(), cfg.num_attention_heads + 2 * cfg.num_key_value_heads
    old, new = model.config.head_dim, cfg.head_dim
    for name, value in state.items():
        if name.endswith("query_key_value.weight"):
            out = torch.zeros(heads, new, cfg.hidden_size)
            out[:, :old] = value.view(heads, old, -1)
            state[name] = out.flatten(0, 1)
        elif name.endswith("attention.dense.weight"):
            out = torch.zeros(cfg.hidden_size, cfg.num_attention_heads, new)
            out[:, :, :old] = value.view(cfg.hidden_size, -1, old)
            state[name] = out.flatten(1)
        elif name.endswith(("query_layernorm.weight", "key_layernorm.weight")):
            out = torch.zeros(new)
            # The mean square is over twice the channels, half of them zero.
            out[:old] = value * (old / new) ** 0.5
            state[name] = out * ((new / old) ** 0.5 if "query" in name else 1)
    wide.load_state_dict(state)
    return wide


@pytest.mark.parametrize("folder", ["tiny_nomtp_fp32", "tiny_yarn_fp32"])
def test_upstream_logits_through_kernels_of_heads_twice_as_wide(fixtures, folder):
    path = fixtures / "model" / folder
    model = load_model(path, "float32")
    cfg = model.config.replace(head_dim=32, rotary_dim=model.config.rotary_size)
    eps = cfg.rms_norm_eps
    assert eps <= 1e-5  # the widened norms differ by eps only
    wide = widened(model, cfg)
    io = load_file(path / "io.safetensors")
    ids = io["input_ids"][0].tolist()
    hidden = reference(wide, ids)[0]
    want = io["logits"][0]
    assert torch.allclose(wide.logits(hidden), want, atol=2e-3)
    runner = runner_for(wide, EngineConfig(format="bf16"))
    runner.allocate(5)
    got = runner.logits(run(runner, ids, 16)[0])
    assert distances(got, want).median() < 0.03  # weights are rounded too


def test_upstream_greedy_tokens_through_bf16_kernels(fixtures):
    path = fixtures / "model" / "tiny_nomtp_fp32"
    want = json.loads((path / "expected.json").read_text())["greedy"]
    model = load_model(path, "float32")
    cfg = model.config.replace(head_dim=32, rotary_dim=model.config.rotary_size)
    e = Engine(runner_for(widened(model, cfg), EngineConfig(format="bf16")))
    n = len(want["prompt"])
    # Teacher-forced: each token from upstream's own prefix, where its two best are not a tie.
    ids = want["output"]
    request = e.add(ids, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1))
    while e.has_work:
        e.step()
    rows = [sorted(row, key=lambda t: -t.logprob) for row in request.prompt_logprobs[n - 1 :]]
    clear = [row[0].logprob - row[1].logprob > 0.05 for row in rows]
    assert sum(clear) >= len(clear) // 2
    pairs = zip(rows, ids[n:], clear, strict=True)
    assert all(row[0].token_id == i for row, i, is_clear in pairs if is_clear)


# ---- wrong calls -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner():
    runner = runner_for(from_config(TINY, seed=0), EngineConfig(format="int8"))
    runner.allocate(4)
    return runner


@pytest.mark.parametrize(
    ("tokens", "segments"),
    [
        ([384], [Segment([0], 0, 0, 1)]),
        ([-1], [Segment([0], 0, 0, 1)]),
        ([1 << 40], [Segment([0], 0, 0, 1)]),
        ([], []),
        ([], [Segment([0], 0, 0, 0)]),
        ([1], []),
        ([1], [Segment([], 0, 0, 1)]),
        ([1], [Segment([4], 0, 0, 1)]),
        ([1], [Segment([-1], 0, 0, 1)]),
        ([1], [Segment([0], 64, 0, 1)]),
        ([1], [Segment([0], -1, 0, 1)]),
        ([1], [Segment([0] * 9, 512, 0, 1)]),
        ([1], [Segment([0], (1 << 63) - 1, 0, 1)]),
        ([1], [Segment([0], 0, 1, 2)]),
        ([1], [Segment([0], 0, 0, 2)]),
        ([1, 2], [Segment([0], 0, 0, 1)]),
        ([1, 2], [Segment([0], 0, 0, 2), Segment([1], 0, 0, 2)]),
        ([1, 2], [Segment([0], 0, 1, 2), Segment([1], 0, 0, 1)]),
    ],
)
def test_wrong_segments_and_tokens_raise(runner, tokens, segments):
    with pytest.raises(KernelError):
        runner.forward(tokens, segments)
    with pytest.raises(KernelError):
        runner.mtp(0, tokens, torch.randn(max(len(tokens), 2), 64), segments)


@pytest.mark.parametrize("j", [-1, 1, 1 << 40])
def test_an_mtp_layer_that_is_not_there_raises(runner, j):
    with pytest.raises(KernelError, match="MTP layer"):
        runner.mtp(j, [1], torch.randn(1, 64), [Segment([0], 0, 0, 1)])


def test_wrong_scores_raise(runner):
    for vocab in (385, 1 << 40):
        room = torch.empty(1)
        with pytest.raises(KernelError):
            native.check(
                runner.lib,
                runner.lib.ling_logits(
                    *(runner.model, torch.randn(1, 64).data_ptr(), 1, vocab, room.data_ptr())
                ),
            )
    with pytest.raises(KernelError):
        runner.logits(torch.empty(0, 64))


def test_no_model_at_all_raises():
    lib = native.required()
    for status in (
        lib.ling_forward(None, None, 1, None, 1, None),
        lib.ling_mtp(None, 0, None, None, 1, None, 1, None),
        lib.ling_logits(None, None, 1, 0, None),
        lib.ling_choose(None, 1, 9, None, None, 0, 0, None, None, None),
        lib.ling_expert_counts(None, None),
        lib.ling_model_new(None, None, None),
        lib.ling_model_offload(None, 0, 0, None, None),
        lib.ling_model_evict(None, 0),
        lib.ling_use_large_pages(None, 1),
        lib.ling_map_in(None, 1),
        lib.ling_read_seconds(None, 1 << 20, None),
    ):
        with pytest.raises(KernelError, match=r"null|no such"):
            native.check(lib, status)
    lib.ling_model_free(None)
