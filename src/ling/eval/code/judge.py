"""Runs the answers to programming problems in the sandbox, several at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from threading import Event

from ...ops.limits import usable_cores
from ...text import one_line
from .answers import pass_at_k
from .problems import Problem
from .sandbox import Limits, Outcome, Role, require_sandbox, run_cells, run_one


@dataclass(frozen=True)
class Verdict:
    """What became of one answer."""

    passed: bool
    why: str = ""
    """Where it did not pass: what ended or failed, in one line."""


@dataclass(frozen=True)
class CodeResults:
    """Verdicts by problem, in the order of its answers."""

    verdicts: dict[str, list[Verdict]]

    def pass_at(self, k: int) -> float:
        """The mean over problems; raises `ValueError` where one has fewer than `k` answers."""
        counts = [(len(v), sum(one.passed for one in v)) for v in self.verdicts.values()]
        return sum(pass_at_k(n, passed, k) for n, passed in counts) / len(counts)


def run_code_task(
    problems: Sequence[Problem],
    answers: Mapping[str, Sequence[str]],
    limits: Limits | None = None,
    *,
    parallel: int | None = None,
    on_verdict: Callable[[str, Verdict], None] | None = None,
) -> CodeResults:
    """Run every answer, `answers[problem.id]`, in a cell of its own.

    `parallel` answers run at a time, by default one a core; `on_verdict` is called as each is
    known. Raises `UsageError` before anything is run where the kernel gives no sandbox. An
    interrupt ends the programs that run.
    """
    limits = limits or Limits()
    require_sandbox()
    stop = Event()
    work = [(problem, answer) for problem in problems for answer in answers[problem.id]]
    found: dict[str, list[Verdict]] = {problem.id: [] for problem in problems}
    with ThreadPoolExecutor(parallel or usable_cores()) as pool:
        try:
            verdicts = pool.map(lambda one: check(one[0], one[1], limits, stop), work)
            for (problem, _), verdict in zip(work, verdicts, strict=True):
                found[problem.id].append(verdict)
                if on_verdict is not None:
                    on_verdict(problem.id, verdict)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return CodeResults(found)


def check(problem: Problem, answer: str, limits: Limits, stop: Event | None = None) -> Verdict:
    """Whether one answer is right."""
    program = problem.program(answer)
    if not problem.cases:
        return _by_test(problem, program, limits, stop)
    failures = _by_cases(problem, program, limits, stop)
    return next((Verdict(False, why) for why in failures), Verdict(True))


def _by_test(problem: Problem, program: str, limits: Limits, stop: Event | None) -> Verdict:
    """The test and the answer in two cells with one connection: the answer cannot reach what
    decides, and only plain values come from it."""
    ours, theirs = socket.socketpair()
    test = {"setup": problem.setup, "test": problem.test, "names": problem.names}
    roles = [
        Role("checker", test, connection=ours),
        Role("answer", {"program": program, "serves": True}, connection=theirs),
    ]
    checker, answered = run_cells(roles, limits, stop)
    if stopped := checker.stopped or answered.stopped:
        return Verdict(False, _stopped(stopped, limits))
    try:
        result = json.loads(checker.result)
    except ValueError:
        return Verdict(False, f"the tests did not end: {_ending(checker)}")
    if result["passed"]:
        return Verdict(True)
    why = one_line(result["why"])
    if answered.code not in (0, None):
        why += f" ({_ending(answered)})"
    return Verdict(False, why)


def _by_cases(problem: Problem, program: str, limits: Limits, stop: Event | None) -> Iterator[str]:
    """What is wrong, case by case. What is to be written never comes near the program."""
    for number, (given, wanted) in enumerate(problem.cases, 1):
        role = Role("answer", {"program": program, "serves": False}, stdin=given.encode())
        outcome = run_one(role, limits, stop)
        if outcome.stopped:
            yield f"case {number}: {_stopped(outcome.stopped, limits)}"
        elif outcome.code != 0:
            yield f"case {number}: {_ending(outcome)}"
        elif not same_output(outcome.stdout.decode(errors="replace"), wanted):
            yield f"case {number}: the output is not the one that is wanted"


def same_output(got: str, wanted: str) -> bool:
    """Whether two outputs are the same line by line, spaces around lines and empty lines at the
    end aside, or have the same numbers in each line."""
    lines, wanted_lines = _lines(got), _lines(wanted)
    if len(lines) != len(wanted_lines):
        return False
    return all(a == b or _same_numbers(a, b) for a, b in zip(lines, wanted_lines, strict=True))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(got: str, wanted: str) -> bool:
    a, b = got.split(), wanted.split()
    try:
        return len(a) == len(b) and list(map(Decimal, a)) == list(map(Decimal, b))
    except InvalidOperation:
        return False


def _stopped(why: str, limits: Limits) -> str:
    texts = {
        "time": f"not done in {limits.wall_s:g} s",
        "output": f"more than {limits.output_bytes} bytes of output",
    }
    return texts.get(why, why)


def _ending(outcome: Outcome) -> str:
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    if lines:
        return one_line(lines[-1])[:300]
    code = outcome.code
    return f"ended by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
