"""The core's choice against the oracle: all filters, ties, infinities, every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ling.errors import KernelError
from ling.infer.choice import Filters, RowChoice
from ling.infer.native_choice import native_choose
from ling.infer.sampler import choose, kept
from ling.ops import native

pytestmark = pytest.mark.skipif(native.library() is None, reason="the kernel library is not built")

ISAS = ("generic", "avx2", "avx512vnni", "avx512bf16", "avx512amx")
# Vocabularies and draws; the long run is the same with another seed and more of them.
DRAWS = {33: 1600, 4096: 400, 157184: 4}
LONG = {33: 58_000, 4096: 40_000, 157184: 2000}


# ---- random draws ------------------------------------------------------------------------------


def random_scores(rng, V):
    """Rows of many shapes: smooth, with ties, all equal, peaked, far apart, without noise."""
    size, shape = rng.choice([0.1, 1, 4, 30]), rng.integers(6)
    if shape == 0:
        z = rng.normal(size=V) * size
    elif shape == 1:
        z = rng.integers(-3, 4, size=V)
    elif shape == 2:
        z = np.full(V, rng.integers(-2, 3))
    elif shape == 3:  # Zipf's law, as a trained model has
        z = -np.log(rng.permutation(V) + 1.0) * rng.uniform(0.5, 3)
    elif shape == 4:
        z = rng.standard_cauchy(V) * size
    else:
        z = np.round(rng.normal(size=V) * 4) / 4
    z = z.astype(np.float32)
    if rng.random() < 0.03:
        z[rng.integers(V)] = rng.choice([np.nan, np.inf, -np.inf])
    return z


def random_filters(rng, V):
    def maybe(chance, value, otherwise):
        return value if rng.random() < chance else otherwise

    top_k = rng.choice([1, 2, 20, 50, 1000, V - 1, V, V + 5, 1 << 30])
    min_p = rng.choice([0.01, 0.05, 0.1, 0.5, 1, 1e-20])
    top_p = rng.choice([1e-6, 0.1, 0.5, 0.8, 0.95, 0.999, rng.uniform(0.01, 0.99)])
    return Filters(
        maybe(0.9, float(1 / rng.choice([0.001, 0.3, 0.7, 1, 1.5, 5])), 0.0),
        maybe(0.7, float(top_p), 1.0),
        maybe(0.4, float(np.log2(min_p)), -np.inf),
        maybe(0.5, int(top_k), 0),
        maybe(0.5, float(rng.choice([1.05, 1.3, 0.7, 1e-30, 1e38])), 1.0),
        maybe(0.4, float(rng.uniform(-2, 2)), 0.0),
        maybe(0.4, float(rng.uniform(-2, 2)), 0.0),
    )


def random_mask(rng, V):
    words = (V + 31) // 32
    few = (rng.random(words) < 0.02).astype(np.uint32) << np.uint32(rng.integers(32))
    return few if rng.random() < 0.3 else rng.integers(0, 1 << 32, words, np.uint32)


def random_choice(rng, V):
    c = RowChoice(random_filters(rng, V), int(rng.integers(-(2**63), 2**63)))
    c.position = int(rng.integers(0, 200_000))
    if c.filters.penalise:
        c.seen = rng.choice(V + 4, min(rng.integers(300), V), replace=False).astype(np.int32)
        c.counts = rng.integers(0, 4, len(c.seen)).astype(np.int32)
    if rng.random() < 0.3:
        c.bias_ids = rng.choice(V + 4, min(rng.integers(1, 50), V), replace=False).astype(np.int32)
        c.bias = rng.choice(np.float32([-100, 100, -1, 2.5, 0.3]), len(c.bias_ids))
    if rng.random() < 0.3:
        c.excluded = rng.integers(0, V + 5, rng.integers(5)).astype(np.int32)
    if rng.random() < 0.25:
        c.mask = random_mask(rng, V)
    if rng.random() < 0.4:
        c.num_best = int(rng.choice([0, 1, 5, 20, min(V, 5000)]))
    if rng.random() < 0.1:
        c.given, c.num_best = int(rng.integers(V)), c.num_best or 0
    return c


def difference(got, want, scored):
    """What is not alike, or None."""
    if str(got.error) != str(want.error):
        return "errors"
    if want.error is not None:
        return None
    if got.token_id != want.token_id:
        return "tokens"
    if not scored:
        return None
    if got.rank != want.rank or not np.array_equal(got.best_ids, want.best_ids):
        return "ranks"
    a, b = (np.append(c.best_logprobs, np.float32(c.logprob)) for c in (got, want))
    return None if np.allclose(a, b, rtol=1e-6, atol=1e-5) else "log-probabilities"


def check_draws(seed, V, count, rows=8):
    rng = np.random.default_rng([seed, V])
    for draw in range(0, count, rows):
        scores = np.stack([random_scores(rng, V) for _ in range(min(rows, count))])
        choices = [random_choice(rng, V) for _ in scores]
        banned = rng.integers(0, V, rng.integers(4)).astype(np.int32)
        tensor = torch.from_numpy(scores.copy())
        got = native_choose(native.required(), tensor, choices, banned)
        assert np.array_equal(tensor.numpy(), scores, equal_nan=True), "the scores changed"
        for i, choice in enumerate(choices):
            want = choose(scores[i], choice, banned)
            wrong = difference(got[i], want, choice.num_best is not None)
            assert wrong is None, (wrong, seed, V, draw, i, choice, got[i], want)


def draws_in_a_process(isa, seed, draws):
    """An instruction set is chosen once a process."""
    code = (
        f"import test_native_choice as t\nfor V, n in {draws}.items(): t.check_draws({seed}, V, n)"
    )
    env = {**os.environ, "LING_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("V", DRAWS)
def test_random_draws_equal_the_oracle(V):
    check_draws(1, V, DRAWS[V])


@pytest.mark.parametrize("isa", [n for n in ISAS if n != native.isa()])
def test_every_instruction_set_equals_the_oracle(isa):
    if ISAS.index(isa) > ISAS.index(native.isa()):
        pytest.skip("this processor does not have it")
    draws_in_a_process(isa, 2, {33: 400, 4096: 160})


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_a_hundred_thousand_draws_equal_the_oracle(isa):
    if ISAS.index(isa) > ISAS.index(native.isa()):
        pytest.skip("this processor does not have it")
    draws_in_a_process(isa, 3, LONG)


# ---- single cases ------------------------------------------------------------------------------


def both(scores, choice, banned=()):
    """The core's choice, which is the oracle's."""
    z, ids = np.asarray(scores, np.float32), np.array(banned, np.int32)
    (got,) = native_choose(native.required(), torch.from_numpy(z.copy())[None], [choice], ids)
    want = choose(z, choice, ids)
    assert difference(got, want, choice.num_best is not None) is None, (got, want)
    return got


@pytest.mark.parametrize("top_p", [0.1, 0.25, 0.5, 0.75, 0.999999])
@pytest.mark.parametrize("V", [2, 16, 127, 128, 129, 10_000])
def test_a_nucleus_of_equal_scores_ends_where_the_oracles_does(V, top_p):
    for seed in range(20):
        both(np.zeros(V), RowChoice(Filters(1.0, top_p), seed))
        both(np.arange(V) % 2, RowChoice(Filters(1.0, top_p), seed))


def test_sums_above_2_to_the_53_are_compared_as_whole_numbers():
    """The border's mass is missed by one; rounded, what is before it would seem to reach it."""
    scores = np.random.default_rng(3).uniform(-0.05, 0, 12_000).astype(np.float32)
    filters = Filters(1.0, 0.7003240477437627)
    last = kept(scores, filters)[-1]
    # Of all seeds from 0 on the first one whose noise takes the last id that is left.
    assert both(scores, RowChoice(filters, seed=2387)).token_id == last


def test_scores_that_differ_in_their_last_bit_are_in_order():
    z = np.nextafter(np.ones(300, np.float32), np.linspace(0, 2, 300).astype(np.float32))
    for top_k in (1, 7, 150, 299):
        for top_p in (0.3, 1.0):
            both(z, RowChoice(Filters(1.0, top_p, top_k=top_k), top_k))


def test_extreme_scores_and_temperatures():
    z = np.float32([3.4e38, -3.4e38, 1e-45, -1e-45, 0.0, -0.0, 1.0])
    for temperature in (1e-5, 1.0, 1e30, 1e300):
        for top_p in (0.2, 0.6, 1.0):
            for least in (-np.inf, -1.0, -1e-3):
                both(z, RowChoice(Filters(1 / temperature, top_p, least), 3, num_best=7))


def test_equal_scores_share_the_probability_however_large_they_are():
    got = both(np.full(129, 3e38), RowChoice(num_best=2))
    assert got.logprob == pytest.approx(-np.log(129))


def test_a_border_at_zero_is_found_at_once():
    """Millions of scores near 0 are as far from 1 as 0 is."""
    begin = time.process_time()
    both([1.0, 0.0, 0.5, -1.0], RowChoice(Filters(1.0, 1.0, -1.4426950408889634), 1))
    assert time.process_time() - begin < 1


def test_a_row_of_one_id_and_a_row_without_one():
    assert both([0.5], RowChoice(Filters(1.0, 0.5), num_best=0)).rank == 1
    assert both([0.5], RowChoice(), banned=[0]).error is not None


def test_rows_do_not_depend_on_the_batch_or_its_threads():
    rng = np.random.default_rng(5)
    scores = np.stack([random_scores(rng, 4096) for _ in range(40)])
    choices = [random_choice(rng, 4096) for _ in scores]
    lib, tensor = native.required(), torch.from_numpy(scores)
    for threads in (1, 3):
        native.check(lib, lib.ling_set_num_threads(threads))
        together = native_choose(lib, tensor, choices)
        for i, choice in enumerate(choices):
            (alone,) = native_choose(lib, tensor[i : i + 1], [choice])
            assert (alone.token_id, alone.logprob, alone.rank) == (
                *(together[i].token_id, together[i].logprob, together[i].rank),
            )
            assert np.array_equal(alone.best_logprobs, together[i].best_logprobs)
    native.required()


@pytest.mark.parametrize(
    "change",
    [
        {"filters": Filters(-1.0)},
        {"filters": Filters(np.inf)},
        {"filters": Filters(1e201)},
        {"filters": Filters(np.nan)},
        {"filters": Filters(1.0, 0.0)},
        {"filters": Filters(1.0, np.nan)},
        {"filters": Filters(1.0, 1.0, 0.5)},
        {"filters": Filters(top_k=-1)},
        {"given": 50},
        {"given": -2},
        {"mask": np.zeros(1, np.uint32)},
        {"mask": np.zeros(9, np.uint8)},
    ],
    ids=str,
)
def test_wrong_choices_are_refused(change):
    with pytest.raises(KernelError):
        native_choose(native.required(), torch.zeros(1, 50), [RowChoice(**change)])


def test_wrong_scores_are_refused():
    lib = native.required()
    for scores in (torch.zeros(50), torch.zeros(1, 50).double(), torch.zeros(50, 2).t()):
        with pytest.raises(KernelError, match="float32 matrix"):
            native_choose(lib, scores, [RowChoice()] * len(scores))
    with pytest.raises(KernelError, match="1 choices for 2 rows"):
        native_choose(lib, torch.zeros(2, 5), [RowChoice()])
