"""What a request's choices depend on: counts that grow, drafts before them, masks."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ling.infer.choice import Filters, TokenCounts, next_choice, next_choices
from ling.infer.request import Request, SamplingParams

IDS = st.lists(st.integers(0, 200), max_size=120)


def counted(pair):
    ids, counts = pair
    assert len(set(ids.tolist())) == len(ids)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


@given(IDS, IDS, st.lists(st.integers(0, 210), max_size=5), st.integers(1, 30))
def test_counts_grow_with_the_tokens_and_drafts_leave_them_alone(prompt, output, drafts, size):
    counts, tokens = TokenCounts(len(prompt)), prompt + output
    for end in range(0, len(tokens) + size, size):
        counts.extend(tokens[:end])
    want = {i: output.count(i) for i in tokens}
    assert counted(counts.with_drafts([])) == want
    ahead = {i: output.count(i) + drafts.count(i) for i in tokens + drafts}
    assert counted(counts.with_drafts(drafts)) == ahead
    assert counted(counts.with_drafts([])) == want


def test_filters_are_the_sampling_parameters():
    assert Filters.of(SamplingParams(temperature=0, top_k=-1)) == Filters()
    params = SamplingParams(temperature=0.5, top_p=0.9, min_p=0.25, top_k=7)
    assert Filters.of(params)[:4] == (2.0, 0.9, -2.0, 7)
    assert Filters.of(SamplingParams()).least_power == -math.inf
    assert not Filters.of(params).penalise
    assert Filters.of(SamplingParams(frequency_penalty=-1)).penalise


def request(tokens=(5, 6, 5), num_prompt=2, **params):
    made = Request(0, list(tokens[:num_prompt]), SamplingParams(**params), 9, 99)
    made.tokens = list(tokens)
    return made


def test_rows_of_drafts_know_the_drafts_before_them():
    r = request(presence_penalty=1.0, logprobs=3)
    r.drafts = [5, 8]
    rows = next_choices(r, 2, frozenset(), 50)
    assert [c.position for c in rows] == [3, 4, 5]
    assert [counted((c.seen, c.counts)) for c in rows] == [
        {5: 1, 6: 0}, {5: 2, 6: 0}, {5: 2, 6: 0, 8: 1},
    ]  # fmt: skip
    assert {c.num_best for c in rows} == {3}
    assert [c.num_best for c in next_choices(request(logprobs=-1), 0, frozenset(), 50)] == [50]


def test_nothing_is_counted_unasked():
    r = request(temperature=0.7)
    assert len(next_choice(r, (), frozenset(), None).seen) == 0
    assert r.choosing.counts.num_tokens == 0


def test_no_stop_is_chosen_before_the_least_number_of_tokens():
    r = request(min_tokens=3, stop_token_ids=[7])
    early = [next_choice(r, d, frozenset([1]), None).excluded.tolist() for d in ([], [4], [4, 4])]
    assert [sorted(ids) for ids in early] == [[1, 7], [1, 7], []]


class Asked:
    """A constraint that notes what it is asked."""

    is_done = False

    def __init__(self, asked):
        self.asked = asked

    def mask(self, drafts):
        self.asked.append(list(drafts))
        return np.uint32([len(drafts)])


def test_the_mask_is_asked_for_with_the_drafts():
    r, asked = request(), []
    r.constraint = Asked(asked)
    r.drafts = [3, 4]
    assert [int(c.mask[0]) for c in next_choices(r, 2, frozenset(), 9)] == [0, 1, 2]
    assert asked == [[], [3], [3, 4]]


def test_counting_costs_what_is_new():
    counts, ids = TokenCounts(1), list(np.random.default_rng(0).integers(0, 500, 3000))
    counts.extend(ids)
    before = counts.num_tokens
    ids.append(1)
    seen = []

    class Watched(list):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    counts.extend(Watched(ids))
    assert set(seen) == {before}
    assert counted(counts.with_drafts([])) == {i: ids[1:].count(i) for i in ids}
