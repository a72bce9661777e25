"""The pool of KV pages: nothing leaks, nothing is shared that should not be."""

from __future__ import annotations

import random

import pytest
from small_engine import finished, small_engine

from ling.infer.pages import PAGE, BlockTable, PagePool, pages_for
from ling.infer.request import SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")


def check(pool, holdings):
    """Every page is free, cached for its content, or used by exactly as many as the pool counts."""
    users = [0] * pool.num_pages
    for h in holdings:
        assert len(set(h.pages)) == len(h.pages)
        for page in h.pages:
            users[page] += 1
    assert pool.ref_counts == users
    idle = [p for p in range(pool.num_pages) if not users[p]]
    assert sorted([*pool.free_pages, *pool.cached]) == idle
    assert pool.available == len(idle)
    assert {page: content for content, (page, _) in pool.index.items()} == pool.content
    assert set(pool.cached) <= set(pool.content)
    assert not set(pool.free_pages) & set(pool.content)


@pytest.mark.parametrize("seed", range(20))
def test_no_page_leaks_or_belongs_to_two_whatever_happens(seed):
    """Random requests over few pages; a model of their contents stands beside the pool."""
    rng = random.Random(seed)
    pool, live = PagePool(rng.randint(4, 24)), []
    holds = {}  # page → the whole prefix (and salt) that was computed into it
    stems = [[rng.randrange(3) for _ in range(3 * PAGE)] for _ in range(3)]
    for _ in range(300):
        if live and rng.random() < 0.35:
            table, *_ = live.pop(rng.randrange(len(live)))
            pool.free(table)
            assert table == BlockTable()
        elif live and rng.random() < 0.4:
            table, tokens, salt = rng.choice(live)
            computed = rng.randint(0, len(tokens))
            pool.publish(table, tokens, salt, min(computed, len(table.pages) * PAGE))
        else:
            tokens = rng.choice(stems)[: rng.randint(0, 3 * PAGE)]
            tokens = tokens + [rng.randrange(3) for _ in range(rng.randint(1, PAGE))]
            salt, table = rng.choice(("", "a")), BlockTable()
            start = pool.reuse(table, tokens, salt)
            assert start < len(tokens)
            assert start == PAGE * len(table.pages)
            for i, page in enumerate(table.pages):  # a hit is what it claims to be
                assert holds[page] == (salt, tokens[: (i + 1) * PAGE])
            before = list(table.pages)
            if pool.allocate(table, len(tokens)):
                assert len(table.pages) == pages_for(len(tokens))
                for i, page in enumerate(table.pages[len(before) :], len(before)):
                    holds[page] = (salt, tokens[: (i + 1) * PAGE])
                live.append((table, tokens, salt))
            else:
                assert table.pages == before
                pool.free(table)
        check(pool, [h for h, *_ in live])
    for table, *_ in live:
        pool.free(table)
    assert pool.available == pool.num_pages


def test_taking_too_much_takes_nothing():
    pool, table = PagePool(3), BlockTable()
    assert pool.allocate(table, 2 * PAGE)
    assert not pool.allocate(table, 4 * PAGE)
    assert len(table.pages) == 2
    check(pool, [table])


def test_a_page_for_new_content_is_cleared_and_a_shared_one_is_not():
    pool, cleared = PagePool(4), []
    pool.clear = cleared.append
    first, second = BlockTable(), BlockTable()
    tokens = list(range(PAGE + 1))
    assert pool.allocate(first, PAGE + 1)
    assert cleared == first.pages
    pool.publish(first, tokens, "", PAGE)
    pool.reuse(second, tokens, "")
    assert pool.allocate(second, PAGE + 1)
    assert cleared == [*first.pages, second.pages[1]]
    pool.free(first), pool.free(second)
    assert pool.allocate(first, 4 * PAGE)  # what was cached is made place for
    assert sorted(cleared[3:]) == [0, 1, 2, 3]


def test_the_oldest_unused_content_goes_first_and_its_prefix_last():
    pool = PagePool(4)
    for salt in ("old", "new"):
        table = BlockTable()
        pool.allocate(table, 2 * PAGE)
        pool.publish(table, list(range(2 * PAGE)), salt, 2 * PAGE)
        pool.free(table)
    taken = BlockTable()
    assert pool.allocate(taken, PAGE)  # the second page of the old one
    found = [pool.reuse(h := BlockTable(), list(range(3 * PAGE)), s) for s in ("old", "new")]
    assert found == [PAGE, 2 * PAGE]
    del h


def test_equal_hashes_are_not_equal_prefixes():
    """Python's hash of -1 and -2 is the same, and so are those of tuples of them."""
    pool, table = PagePool(4), BlockTable()
    assert hash((-1,) * PAGE) == hash((-2,) * PAGE)
    pool.allocate(table, PAGE)
    pool.publish(table, [-1] * PAGE, "", PAGE)
    assert pool.reuse(BlockTable(), [-2] * (PAGE + 1), "") == 0
    assert pool.reuse(BlockTable(), [-1] * (PAGE + 1), "") == PAGE


def test_the_same_page_after_another_prefix_is_another_content():
    pool, table = PagePool(8), BlockTable()
    a, b, c = [1] * PAGE, [2] * PAGE, [3] * PAGE
    pool.allocate(table, 2 * PAGE)
    pool.publish(table, a + c, "", 2 * PAGE)
    assert pool.reuse(BlockTable(), [*b, *c, 0], "") == 0
    assert pool.reuse(BlockTable(), [*c, 0], "") == 0
    assert pool.reuse(BlockTable(), [*a, *c, 0], "") == 2 * PAGE


def test_evicted_prefix_does_not_lead_to_what_was_built_on_it():
    pool, table = PagePool(2), BlockTable()
    tokens = list(range(2 * PAGE))
    pool.allocate(table, 2 * PAGE)
    pool.publish(table, tokens, "", 2 * PAGE)
    pool.free(table)
    taken = BlockTable()
    pool.allocate(taken, 2 * PAGE)  # both go
    pool.free(taken)
    assert pool.reuse(BlockTable(), [*tokens, 0], "") == 0
    assert pool.index == pool.content == {}
    assert pool.available == 2


# ---- in the engine -----------------------------------------------------------------------------


def test_generated_tokens_are_a_prefix_for_the_next_turn():
    e = small_engine()
    first = finished(e, list(range(100)), n=60)
    second = finished(e, [*first.tokens, 5, 6], n=8)
    assert second.num_cached_tokens == 128  # the last token was never computed: 159 positions
    assert second.output == finished(small_engine(), [*first.tokens, 5, 6], n=8).output


def test_eviction_under_pressure_changes_no_token():
    e, prompts = small_engine(num_pages=5, max_model_len=256), []
    rng = random.Random(0)
    for i in range(4):
        prompts.append([rng.randrange(384) for _ in range(140 + i)])
    want = [finished(small_engine(), p).output for p in prompts]
    for _ in range(3):
        for p, w in zip(prompts, want, strict=True):
            assert finished(e, p).output == w
            assert e.pool.available == 5


def test_running_requests_share_a_prefix_and_free_it_once():
    e, prompt = small_engine(num_pages=8), list(range(130))
    finished(e, prompt)
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    both = [e.add(prompt, params) for _ in range(2)]
    e.step()
    a, b = (r.block_table.pages for r in both)
    assert a[:2] == b[:2]
    assert a[2] != b[2]
    e.abort(both[0])
    assert all(e.pool.ref_counts[p] == 1 for p in b)
    while e.has_work:
        e.step()
    assert both[1].output == finished(small_engine(), prompt).output
    assert e.pool.available == 8


def test_equal_prefixes_share_pages_and_salts_do_not():
    e, prompt = small_engine(), list(range(200))
    first, second, other = (finished(e, prompt, salt) for salt in ("a", "a", "b"))
    assert [r.num_cached_tokens for r in (first, second, other)] == [0, 192, 0]
    assert first.output == second.output == other.output
    assert e.pool.available == e.pool.num_pages
