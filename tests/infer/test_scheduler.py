"""Who runs in a step: decodes first, prompts in parts and turns, the youngest gives way.

The properties that hold for every load are in test_scheduler_properties.py.
"""

from __future__ import annotations

import pytest
from small_engine import finished, small_engine

from ling.config.engine import EngineConfig
from ling.infer.pages import PAGE, PagePool, Segment
from ling.infer.request import Request, SamplingParams, SchedulingParams
from ling.infer.scheduler import Scheduler
from ling.infer.speculative import Plan
from ling.infer.step_cost import StepCost
from ling.infer.turns import QUANTUM

pytestmark = pytest.mark.usefixtures("one_thread")


class FixedCost(StepCost):
    """A millisecond a token, whatever is observed."""

    def __init__(self):
        super().__init__()
        self._factors = [0.001, 0.0, 0.0, 0.0, 0.0]

    def observe(self, load, seconds):
        pass


def scheduler(num_pages=100, budget=4096, num_drafts=0, cost=None, **options):
    drafts = {"speculative": "mtp" if num_drafts else "off", "num_drafts": num_drafts}
    config = EngineConfig(**drafts, **options)
    return Scheduler(PagePool(num_pages), budget, config, cost or FixedCost())


def request(length, number=0, group=None, **params):
    """A request with its number in its tokens; all have one caller unless they are in groups."""
    fields = SchedulingParams.__dataclass_fields__
    scheduling = SchedulingParams(**{k: params.pop(k) for k in list(params) if k in fields})
    tokens = [number] * length
    r = Request(number, tokens, SamplingParams(**params), 0, 1000, scheduling=scheduling)
    r.group = 0 if group is None else group
    return r


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
    s.end_step(step, 0.001)
    return shown(step)


def test_requests_of_a_step_follow_each_other_on_one_axis():
    s = scheduler()
    queue(s, 5, 70, 1)
    step = s.schedule()
    rows = {part.request.id: (part.start, part.segment()) for part in step}
    assert rows == {
        part.request.id: (
            start,
            Segment(part.request.block_table.pages, 0, start, start + len(part.ids)),
        )
        for part, start in zip(step, (0, 1, 6), strict=True)
    }
    assert {part.request.id: len(part.request.block_table.pages) for part in step} == {
        0: 1,
        1: 2,
        2: 1,
    }


def test_a_long_prompt_goes_in_parts_and_a_short_one_passes_it():
    s = scheduler(budget=80)
    queue(s, 200)
    assert run(s) == [(0, 80, 0)]
    s.add(request(10, 1))
    assert run(s) == [(1, 10, 0), (0, 70, 80)]
    assert run(s) == [(1, 1, 10), (0, 50, 150)]
    assert run(s) == [(0, 1, 200), (1, 1, 11)]


def test_equal_prompts_go_through_in_the_order_of_arrival():
    s = scheduler(budget=100)
    queue(s, 150, 150, 150)
    ends = []
    while len(ends) < 3:
        run(s)
        ends += [r.id for r in s.running if r.is_decoding and r.id not in ends]
    assert ends == [0, 1, 2]


def test_long_prompts_take_turns():
    s = scheduler(num_pages=1000, budget=QUANTUM)
    queue(s, 4 * QUANTUM, 4 * QUANTUM)
    for _ in range(4):
        run(s)
    done = [r.num_computed_tokens for r in s.running]
    assert sum(done) == 4 * QUANTUM
    assert min(done) >= QUANTUM // 2


def test_a_flow_of_short_prompts_does_not_stop_a_long_one():
    s = scheduler(num_pages=1000, budget=40)
    (long,) = queue(s, 1000)
    for i in range(60):
        for k in range(4):
            s.add(request(30, 10 + 4 * i + k))
        run(s)
        for r in [r for r in s.running if r is not long and r.is_decoding]:
            s.abort(r)
    assert long.num_computed_tokens >= 60 * 40 / 5


def test_only_the_last_part_chooses_a_token():
    s = scheduler(budget=50)
    queue(s, 60)
    assert [part.reaches_end for part in s.schedule()] == [False]
    s.running[0].num_computed_tokens = 50
    assert [part.reaches_end for part in s.schedule()] == [True]


@pytest.mark.parametrize("decodes", [True, False])
def test_a_step_ends_in_time_while_another_caller_decodes_or_waits(decodes):
    s = scheduler(max_step_ms=100)
    s.add(request(3 if decodes else 3000, 0, group=1))
    assert run(s) == [(0, 3 if decodes else 3000, 0)]  # alone, its best part
    s.running[0].num_computed_tokens = len(s.running[0].tokens) - 1 if decodes else 1
    s.add(request(3000, 1, group=2))
    assert sum(n for _, n, _ in run(s)) in range(90, 101)


class AttentionCost(FixedCost):
    """A tenth of a microsecond a pair of a token and a position besides."""

    def __init__(self):
        super().__init__()
        self._factors[1] = 1e-7


def test_parts_of_a_lone_prompt_take_no_longer_than_its_first_one():
    s = scheduler(num_pages=2000, budget=2000, cost=AttentionCost())
    queue(s, 30_000)
    seconds = [
        AttentionCost().prompt_seconds(n, first) for step in range(15) for _, n, first in run(s)
    ]
    assert max(seconds) == seconds[0] == AttentionCost().prompt_seconds(2000, 0)
    assert min(seconds) > 0.99 * seconds[0]


def test_time_bounds_hold_behind_a_long_context():
    s = scheduler(num_pages=2000, budget=2000, max_step_ms=100, cost=AttentionCost())
    s.add(request(20_000, 0, group=1))
    run(s)
    s.running[0].num_computed_tokens = 10_000
    s.add(request(5, 1, group=2))
    run(s)
    for _ in range(5):
        (_, _, _), (_, n, first) = run(s)
        assert 0.09 < 0.001 + AttentionCost().prompt_seconds(n, first) <= 0.101


def test_one_callers_requests_do_not_wait_for_each_other():
    s = scheduler(max_step_ms=100)
    queue(s, 3)
    run(s)
    s.add(request(3000, 1))
    assert run(s) == [(0, 1, 3), (1, 3000, 0)]


def test_keys_get_equal_parts_and_what_one_does_not_need_goes_to_the_others():
    s = scheduler(num_pages=1000, budget=300)
    for number, key, length in ((0, "a", 900), (1, "a", 900), (2, "b", 900), (3, "c", 10)):
        s.add(request(length, number, share_key=key))
    got = {number: n for number, n, _ in run(s)}
    assert got == {0: 100 + 90, 2: 100, 3: 10}
    got = {number: n for number, n, _ in run(s)}  # the turn of the others is before theirs
    assert got[3] == 1
    assert got[2] >= 100


def test_a_better_priority_goes_first_and_takes_the_place_of_a_worse_one():
    s = scheduler(budget=50, max_num_seqs=1)
    s.add(request(40, 0, priority=1))
    assert run(s) == [(0, 40, 0)]
    s.add(request(30, 1, priority=1))
    s.add(request(20, 2, priority=-1))
    assert run(s) == [(2, 20, 0)]
    assert [r.id for r in s.waiting] == [0, 1]
    s.abort(s.running[0])
    assert run(s)[0][0] == 0


def test_at_most_so_many_requests_run_and_the_others_wait():
    s = scheduler(max_num_seqs=2)
    queue(s, 5, 5, 5)
    assert [number for number, *_ in run(s)] == [0, 1]
    assert [r.id for r in s.waiting] == [2]
    s.abort(s.running[0])
    assert [number for number, *_ in run(s)] == [1, 2]


def test_a_key_without_a_request_gets_the_place_of_one_with_several():
    s = scheduler(max_num_seqs=2)
    for i in range(4):
        s.add(request(5, i, share_key="many"))
    run(s)
    s.add(request(5, 9, share_key="one"))
    assert [number for number, *_ in run(s)] == [0, 9]
    for _ in range(3):  # one each is fair: nothing changes any more
        assert [number for number, *_ in run(s)] == [0, 9]


def test_a_request_behind_its_deadline_fails_wherever_it_is():
    s = scheduler(max_num_seqs=1)
    running, waiting, patient = (
        request(5, i, deadline=deadline) for i, deadline in enumerate((10.0, 10.0, 99.0))
    )
    for r in (running, waiting, patient):
        s.add(r)
    run(s)
    assert s.expire(10.0) == []
    assert set(s.expire(10.1)) == {running, waiting}
    assert (running.error.status, waiting.finish_reason) == (504, "error")
    assert s.pool.available == s.pool.num_pages
    assert [number for number, *_ in run(s)] == [2]


def test_pages_of_a_chat_turn_are_evicted_last():
    s = scheduler(num_pages=5)
    for number, turn in ((0, True), (1, False)):
        r = request(2 * PAGE, number, is_chat_turn=turn)
        s.add(r)
        run(s)
        r.finish_reason = "stop"
        s.drop(r)
    s.add(request(3 * PAGE - 1, 2))
    run(s)
    s.abort(s.running[0])
    cached = []
    for number in (0, 1):
        s.add(r := request(2 * PAGE + 1, number))
        s.schedule()
        cached.append(r.num_cached_tokens)
        s.abort(r)
    assert cached == [2 * PAGE, 0]


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


def test_a_prompt_without_room_for_all_of_it_waits_and_keeps_no_page():
    s = scheduler(num_pages=3)
    _, second = queue(s, 2 * PAGE, 2 * PAGE)
    assert run(s) == [(0, 2 * PAGE, 0)]
    assert list(s.waiting) == [second]
    assert second.block_table.pages == []
    assert run(s) == [(0, 1, 2 * PAGE)]
    assert s.has_work


def test_nobody_overtakes_a_prompt_that_waits_for_pages():
    s = scheduler(num_pages=3)
    queue(s, 2 * PAGE, 2 * PAGE)
    run(s)
    s.add(request(1, 2))
    assert run(s) == [(0, 1, 2 * PAGE)]


def test_the_youngest_gives_way_and_waits_in_its_old_position():
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
    s.end_step(step, 0.001)
    assert s.pool.available == s.pool.num_pages
    assert not s.has_work


def test_a_request_starts_behind_the_prefix_that_is_cached():
    s = scheduler()
    queue(s, 2 * PAGE)
    run(s)
    again = request(2 * PAGE, 0)
    s.add(again)
    # At least one token is computed: the second page could only be shared whole.
    assert run(s)[1] == (0, PAGE, PAGE)
    assert again.num_cached_tokens == PAGE
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


def test_pages_are_offered_whether_or_not_the_mtp_layer_has_read_them():
    e = small_engine(speculative="mtp")
    # Drafting does not pay: the layer reads nothing of the answer.
    e.drafter.policy.plan = lambda batch: Plan(1.0, [9.0] * 4, [9.0] * 4, 0, runs_mtp=False)
    first = finished(e, [5], n=150)
    assert finished(e, first.tokens).num_cached_tokens == 128
    # What was reused counts as seen.
    e = small_engine(speculative="mtp")
    prompt = list(range(150))
    want = finished(e, prompt, n=30)
    again = finished(e, prompt, n=30)
    assert again.num_cached_tokens == 128
    assert again.output == want.output
    assert again.num_accepted == want.num_accepted
