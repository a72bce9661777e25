"""Questions as a task: what is asked, and what counts as right."""

from __future__ import annotations

import json

import pytest
from scripted_scorer import ScriptedScorer

from ling.errors import DataError
from ling.eval.kept import Kept
from ling.eval.scorers.choose import Subject
from ling.eval.tasks.quiz import Quiz
from ling.eval.tasks.task import TaskOptions

FRUIT = {"question": "A fruit?", "choices": ["stone", "apple"], "answer": 1}
COLOUR = {"question": "A colour?", "choices": ["red", "seven"], "answer": "A"}


def run(folder, records, scorer, settings="", **options):
    (folder / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if settings:
        (folder / "q.yaml").write_text(settings)
    task = Quiz("q", folder / "q.jsonl", TaskOptions(data=(str(folder),), **options))
    return task.run(Subject("m"), Kept(lambda: scorer, {}, None))


def test_letters_are_scored_behind_the_listed_choices(tmp_path):
    scorer = ScriptedScorer(lambda text: -1.0 if text == " B" else -2.0)
    found = run(tmp_path, [FRUIT, COLOUR], scorer)
    assert (found.metrics["acc"], found.headline, found.count) == (0.5, "acc", 2)
    assert found.metrics["acc_stderr"] == pytest.approx(0.5)
    context = bytes(scorer.rows[0].context).decode()
    assert context == "Question: A fruit?\nA. stone\nB. apple\nAnswer:"


def test_choices_themselves_are_compared_by_byte(tmp_path):
    likes = {" stone": -3.0, " apple": -4.0, " red": -3.0, " seven": -3.5}
    prompt = "prompt: 'Question: {question}\\nAnswer:'\n".replace("'", '"')
    found = run(tmp_path, [FRUIT, COLOUR], ScriptedScorer(likes.get), prompt)
    assert found.headline == "acc_norm"
    assert (found.metrics["acc"], found.metrics["acc_norm"]) == (0.5, 0.0)


def test_examples_come_before_each_question(tmp_path):
    (tmp_path / "shots.jsonl").write_text(json.dumps(COLOUR) + "\n")
    scorer = ScriptedScorer()
    settings = "examples: 1\nexamples_file: shots.jsonl\n"
    run(tmp_path, [FRUIT], scorer, settings)
    context = bytes(scorer.rows[0].context).decode()
    assert context.startswith(
        "Question: A colour?\nA. red\nB. seven\nAnswer: A\n\nQuestion: A fruit?"
    )
    run(tmp_path, [FRUIT], scorer, settings, chat=True)
    assert bytes(scorer.rows[-1].context).decode() == (
        "<user>A colour?\nA. red\nB. seven\nAnswer with the letter alone.<assistant>A"
        "<user>A fruit?\nA. stone\nB. apple\nAnswer with the letter alone.<assistant>"
    )
    assert bytes(scorer.rows[-1].continuation) == b"B"
    (tmp_path / "shots.jsonl").unlink()
    with pytest.raises(DataError, match=r"shots\.jsonl"):
        run(tmp_path, [FRUIT], scorer, settings)


def test_numbers_are_read_from_what_is_generated(tmp_path):
    said = {"1+1": " 2.0", "2+2": " five", "9-2": r" so \boxed{7}"}

    def says(ask):
        return next(answer for q, answer in said.items() if q in ask.prompt)

    records = [{"question": q, "answer": a} for q, a in (("1+1", 2), ("2+2", 4), ("9-2", "7"))]
    scorer = ScriptedScorer(says=says)
    found = run(tmp_path, records, scorer)
    assert found.metrics["exact_match"] == pytest.approx(2 / 3)
    assert scorer.asks[0].stop == ("\nQuestion:",)
    assert run(tmp_path, records, scorer, limit=1).metrics["exact_match"] == 1.0


def test_several_samples_are_averaged_and_chats_are_messages(tmp_path):
    scorer = ScriptedScorer(says=lambda ask: rf"\boxed{{{ask.sample}}}")
    settings = "samples: 4\ntemperature: 0.7\n"
    found = run(tmp_path, [{"question": "x", "answer": 1}], scorer, settings, chat=True)
    assert found.metrics["exact_match"] == 0.25
    assert [a.sample for a in scorer.asks] == [0, 1, 2, 3]
    assert scorer.asks[0].prompt[0]["content"].startswith("x\n\nReason step by step")


def test_other_texts_of_a_record_may_be_asked(tmp_path):
    scorer = ScriptedScorer(says=lambda ask: "4")
    settings = "question: code\nanswer: output\nprompt: 'Run {code} on {input} {unknown}'\n"
    record = {"code": "def f(x): return x", "input": "f(4)", "output": "4"}
    assert run(tmp_path, [record], scorer, settings).metrics["exact_match"] == 1.0
    assert scorer.asks[0].prompt == "Run def f(x): return x on f(4) {unknown}"


def test_settings_change_with_what_is_asked(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(FRUIT) + "\n")
    options = TaskOptions(data=(str(tmp_path),))
    first = Quiz("q", path, options).settings()
    assert json.loads(json.dumps(first)) == first
    assert Quiz("q", path, TaskOptions(data=(str(tmp_path),), chat=True)).settings() != first
    path.write_text(json.dumps(COLOUR) + "\n")
    assert Quiz("q", path, options).settings() != first
    with pytest.raises(DataError, match="`--num-fewshot`: `examples` need an `examples_file`"):
        Quiz("q", path, TaskOptions(data=(str(tmp_path),), num_fewshot=2))


def test_bytes_of_a_choice_are_its_own_as_lm_eval_counts_them(tmp_path):
    likes = {" ab": -2.0, " abcdef": -5.5}  # with the space before them the first one would win
    record = {"question": "?", "choices": ["ab", "abcdef"], "answer": 1}
    found = run(tmp_path, [record], ScriptedScorer(likes.get), 'prompt: "{question}"\n')
    assert (found.metrics["acc"], found.metrics["acc_norm"]) == (0.0, 1.0)


def test_the_question_that_is_asked_is_none_of_its_examples(tmp_path):
    records = [{"question": f"q{i}", "answer": i} for i in range(4)]
    scorer = ScriptedScorer(says=lambda ask: "0")
    run(tmp_path, records, scorer, "examples: 2\nexamples_file: q.jsonl\n")
    shown = [ask.prompt.split("Question: ")[1:] for ask in scorer.asks]
    shots = [[text.split("\n")[0] for text in texts] for texts in shown]
    assert shots == [["q1", "q2", "q0"], ["q0", "q2", "q1"], ["q0", "q1", "q2"], ["q0", "q1", "q3"]]


@pytest.mark.parametrize(
    ("examples", "count", "message"),
    [
        ([COLOUR], 2, "1 different questions for 2 examples"),
        ([COLOUR, FRUIT, FRUIT], 2, "2 different questions for 2 examples, none of which"),
        ([{"question": "x", "answer": "y"}], 1, "not of the kind `choice`"),
    ],
)
def test_examples_that_do_not_do(tmp_path, examples, count, message):
    (tmp_path / "shots.jsonl").write_text("".join(json.dumps(r) + "\n" for r in examples))
    settings = f"examples: {count}\nexamples_file: shots.jsonl\n"
    with pytest.raises(DataError, match=message):
        run(tmp_path, [FRUIT], ScriptedScorer(), settings)


def test_a_bad_line_is_said_before_anything_runs(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(FRUIT) + '\n{"question": "x\n')
    with pytest.raises(DataError, match=r"q\.jsonl:2: not JSON"):
        Quiz("q", path, TaskOptions(data=(str(tmp_path),)))
