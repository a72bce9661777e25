"""Files of questions and their settings, right and wrong."""

from __future__ import annotations

import json

import pytest

from ling.errors import DataError
from ling.eval.tasks.questions import QuizSettings, read_questions, read_settings

DEFAULTS = QuizSettings()


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def asked(**more):
    return {"question": "Which?", **more}


@pytest.mark.parametrize("answer", [1, "1", "B", "(b)", "apple"])
def test_a_choice_is_named_by_number_letter_or_text(tmp_path, answer):
    path = write(tmp_path / "a.jsonl", asked(choices=["stone", "apple"], answer=answer))
    found = read_questions(path, DEFAULTS)
    assert (found.kind, found.questions[0].right) == ("choice", 1)


def test_numbers_and_texts_are_told_apart_and_limits_hold(tmp_path):
    path = write(tmp_path / "a.jsonl", asked(answer=3), asked(answer="1/2"), asked(answer="Paris"))
    assert read_questions(path, DEFAULTS).kind == "text"
    assert read_questions(path, DEFAULTS, limit=2).kind == "number"


def test_records_with_an_image_are_left_out_and_counted(tmp_path):
    path = write(
        tmp_path / "a.jsonl", asked(answer="x", image="data:"), asked(answer="y", image="")
    )
    found = read_questions(path, QuizSettings(skip_if="image"))
    assert ([q.answer for q in found.questions], found.left_out) == (["y"], 1)


@pytest.mark.parametrize(
    ("records", "line", "message"),
    [
        ([{"answer": 1}], 1, "no text under `question`; the keys are `answer`"),
        ([asked()], 1, "`answer` is `null`, expected a text or a number"),
        ([asked(answer="z", choices=["a", "b"])], 1, "none of the 2 choices"),
        ([asked(answer=2, choices=["a", "b"])], 1, "none of the 2 choices"),
        ([asked(answer=0, choices=["a"])], 1, "1 choices, expected 2 to 26"),
        ([asked(answer=0, choices=["a", "b"]), asked(answer=1)], 2, "no `choices`, which"),
        (
            [asked(answer=1), asked(answer=0, choices=["a", "b"])],
            2,
            "which the questions before do",
        ),
        ([5], 1, "`5`, expected an object"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, records, line, message):
    path = write(tmp_path / "a.jsonl", *records)
    with pytest.raises(DataError, match=f"a.jsonl:{line}: .*{message}"):
        read_questions(path, DEFAULTS)


def test_a_file_without_questions_is_an_error(tmp_path):
    with pytest.raises(DataError, match="empty file"):
        read_questions(write(tmp_path / "a.jsonl"), DEFAULTS)


def test_settings_lie_over_the_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    assert read_settings(path, DEFAULTS) is DEFAULTS
    path.write_text("question: problem\nstop: ['Q:']\ntemperature: 1\nsamples: 4\n")
    found = read_settings(path, DEFAULTS)
    assert (found.question, found.stop, found.samples) == ("problem", ("Q:",), 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("questoin: x", "no key `questoin` .did you mean `question`"),
        ("max_tokens: many", '`max_tokens` is `"many"`, of another kind'),
        ("kind: guess", "`kind` is `guess`, expected choice, number, text, value"),
        ("samples: 3", "several `samples` need a `temperature`"),
        ("prompt: 'Say it'", "`prompt` has no {question}"),
        ("extract: '('", "`extract` is no regular expression"),
        ("examples: 2", "`examples` need an `examples_file`"),
        ("- a", "expected keys and values"),
        ("a: [", "a.yaml: "),
        ("!!python/object/apply:os.getcwd []", "a.yaml: "),
    ],
)
def test_wrong_settings_name_the_file(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_settings(path, DEFAULTS)
    assert "a.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
