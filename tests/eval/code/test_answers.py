"""The program in an answer, and pass@k."""

from __future__ import annotations

from itertools import combinations

import pytest

from ling.eval.code.answers import code_of, pass_at_k

F = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (F, F),
        (f"Here it is:\n\n```python\n{F}```\nIt returns x.", F),
        (f"```\n{F}```", F),
        (f"~~~py\n{F}~~~", F),
        (f"```python\n{F}", F),  # cut at the limit of tokens
        (f"```python\n{F}```\nUse it:\n```python\nf(1)\n```", F),
        (f"```python\nf(1)\n```\n```python\n{F}```", F),
        (f"```bash\npip install x\n```\n```python\n{F}```", F),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2\n"),  # none has f: the last
        (f"<think>\n```python\ndef f(x): ...\n```\n</think>\n```python\n{F}```", F),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\n```", ""),
        ("    return x\n", "    return x\n"),
        ("", ""),
    ],
)
def test_code_is_found(answer, code):
    assert code_of(answer, "f") == code


def test_function_inside_another_is_not_the_one():
    answer = "```python\nclass A:\n    def f(x): ...\n```\n```python\ndef f(x): return 1\n```"
    assert code_of(answer, "f") == "def f(x): return 1\n"


@pytest.mark.parametrize("count", [1, 3, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(count):
    for passed in range(count + 1):
        for k in range(1, count + 1):
            draws = list(combinations(range(count), k))
            share = sum(min(draw) < passed for draw in draws) / len(draws)
            assert pass_at_k(count, passed, k) == pytest.approx(share)


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


@pytest.mark.parametrize(("count", "passed", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_impossible_counts_are_refused(count, passed, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(count, passed, k)
