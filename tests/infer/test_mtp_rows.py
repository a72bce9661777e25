"""Which rows the MTP layers read: each position with its token and the row of the layer before."""

from __future__ import annotations

import pytest
import torch
from fake_mtp import FakeMtp, hidden_of, request, scheduled

from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.mtp_rows import MAX_BACKLOG, catch_up, next_heads, postpone, waiting_rows
from ling.infer.open import runner_for
from ling.infer.pages import PAGE, Segment
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


def unread(r):
    """Rows that the last MTP layer has yet to see."""
    return sum(backlog.count for backlog in r.backlogs)


def test_a_row_gets_the_token_after_it():
    r, runner = request([1, 2, 3, 9], pages=[5]), FakeMtp()
    (head,) = catch_up(runner, [(scheduled(r, 0, 3), 3)], hidden_of(3))
    assert runner.calls == [(0, [2, 3, 9], [0, 1, 2], [Segment([5], 0, 0, 3)])]
    assert (head.position, head.hidden.tolist()) == (2, [[9, 0]])
    assert unread(r) == 0


def test_a_prompt_that_continues_is_seen_but_gives_no_head():
    """One request in the middle of its prompt, one whose second draft was not accepted."""
    prompt, decode = request([1, 2, 3, 4, 5], output=0), request([6, 7, 8, 9], output=2, pages=[1])
    middle = scheduled(prompt, 1, 2, start=0, reaches_end=False)
    end, runner = scheduled(decode, 1, 3, start=2, num_drafts=2), FakeMtp()
    heads = catch_up(runner, [(middle, 2), (end, 2)], hidden_of(5))
    segments = [Segment([0], 1, 0, 2), Segment([1], 1, 2, 4)]
    assert runner.calls == [(0, [3, 4, 8, 9], [0, 1, 2, 3], segments)]
    assert [h.request for h in heads] == [decode]


def test_rows_that_were_postponed_come_first():
    r, runner = request([1, 2, 3, 4]), FakeMtp()
    for position in range(2):
        postpone(r, torch.full((3, 2), 70.0 + position), 1, 1)
    assert waiting_rows(r) == 2
    catch_up(runner, [(scheduled(r, 2, 1), 1)], torch.full((1, 2), 72.0))
    assert runner.calls == [(0, [2, 3, 4], [70, 71, 72], [Segment([0], 0, 0, 3)])]
    assert unread(r) == 0


def test_of_many_rows_that_were_postponed_the_last_ones_are_read_at_their_positions():
    n = MAX_BACKLOG + 20
    r, runner = request(list(range(n + 2))), FakeMtp()
    for position in range(n):
        postpone(r, torch.full((1, 2), float(position)), 0, 1)
    assert waiting_rows(r) == MAX_BACKLOG
    catch_up(runner, [(scheduled(r, n, 1), 1)], torch.full((1, 2), float(n)))
    positions = list(range(20, n + 1))
    segment = Segment([0], 20, 0, len(positions))
    assert runner.calls == [(0, [t + 1 for t in positions], positions, [segment])]


def test_rows_that_belong_together_are_dropped_together():
    r = request([1, 2])
    postpone(r, torch.zeros(3, 2), 0, 3)
    postpone(r, torch.zeros(MAX_BACKLOG, 2), 1, MAX_BACKLOG - 1)
    assert waiting_rows(r) == MAX_BACKLOG + 2
    postpone(r, torch.zeros(1, 2), 0, 1)
    assert waiting_rows(r) == MAX_BACKLOG


def test_a_second_layer_continues_where_the_first_one_does():
    r, runner = request(list(range(3))), FakeMtp(layers=2)
    catch_up(runner, [(scheduled(r, 0, 2), 2)], hidden_of(2))
    assert unread(r) == 2
    for position in range(2, 40):
        r.tokens.append(position + 1)
        postpone(r, torch.full((1, 2), float(position)), 0, 1)
    r.tokens.append(41)
    heads = catch_up(runner, [(scheduled(r, 40, 1), 1)], torch.full((1, 2), 40.0))
    r.drafts = [107]
    next_heads(runner, heads, 1)
    first = 40 - MAX_BACKLOG
    calls = [call for call in runner.calls if call[0] == 1]
    assert [call[3] for call in calls] == [
        [Segment([0], first, 0, MAX_BACKLOG)],
        [Segment([0], 40, 0, 1)],
    ]
    assert [call[1] for call in calls] == [list(range(first + 2, 42)), [107]]


def test_a_single_layer_drafts_on_from_its_own_output_one_position_later():
    r, runner = request([1, 2, 3]), FakeMtp()
    heads = catch_up(runner, [(scheduled(r, 0, 2), 2)], hidden_of(2))
    r.drafts = [103]
    heads = next_heads(runner, heads, 1)
    assert runner.calls[-1] == (0, [103], [3], [Segment([0], 2, 0, 1)])
    r.drafts.append(203)
    next_heads(runner, heads, 2)
    assert runner.calls[-1] == (0, [203], [103], [Segment([0], 3, 0, 1)])


def test_a_second_layer_reads_at_the_positions_of_the_first():
    r, runner = request([1, 2, 3]), FakeMtp(layers=2)
    heads = catch_up(runner, [(scheduled(r, 0, 2), 2)], hidden_of(2))
    r.drafts = [103]
    (head,) = next_heads(runner, heads, 1)
    # Position 0 has token 2 behind it, position 1 the draft: both with rows of layer 0 there.
    assert runner.calls[-1] == (1, [3, 103], [2, 3], [Segment([0], 0, 0, 2)])
    assert head.position == 1
    assert unread(r) == 1  # position 1 is read again
    # The draft was wrong: 8 is there instead, then 9.
    r.tokens, r.drafts = [1, 2, 3, 8], []
    heads = catch_up(runner, [(scheduled(r, 2, 1), 1)], torch.full((1, 2), 50.0))
    r.drafts = [108]
    (head,) = next_heads(runner, heads, 1)
    assert runner.calls[-1] == (1, [8, 108], [3, 8], [Segment([0], 1, 0, 2)])
    r.drafts.append(208)
    next_heads(runner, [head], 2)  # behind the last layer, it goes on from its own output
    assert runner.calls[-1] == (1, [208], [108], [Segment([0], 3, 0, 1)])


@pytest.mark.parametrize("prompt_length", [1, 3, 70])
@pytest.mark.parametrize("drafts", [1, 2, 5])
def test_the_cache_of_every_layer_is_that_of_the_chosen_tokens(prompt_length, drafts):
    """Whatever was drafted and dropped, keys are those of one pass over the final tokens."""
    model = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=3), seed=0)
    runner, mode = runner_for(model), {"speculative": "mtp", "num_drafts": drafts}
    e = Engine(runner, EngineConfig(num_pages=16, **mode), adaptive=False)
    prompt = [(7 * i) % 300 for i in range(prompt_length)]
    r = e.add(prompt, SamplingParams(max_tokens=90, temperature=0.9, seed=1, ignore_eos=True))
    while r.num_output_tokens < 60:
        e.step()
    seen, layers = r.num_computed_tokens - unread(r), range(3)
    assert r.num_computed_tokens - seen <= (2 if drafts >= 3 else 40)
    keys = runner.cache[0].values
    first = e.config.num_hidden_layers
    got = [
        torch.stack([keys[first + j, p, :, o] for p, o in _slots(r.block_table.pages, seen)])
        for j in layers
    ]
    tokens, fresh = r.tokens[: seen + 3], [15, 14]
    whole = [Segment(fresh, 0, 0, seen)]
    hidden = runner.forward(tokens[:seen], whole)
    for j in layers:
        hidden = runner.mtp(j, tokens[j + 1 : seen + j + 1], hidden, whole)
        want = torch.stack([keys[first + j, p, :, o] for p, o in _slots(fresh, seen)])
        assert torch.allclose(got[j], want, atol=1e-5), j


def _slots(pages, count):
    return [(pages[i // PAGE], i % PAGE) for i in range(count)]
