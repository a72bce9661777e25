"""Rows for experts on other ranks: counted, and sent in the way that is less."""

from __future__ import annotations

from ling.plan.exchange import pays, ranks_reached
from ling.presets import preset

BF16 = 2


def test_ranks_that_a_token_reaches_are_those_of_its_groups():
    mini = preset("ling-mini-2.0")  # 8 experts, of 4 groups of 8
    assert [ranks_reached(mini, n) for n in (2, 4, 8, 16, 32)] == [2, 4, 4, 8, 8]
    assert ranks_reached(mini, 3) == 3
    assert ranks_reached(mini.replace(n_group=1, topk_group=1), 8) == 8


def test_one_copy_is_for_layouts_in_which_it_saves_bytes():
    mini, tiny = preset("ling-mini-2.0"), preset("ling-tiny")
    assert [pays(mini, n, BF16) for n in (2, 4, 8, 16)] == [True, True, True, False]
    assert not pays(tiny, 2, BF16)  # 2 experts, which 2 ranks may have
    # Sums in float32 are twice a row in bfloat16.
    assert not pays(mini.replace(num_experts_per_tok=6, topk_group=5), 8, BF16)
    assert not pays(mini, 8, 4)
