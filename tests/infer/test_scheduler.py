"""Who runs in a step: decodes first, prompts in pieces, the youngest gives way."""

from __future__ import annotations

import pytest
from small_engine import finished, small_engine

from ling.config.engine import EngineConfig
from ling.infer.pages import PAGE, PagePool, Segment
from ling.infer.request import Request, SamplingParams
from ling.infer.scheduler import MIXED_STEP_TOKENS, Scheduler

pytestmark = pytest.mark.usefixtures("one_thread")


def scheduler(num_pages=100, budget=4096, num_drafts=0):
    config = EngineConfig(speculative="mtp" if num_drafts else "off", num_drafts=num_drafts)
    return Scheduler(PagePool(num_pages), budget, config)


def request(length, number=0, **params):
    return Request(number, [number] * length, SamplingParams(**params), 0, 1000)


def queue(s, *lengths):
    """A request of each length, with its number in its tokens."""
    requests = [request(n, i) for i, n in enumerate(lengths)]
    for r in requests:
        s.add(r)
    return requests


def shown(step):
    """(request, tokens, first position) of a step."""
    return [(s.request.id, len(s.ids), s.first) for s in step]


def run(s):
    """One step as the engine does it; returns what was scheduled."""
    step = s.schedule()
    for part in step:
        part.request.num_computed_tokens += len(part.ids)
        if part.reaches_end:
            part.request.tokens.append(part.request.id)
    s.end_step(step)
    return shown(step)


def test_requests_of_a_step_follow_each_other_on_one_axis():
    s = scheduler()
    queue(s, 5, 70, 1)
    step = s.schedule()
    assert [(part.start, part.segment()) for part in step] == [
        (0, Segment(step[0].request.block_table.pages, 0, 0, 5)),
        (5, Segment(step[1].request.block_table.pages, 0, 5, 75)),
        (75, Segment(step[2].request.block_table.pages, 0, 75, 76)),
    ]
    assert [len(part.request.block_table.pages) for part in step] == [1, 2, 1]


def test_a_long_prompt_goes_in_pieces_and_the_next_one_gets_the_rest():
    s = scheduler(budget=50)
    queue(s, 120, 10)
    assert run(s) == [(0, 50, 0)]
    assert run(s) == [(0, 50, 50)]
    assert run(s) == [(0, 20, 100), (1, 10, 0)]
    assert run(s) == [(0, 1, 120), (1, 1, 10)]


def test_only_the_last_piece_chooses_a_token():
    s = scheduler(budget=50)
    queue(s, 60)
    assert [part.reaches_end for part in s.schedule()] == [False]
    s.running[0].num_computed_tokens = 50
    assert [part.reaches_end for part in s.schedule()] == [True]


def test_beside_decodes_a_prompt_goes_in_smaller_pieces():
    s = scheduler()
    queue(s, 3)
    run(s)
    s.add(request(3000, 1))
    assert run(s) == [(0, 1, 3), (1, MIXED_STEP_TOKENS - 1, 0)]
    small = scheduler(budget=100)  # a smaller budget is not raised by it
    queue(small, 3)
    run(small)
    small.add(request(3000, 1))
    assert run(small) == [(0, 1, 3), (1, 99, 0)]


def test_drafts_come_behind_the_last_token_and_all_or_none():
    s = scheduler(budget=4, num_drafts=3)
    (r,) = queue(s, 3)
    run(s)
    r.drafts = [7, 8, 9]
    (part,) = s.schedule()
    assert (part.ids, part.num_drafts, part.reaches_end) == ([0, 7, 8, 9], 3, True)
    s.max_step_tokens = 3
    (part,) = s.schedule()
    assert (part.ids, part.num_drafts, part.reaches_end) == ([0], 0, True)


@pytest.mark.parametrize("num_drafts", [0, 2])
def test_pages_have_room_for_the_drafts_of_the_next_step(num_drafts):
    s = scheduler(num_drafts=num_drafts)
    (r,) = queue(s, PAGE - 1)
    run(s)
    assert len(r.block_table.pages) == (1 if num_drafts == 0 else 2)


def test_a_prompt_without_room_waits_and_keeps_no_page():
    s = scheduler(num_pages=3)
    _, second = queue(s, 2 * PAGE, 2 * PAGE)
    assert run(s) == [(0, 2 * PAGE, 0)]
    assert list(s.waiting) == [second]
    assert second.block_table.pages == []
    assert run(s) == [(0, 1, 2 * PAGE)]
    assert s.has_work


def test_nobody_overtakes_a_prompt_that_waits_for_pages():
    s = scheduler(num_pages=3)
    queue(s, 2 * PAGE, 2 * PAGE, 1)
    assert run(s) == [(0, 2 * PAGE, 0)]


def test_the_youngest_gives_way_and_starts_again_at_the_head_of_the_queue():
    s = scheduler(num_pages=3)
    old, young = queue(s, PAGE - 1, PAGE)
    late = request(5, 2)
    assert run(s) == [(0, PAGE - 1, 0), (1, PAGE, 0)]
    s.add(late)
    # The young one's next token takes the last page; later the old one needs one, too.
    assert run(s) == [(0, 1, PAGE - 1), (1, 1, PAGE)]
    assert run(s) == [(0, 1, PAGE)]
    assert (old.num_computed_tokens, young.num_computed_tokens) == (PAGE + 1, 0)
    assert list(s.waiting) == [young, late]
    assert young.block_table.pages == []
    assert len(young.tokens) == PAGE + 2  # its tokens stay
    s.abort(old)
    assert run(s)[0][:2] == (1, 2)  # of its full page nothing is computed again


def test_a_request_that_runs_in_this_step_is_not_its_victim():
    """The old one is in the step when the young one finds no page: the young one itself waits."""
    s = scheduler(num_pages=2)
    old, young = queue(s, 3, PAGE)
    run(s)
    assert run(s) == [(0, 1, 3)]
    assert list(s.waiting) == [young]
    assert old in s.running


def test_abort_takes_waiting_and_running_ones_and_leaves_finished_ones_alone():
    s = scheduler(budget=10)
    running, waiting = queue(s, 10, 10)
    run(s)
    for r in (running, waiting):
        s.abort(r)
        assert (r.finish_reason, r.block_table.pages) == ("abort", [])
    assert not s.has_work
    assert s.pool.available == s.pool.num_pages
    running.finish_reason = "stop"
    s.abort(running)
    assert running.finish_reason == "stop"


def test_a_finished_request_frees_its_pages_at_the_end_of_the_step():
    s = scheduler()
    (r,) = queue(s, 10)
    step = s.schedule()
    r.num_computed_tokens, r.finish_reason = 10, "length"
    s.end_step(step)
    assert s.pool.available == s.pool.num_pages
    assert not s.has_work


def test_a_full_page_is_offered_once_the_mtp_layer_has_seen_it():
    s = scheduler(num_drafts=1)
    (r,) = queue(s, 2 * PAGE)
    step = s.schedule()
    r.num_computed_tokens, r.num_mtp_computed_tokens = 2 * PAGE, PAGE
    s.end_step(step)
    assert r.block_table.published == 1
    r.num_mtp_computed_tokens = 2 * PAGE
    s.end_step(step)
    assert r.block_table.published == 2


def test_a_request_starts_behind_the_prefix_that_is_cached():
    s = scheduler()
    queue(s, 2 * PAGE)
    run(s)
    again = request(2 * PAGE, 0)
    s.add(again)
    # At least one token is computed: the second page could only be shared whole.
    assert run(s)[1] == (0, PAGE, PAGE)
    assert again.num_cached_tokens == again.num_mtp_computed_tokens == PAGE
    scored = request(2 * PAGE, 0, prompt_logprobs=0)
    s.add(scored)
    assert run(s)[2] == (0, 2 * PAGE, 0)  # scores need every position


# ---- in the engine -----------------------------------------------------------------------------


def test_prompt_scores_need_every_position_so_nothing_is_reused():
    e, prompt = small_engine(), list(range(150))
    first = finished(e, prompt, prompt_logprobs=0)
    second = finished(e, prompt, prompt_logprobs=0)
    assert second.num_cached_tokens == 0
    assert list(first.prompt_logprobs) == list(second.prompt_logprobs)


def test_a_page_is_offered_only_once_the_mtp_layer_has_filled_it():
    e = small_engine(speculative="mtp")
    e.drafter.policy.num_drafts = lambda batch: 0  # drafting does not pay: the layer falls behind
    finished(e, [5], n=150)
    mtp_layer = e.config.num_hidden_layers
    keys, _ = e.runner.cache
    assert all(keys.values[mtp_layer, page].abs().sum() > 0 for page in e.pool.content)
    # What was reused counts as seen.
    e = small_engine(speculative="mtp")
    prompt = list(range(150))
    want = finished(e, prompt, n=30)
    again = finished(e, prompt, n=30)
    assert again.num_cached_tokens == 128
    assert again.output == want.output
    assert again.num_accepted == want.num_accepted
