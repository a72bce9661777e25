"""Which answers pass; each cheat is one that a checker in the same process would believe."""

from __future__ import annotations

import re
import textwrap
import threading

import pytest
from needs_sandbox import needs_sandbox

from ling.errors import UsageError
from ling.eval.code import judge
from ling.eval.code.judge import CodeResults, Verdict, check, run_code_task, same_output
from ling.eval.code.problems import Problem
from ling.eval.code.sandbox import Limits

LIMITS = Limits(wall_s=20.0)
SUM = Problem(
    id="sum",
    prompt="def plus(a, b):\n",
    names=("plus",),
    test="assert plus(1, 2) == 3\nassert plus([1], [2]) == [1, 2]\nassert plus('a', 'b') == 'ab'\n",
)
ECHO = Problem(id="echo", prompt="Write twice the number.", cases=(("2\n", "4\n"), ("5\n", "10")))
RIGHT = "def plus(a, b):\n    return a + b\n"


def verdict(answer, problem=SUM, limits=LIMITS):
    return check(problem, textwrap.dedent(answer), limits)


CHEATS = {
    "exit_at_load": "import sys; sys.exit(0)",
    "exit_in_call": "import sys\ndef plus(a, b): sys.exit(0)",
    "end_at_load": "import os; os._exit(0)",
    "end_in_call": "import os\ndef plus(a, b): os._exit(0)",
    "prints_the_mark": """
        print('{"passed": true, "why": ""}')
        def plus(a, b): return print("passed")
    """,
    "writes_the_mark_everywhere": """
        import os
        for fd in range(1, 256):
            try: os.write(fd, b'{"passed": true, "why": ""}')
            except OSError: pass
        os._exit(0)
    """,
    "equals_everything": """
        class Any:
            def __eq__(self, other): return True
            __ne__ = __lt__ = __gt__ = __bool__ = __eq__
            def __hash__(self): return 0
        def plus(a, b): return Any()
    """,
    "equals_everything_as_a_number": """
        class Any(int):
            def __eq__(self, other): return True
            __ne__ = __eq__
        def plus(a, b): return Any(7)
    """,
    "equals_everything_as_a_text": """
        class Any(str):
            def __eq__(self, other): return True
            def __str__(self): return "x"
        def plus(a, b): return Any("x")
    """,
    "equals_everything_in_a_list": """
        class Any(list):
            def __eq__(self, other): return True
        def plus(a, b): return Any([Any()])
    """,
    "patches_builtins": """
        import builtins
        class Never(Exception): pass
        builtins.AssertionError = Never
        builtins.all = builtins.any = builtins.isinstance = builtins.abs = lambda *a: True
        builtins.compile = lambda *a, **k: None
        builtins.exec = lambda *a, **k: None
        def plus(a, b): return 0
    """,
    "patches_the_module_of_its_process": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("inside"):
                for key in list(vars(module)):
                    if not key.startswith("__"):
                        setattr(module, key, lambda *a, **k: True)
        def plus(a, b): return 0
    """,
    "speaks_for_its_process": """
        import json, os, struct
        call = {"q": "call", "o": 0}
        for what in ({"v": 3}, {"passed": True}, {"v": {"mine": 0}}, call, {"x": 1}):
            data = json.dumps(what).encode()
            os.write(4, struct.pack("<I", len(data)) + data)
        def plus(a, b): return 0
    """,
    "stops_the_tests_iteration": "def plus(a, b): raise StopIteration",
    "raises_what_ends_threads": "def plus(a, b): raise SystemExit(0)",
    "raises_the_checkers_end": """
        class GoneError(BaseException): pass
        def plus(a, b): raise GoneError
    """,
    "never_answers": "import time\ndef plus(a, b): time.sleep(1000)",
    "prints_for_ever": "def plus(a, b):\n    while True: print('x' * 10000)",
    "deep_value": """
        def plus(a, b):
            value = []
            for _ in range(100_000): value = [value]
            return value
    """,
    "cyclic_value": "def plus(a, b):\n    a = []\n    a.append(a)\n    return a",
    "large_value": "def plus(a, b): return 'x' * (64 << 20)",
    "large_number": "def plus(a, b): return 1 << (1 << 28)",
    "defines_the_tests_names": "def check(f): pass\ndef plus(a, b): return 0\nassert_ = True",
    "is_no_program": "Here is your function: plus!",
    "is_empty": "",
}


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS)
def test_cheat_does_not_pass(name):
    limits = Limits(wall_s=3.0) if name == "never_answers" else LIMITS
    found = verdict(CHEATS[name], limits=limits)
    assert not found.passed
    assert found.why
    assert "\n" not in found.why


@needs_sandbox
def test_right_answer_passes_and_wrong_one_says_why():
    assert verdict(RIGHT) == Verdict(True)
    assert verdict("def plus(a, b): return a - b").why == "assert plus(1, 2) == 3"
    assert verdict("def minus(a, b): return a").why == "NameError: name 'plus' is not defined"
    assert verdict("def plus(a, b): return 1 / 0").why.startswith("ZeroDivisionError: ")
    assert verdict("def plus(a, b) return").why.startswith("SyntaxError: ")


@needs_sandbox
def test_answer_cannot_find_what_is_expected():
    """Nothing of the tests is in its process, where all objects are searched."""
    answer = """
        import gc
        def plus(a, b):
            seen, queue = set(), list(gc.get_objects())
            while queue:
                one = queue.pop()
                if id(one) in seen:
                    continue
                seen.add(id(one))
                if isinstance(one, str) and one.endswith("-expected") and len(one) > 12:
                    return one
                if not isinstance(one, str):
                    queue += gc.get_referents(one)
            return "not found"
    """
    problem = Problem(
        id="p", prompt="", names=("plus",), test="assert plus(1, 2) == 'wha' 't-expected'"
    )
    assert not verdict(answer, problem).passed
    found = Problem(id="p", prompt="", names=("plus",), test="assert plus(1, 2) == 'not found'")
    assert verdict(answer, found).passed


@needs_sandbox
def test_helpers_of_the_tests_are_not_the_answers():
    problem = Problem(
        id="p",
        prompt="",
        names=("root",),
        setup="def poly(x):\n    return x * x - 4\n",
        test="assert abs(poly(root())) < 1e-6\nassert math.isclose(root(), 2)",
    )
    cheat = """
        import math
        def poly(x): return 0
        def abs(x): return 0
        math.isclose = lambda *a: True
        def root(): return 7
    """
    assert not verdict(cheat, problem).passed
    assert verdict("def root(): return 2.0", problem).passed


@needs_sandbox
def test_values_come_over_as_they_are():
    test = """
        import decimal, fractions
        for value in (None, True, 2**70, -0.0, float("inf"), 1 + 2j, b"x", bytearray(b"y"),
                      (1, (2,)), {1, 2}, frozenset([3]), {(1, 2): [None]}, range(3), "\\ud800",
                      {"dict": 1}, decimal.Decimal("1.50"), fractions.Fraction(1, 3),
                      [[], {}, ()]):
            got = same(value)
            assert got == value and type(got) is type(value), value
        assert same(float("nan")) != 0 and str(same(-0.0)) == "-0.0"
        assert list(counted("aab").items()) == [("a", 2), ("b", 1)]
        assert list(squares(4)) == [0, 1, 4, 9] and sorted(keys()) == ["a", "b"]
        assert point(1, 2) == (1, 2)
        items = [3, 1, 2]
        assert sort(items) is None and items == [1, 2, 3]
        assert apply(lambda x: x + 1, [1, 2]) == [2, 3]
        pair = Pair(1, 2)
        assert first(pair) == 1 and pair.total() == 3 and pair.a == 1
        assert adder(2)(3) == 5
        try:
            refuse()
        except ValueError as err:
            assert "no" in str(err)
        else:
            assert False
    """
    answer = """
        import collections
        def same(x): return x
        counted = collections.Counter
        def squares(n): return (i * i for i in range(n))
        def keys(): return {"a": 1, "b": 2}.keys()
        point = collections.namedtuple("Point", "x y")
        def sort(items): items.sort()
        def apply(f, items): return [f(i) for i in items]
        class Pair:
            def __init__(self, a, b): self.a, self.b = a, b
            def total(self): return self.a + self.b
        def first(pair): return pair.a
        def adder(n): return lambda x: x + n
        class Mine(ValueError): pass
        def refuse(): raise Mine("no")
    """
    names = tuple(re.findall(r"^ {8}(?:class |def )?(\w+)(?=[(:]| =)", answer, re.MULTILINE))
    problem = Problem(id="p", prompt="", names=names, test=textwrap.dedent(test))
    assert verdict(answer, problem) == Verdict(True)


@needs_sandbox
def test_answer_cannot_reach_into_the_tests():
    """A function that tests hand over can be called, and nothing else of it is there."""
    problem = Problem(
        id="p", prompt="", names=("f",), test="assert f(lambda x: x) == 1", setup="secret = 1"
    )
    cheat = "def f(g): return g.__globals__['secret']"
    assert not verdict(cheat, problem).passed
    cheat = "def f(g): return g._remote[0].ask({'q': 'get', 'o': 0, 'n': '__globals__'})['secret']"
    assert "can only be called" in verdict(cheat, problem).why
    assert verdict("def f(g): return g(1)", problem).passed


@needs_sandbox
def test_programs_are_judged_by_what_they_write():
    assert verdict("print(int(input()) * 2)", ECHO) == Verdict(True)
    assert verdict("import sys\nprint(int(input()) * 2)\nsys.exit(0)", ECHO).passed
    assert verdict("if __name__ == '__main__':\n    print(2 * int(input()))", ECHO).passed
    assert verdict("print(4)", ECHO).why == "case 2: the output is not the one that is wanted"
    assert verdict("print(int(input()) * 2)\n1 / 0", ECHO).why.startswith(
        "case 1: ZeroDivisionError"
    )
    assert verdict("import os; os._exit(0)", ECHO).why.startswith("case 1: the output is not")
    slow = verdict("while True: pass", ECHO, Limits(wall_s=0.7))
    assert slow.why == "case 1: not done in 0.7 s"
    assert "bytes of output" in verdict("while True: print('x' * 1000)", ECHO).why


@needs_sandbox
def test_escapes_of_an_answer_do_not_reach_the_terminal():
    found = verdict("raise ValueError('\\x1b[2J\\x1b]0;title\\x07\\n\\u202ex')")
    assert found.why.isprintable()


@needs_sandbox
def test_many_answers_run_side_by_side_in_their_order():
    seen = []
    answers = {
        "sum": [RIGHT, "def plus(a, b): return 0", RIGHT],
        "echo": ["print(2 * int(input()))"],
    }
    results = run_code_task(
        [SUM, ECHO],
        answers,
        LIMITS,
        parallel=4,
        on_verdict=lambda id, v: seen.append((id, v.passed)),
    )
    assert [v.passed for v in results.verdicts["sum"]] == [True, False, True]
    assert seen == [("sum", True), ("sum", False), ("sum", True), ("echo", True)]
    assert results.pass_at(1) == pytest.approx((2 / 3 + 1) / 2)


@needs_sandbox
def test_interrupt_ends_what_runs():
    def interrupt(*_):
        raise KeyboardInterrupt

    answers = {"sum": [RIGHT, *["import time; time.sleep(1000)"] * 3]}
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_code_task([SUM], answers, Limits(wall_s=600), parallel=2, on_verdict=interrupt)
    assert threading.active_count() == before


def test_nothing_is_run_where_there_is_no_sandbox(monkeypatch):
    def refuse():
        raise UsageError("no sandbox")

    monkeypatch.setattr(judge, "require_sandbox", refuse)
    monkeypatch.setattr(judge, "run_cells", lambda *_: pytest.fail("a program was run"))
    with pytest.raises(UsageError, match="no sandbox"):
        run_code_task([SUM], {"sum": [RIGHT]})


@pytest.mark.parametrize(
    ("got", "wanted", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        (" 1 2 \r\n3\n\n", "1 2\n3", True),
        ("0.5", "0.50", True),
        ("1e1", "10", True),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("1\n2", "1 2", False),
        ("12", "1 2", False),
        ("nan", "nan", True),
        ("", "0", False),
        ("", "", True),
    ],
)
def test_outputs_are_compared_by_lines_and_numbers(got, wanted, same):
    assert same_output(got, wanted) is same


def test_mean_is_over_problems():
    good, bad = Verdict(True), Verdict(False, "x")
    results = CodeResults({"a": [good, good], "b": [bad, bad], "c": [good, bad]})
    assert results.pass_at(1) == pytest.approx(0.5)
    assert results.pass_at(2) == pytest.approx(2 / 3)
