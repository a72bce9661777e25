"""Drafts of what a constraint allows and forces."""

from __future__ import annotations

import numpy as np

from ling.infer.constraint import (
    MAX_FORCED,
    MAX_FORCED_WORK,
    allowed_drafts,
    allows,
    draft_forced,
    is_single,
    leaves_other,
)
from ling.infer.request import Request, SamplingParams


def mask_of(*ids, vocab=100):
    bits = np.zeros((vocab + 31) // 32 * 32, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


class Count:
    """Allows the number of tokens so far, modulo 50, and the one after it."""

    is_done = False

    def __init__(self, forced=()):
        self.all_forced = forced

    def mask(self, drafts):
        return mask_of(len(drafts), len(drafts) + 1)

    def forced(self):
        return self.all_forced


def test_masks_are_bit_sets():
    mask = mask_of(0, 31, 32, 99)
    assert [i for i in range(100) if allows(mask, i)] == [0, 31, 32, 99]
    assert allows(None, 5)
    assert [is_single(m) for m in (mask, mask_of(31), mask_of(64), mask_of(), None)] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_ids_are_taken_out_of_a_mask_to_see_what_is_left():
    assert not leaves_other(mask_of(3, 40), np.array([3, 40, 2000], np.int32))
    assert leaves_other(mask_of(3, 40), np.array([3], np.int32))
    assert leaves_other(None, np.array([3], np.int32))


def test_drafts_end_before_the_first_that_may_not_come():
    assert allowed_drafts(Count(), [0, 2, 2, 9, 4]) == [0, 2, 2]
    assert allowed_drafts(Count(), [5]) == []
    assert allowed_drafts(None, [5, 6]) == [5, 6]


def request(max_tokens, forced):
    made = Request(0, [1, 2], SamplingParams(), 0, max_tokens)
    made.constraint = Count(forced)
    return made


def test_forced_tokens_are_drafted_as_far_as_there_is_room():
    for room, count in ((9, 3), (3, 2), (1, 0)):
        r = request(room, [7, 8, 9])
        draft_forced(r)
        assert (r.drafts, r.num_forced) == ([7, 8, 9][:count], count)
    r = request(500, range(99))
    draft_forced(r)
    assert r.num_forced == MAX_FORCED
    long = MAX_FORCED_WORK // 8
    for forced, count in ((long, 8), (long + 1, 7), (2 * MAX_FORCED_WORK, 0)):
        r.constraint.all_forced = range(forced)
        draft_forced(r)
        assert (r.drafts, r.num_forced) == ([*range(count)], count)
    r.constraint.all_forced = []
    draft_forced(r)
    assert (r.drafts, r.num_forced) == ([], 0)


def test_finished_requests_are_left_alone():
    r = request(9, [7])
    r.finish_reason = "stop"
    draft_forced(r)
    assert r.drafts == []
