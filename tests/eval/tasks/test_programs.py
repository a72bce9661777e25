"""Programming problems as a task of `ling eval`."""

from __future__ import annotations

import gzip
import json

import pytest
from needs_sandbox import needs_sandbox

from ling.errors import DataError, UsageError
from ling.eval.tasks.named import task_named
from ling.eval.tasks.programs import Programs
from ling.eval.tasks.quiz import Quiz
from ling.eval.tasks.task import TaskOptions

ROWS = [
    {
        "task_id": "one",
        "prompt": "def one():\n",
        "entry_point": "one",
        "test": "def check(f):\n    assert f() == 1\n",
    },
    {"task_id": "text", "prompt": "Print 2.", "inputs": [""], "outputs": ["2"]},
]


class Says:
    """Answers the problems by their prompts, in turn."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def generate(self, asks):
        self.asked += asks
        return [self.answers[i % len(self.answers)] for i in range(len(asks))]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def task(folder, **options):
    return task_named("mine", TaskOptions(data=(str(folder),), run_code=True, **options))


def test_no_program_is_run_unasked(folder):
    with pytest.raises(UsageError, match="`--run-code`"):
        task_named("mine", TaskOptions(data=(str(folder),)))


def test_questions_are_no_problems(folder):
    (folder / "quiz.jsonl").write_text('{"question": "1 + 1 =", "answer": "2"}\n')
    assert isinstance(task_named("quiz", TaskOptions(data=(str(folder),))), Quiz)


@needs_sandbox
def test_packed_problems_are_read_with_the_settings_beside_them(folder):
    packed = gzip.compress((folder / "mine.jsonl").read_bytes())
    (folder / "packed.jsonl.gz").write_bytes(packed)
    (folder / "packed.yaml").write_text("samples: 2\ntemperature: 0.5\n")
    scorer = Says("    return 1\n", "print(2)")
    options = TaskOptions(data=(str(folder),), run_code=True)
    outcome = task_named("packed", options).run(None, scorer)
    assert outcome.count == 2
    assert len(scorer.asked) == 4


@needs_sandbox
def test_answers_are_run(folder):
    scorer = Says("    return 1\n", "print(2)")
    found = task(folder)
    assert isinstance(found, Programs)
    outcome = found.run(None, scorer)
    assert (outcome.metrics, outcome.headline, outcome.count) == ({"pass@1": 1.0}, "pass@1", 2)
    first, second = scorer.asked
    assert first.prompt == ROWS[0]["prompt"]
    assert "\ndef " in first.stop
    assert second.prompt.endswith("```python\n")


@needs_sandbox
def test_chat_samples_and_failures(folder):
    (folder / "mine.yaml").write_text("samples: 3\ntemperature: 0.7\n")
    scorer = Says("```python\ndef one(): return 1\n```", "print(2)", "no")
    outcome = task(folder, chat=True).run(None, scorer)
    assert outcome.metrics == {"pass@1": pytest.approx(1 / 3), "pass@3": 1.0}
    assert set(outcome.details["failed"]) == {"one", "text"}
    assert [ask.sample for ask in scorer.asked] == [0, 1, 2] * 2
    assert all(ask.prompt[0]["role"] == "user" and ask.stop == () for ask in scorer.asked)


@needs_sandbox
def test_settings_change_with_data_and_options(folder):
    before = task(folder).settings()
    json.dumps(before)
    assert task(folder, chat=True).settings() != before
    (folder / "mine.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert task(folder).settings() != before


@needs_sandbox
def test_a_bad_problem_is_said_before_anything_runs(folder):
    (folder / "mine.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl:2: not a problem"):
        task(folder)


@needs_sandbox
def test_limits_of_a_program_are_those_beside_the_problems(folder):
    settings = folder / "mine.yaml"
    settings.write_text("wall_s: 20\nmemory_bytes: 2147483648\n")
    limits = task(folder).settings()["limits"]
    assert (limits["wall_s"], limits["memory_bytes"]) == (20, 2 << 30)
    settings.write_text("memory_bytes: 1024\n")
    with pytest.raises(DataError, match=r"mine.yaml.*`memory_bytes` of the sandbox is 1024"):
        task(folder)
