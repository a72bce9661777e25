"""Problems in the forms of HumanEval, MBPP and LiveCodeBench."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import zlib

import pytest
from needs_sandbox import needs_sandbox

from ling.errors import DataError
from ling.eval.code.judge import Verdict, check
from ling.eval.code.problems import prompts_of, read_problems
from ling.eval.code.sandbox import Limits

LIMITS = Limits(wall_s=20.0)
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": (
        "from typing import List\n\n\ndef helper(x):\n    return x - 1\n\n\n"
        'def total(xs: List[int]) -> int:\n    """ Sum, less one. """\n'
    ),
    "entry_point": "total",
    "canonical_solution": "    return helper(sum(xs))\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == helper(3)\n",
}
BARE = {**HUMAN_EVAL, "prompt": "def helper(x): return x - 1\n\ndef total(xs):\n    # less one\n"}
MBPP = {
    "task_id": 601,
    "text": "Write a function to find the longest chain of pairs.",
    "code": (
        "class Pair(object):\r\n    def __init__(self, a, b):\r\n        self.a, self.b = a, b\r\n"
        "def chain(pairs):\r\n    return len([p for p in pairs if p.a < p.b])\r\n"
    ),
    "test_list": ["assert chain([Pair(5, 24), Pair(15, 2)]) == 1"],
    "test_setup_code": "",
}
TEXT = {"task_id": "t", "prompt": "Add.", "inputs": ["1 2\n", "3 4"], "outputs": ["3\n", "7"]}
ADD = "a, b = map(int, input().split())\nprint(a + b)\n"


def packed(cases):
    data = pickle.dumps(json.dumps(cases))
    return base64.b64encode(zlib.compress(data)).decode()


LIVE = {
    "question_id": "abc_a",
    "question_content": "Add two numbers.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "3 4\n", "output": "7\n", "testtype": "stdin"}]),
    "metadata": "{}",
}
LEET = {
    **LIVE,
    "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "1\n[2, 3]", "output": "[3, 4]"}]),
    "private_test_cases": packed([{"input": "5\n[]", "output": "[]"}]),
    "metadata": json.dumps({"func_name": "add"}),
}
SOLUTION = """```python
class Solution:
    def add(self, a, b):
        return tuple(a + x for x in b)
```"""


def problem(tmp_path, row):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (found,) = read_problems(path)
    return found


@needs_sandbox
@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        (HUMAN_EVAL, HUMAN_EVAL["canonical_solution"], "    return sum(xs)\n"),
        (HUMAN_EVAL, "```python\ndef total(xs): return sum(xs) - 1\n```", "```python\n0\n```"),
        (BARE, HUMAN_EVAL["canonical_solution"], "    return sum(xs)\n"),
        (BARE, "```python\ndef total(xs): return sum(xs) - 1\n```", "```python\n0\n```"),
        (MBPP, MBPP["code"], MBPP["code"].replace("len(", "sum(")),
        (TEXT, ADD, ADD.replace("+", "-")),
        (LIVE, f"```python\n{ADD}```", "print(3)"),
        (LEET, SOLUTION, SOLUTION.replace("a + x", "x")),
    ],
)
def test_right_answers_pass_and_wrong_ones_do_not(tmp_path, row, right, wrong):
    found = problem(tmp_path, row)
    assert check(found, right, LIMITS) == Verdict(True)
    assert not check(found, wrong, LIMITS).passed


def test_prompts_continue_or_chat(tmp_path):
    prompts = prompts_of(problem(tmp_path, HUMAN_EVAL))
    assert prompts.text == HUMAN_EVAL["prompt"]
    assert "\ndef " in prompts.stops
    assert HUMAN_EVAL["prompt"].strip() in prompts.chat
    prompts = prompts_of(problem(tmp_path, MBPP))
    assert MBPP["test_list"][0] in prompts.chat
    assert prompts.text.startswith(prompts.chat)
    assert prompts.text.endswith("```python\n")
    assert "standard input" in prompts_of(problem(tmp_path, TEXT)).chat
    assert "class Solution" in prompts_of(problem(tmp_path, LEET)).chat
    assert "[3, 4]" not in prompts_of(problem(tmp_path, LEET)).chat  # what the tests expect


def test_cases_of_livecodebench_are_unpacked_as_data(tmp_path):
    assert problem(tmp_path, LIVE).cases == (("1 2\n", "3\n"), ("3 4\n", "7\n"))

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/run",)

    data = base64.b64encode(zlib.compress(pickle.dumps(Hostile()))).decode()
    with pytest.raises(DataError, match="`private_test_cases` is no list of test cases"):
        problem(tmp_path, {**LIVE, "private_test_cases": data})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entry_point": "a; import os"}, "`entry_point`"),
        ({"entry_point": "def"}, "`entry_point`"),
        ({"prompt": None}, "`prompt` is `null`, expected a text"),
        ({"test": 3}, "`test` is `3`"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, words):
    with pytest.raises(DataError, match=words) as caught:
        problem(tmp_path, {**HUMAN_EVAL, **change})
    assert str(caught.value).startswith(f"{tmp_path / 'problems.jsonl'}:1: ")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (3, "`3`, expected a JSON object"),
        ({"question": "x"}, "not a problem: expected the keys `prompt` "),
        ({**MBPP, "test_list": "assert"}, "expected a list of texts"),
        ({**MBPP, "test_list": ["assert other(1)"]}, "uses no function that `code` defines"),
        ({**TEXT, "outputs": ["3"]}, "2 `inputs` and 1 `outputs`"),
        ({**TEXT, "inputs": [], "outputs": []}, "no test cases"),
        ({**TEXT, "inputs": [[1], [2]]}, "no name of a function"),
        ({**LIVE, "private_test_cases": "AAAA"}, "no list of test cases"),
        ({**LIVE, "private_test_cases": LIVE["private_test_cases"][:24]}, "cut short|no list"),
        ({**LIVE, "public_test_cases": "[{}]"}, "without `input` and `output`"),
        ({**LEET, "metadata": '{"func_name": "a b"}'}, "`fn_name` is"),
    ],
)
def test_what_is_no_problem_is_told(tmp_path, row, words):
    with pytest.raises(DataError, match=words):
        problem(tmp_path, row)


def test_files_as_a_whole(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="empty file"):
        read_problems(path)
    path.write_text(json.dumps(MBPP) + "\n" + json.dumps(MBPP) + "\n")
    with pytest.raises(DataError, match="`601` is there twice, first on line 1"):
        read_problems(path)
    assert len(read_problems(path, limit=1)) == 1
    packed_path = tmp_path / "problems.jsonl.gz"
    packed_path.write_bytes(gzip.compress(json.dumps(TEXT).encode()))
    assert read_problems(packed_path)[0].id == "t"
