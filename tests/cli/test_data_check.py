"""`ling data check` as its users call it."""

from __future__ import annotations

import json

import pytest

from ling.cli.main import main
from ling.data.tokenizer import train_tokenizer

TALK = {
    "messages": [
        {"role": "user", "content": "hi \033[31m <|role_end|>"},
        {"role": "assistant", "content": "hello"},
    ]
}
PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}
HEAD = "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>"


@pytest.fixture
def write(tmp_path):
    def to_file(*lines, name="a.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
        return str(path)

    return to_file


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["some text"] * 5, 300).save(folder)
    return folder


def check(capsys, *args, code=0):
    assert main(["data", "check", *map(str, args)]) == code
    return capsys.readouterr()


def objects(out):
    *samples, summary = map(json.loads, out.splitlines())
    return samples, summary["summary"]


def test_json_has_a_sample_a_line_and_the_summary_last(capsys, write, tokenizer_folder):
    file = write(TALK, "", TALK)
    found = check(capsys, file, "--json", "--tokenizer", tokenizer_folder)
    (first, second), summary = objects(found.out)
    assert found.err == ""
    assert [first["line"], second["line"]] == [1, 3]  # blank lines count
    assert set(first) == {"line", "text", "trained", "ids", "labels", "notes"}
    ((start, end),) = first["trained"]
    assert first["text"][start:end] == "hello<|role_end|>"
    learned = [i for i in first["labels"] if i != -100]
    assert first["ids"][-len(learned) :] == learned
    assert (summary["records"], summary["duplicates"]) == (2, 1)
    assert summary["roles"] == {"user": 2, "assistant": 2}
    assert summary["trained_tokens"] == 2 * len(learned)


def test_pairs_and_bad_records(capsys, write):
    file = write(PAIR, "{", PAIR)
    assert "a.jsonl:2:" in check(capsys, file, "--json", code=2).err
    (first, bad, _), summary = objects(check(capsys, file, "--json", "--skip-bad").out)
    assert set(first) == {"line", "chosen", "rejected"}
    texts = [
        [s["text"][a:b] for a, b in s["trained"]] for s in (first["chosen"], first["rejected"])
    ]
    assert texts == [["good<|role_end|>"], ["bad<|role_end|>"]]
    assert bad.keys() == {"line", "error"}
    assert bad["line"] == 2
    assert sum(found["count"] for found in summary["bad"].values()) == 1


def test_without_a_tokenizer_there_are_texts_and_no_ids(capsys, write):
    found = check(capsys, write(TALK), "--json")
    ((sample,), summary) = objects(found.out)
    assert "no ids" in found.err
    assert sample["text"].startswith(HEAD)
    assert (sample["ids"], sample["labels"], summary["tokens"]) == (None, None, None)
    assert 0 < summary["trained_share"] < 1


def test_several_files_are_named(capsys, write):
    files = write(TALK), write(PAIR, name="b.jsonl")
    samples, _ = objects(check(capsys, *files, "--json").out)
    assert [s["file"] for s in samples] == list(files)


def test_ids_that_are_given_are_shown_as_text(capsys, write, tokenizer_folder):
    file = write({"input_ids": [ord("a") - 33, ord("b") - 33], "labels": [-100, ord("b") - 33]})
    ((sample,), _) = objects(check(capsys, file, "--json", "--tokenizer", tokenizer_folder).out)
    assert (sample["text"], sample["trained"]) == ("ab", [[1, 2]])
    ((sample,), _) = objects(check(capsys, file, "--json").out)
    assert (sample["text"], sample["trained"]) == ("", [])
    assert sample["notes"] == ["its text is not known without a tokenizer"]


def test_text_marks_what_is_trained_and_has_no_character_that_acts(capsys, write):
    found = check(capsys, write(*[TALK] * 7), "--show", 2)
    assert "[[hello<|role_end|>]]" in found.out
    assert "\033" not in found.out
    assert found.out.count("<role>ASSISTANT</role>") == 2
    assert "[5 more samples are not shown]" in found.out
    assert "7 records, 7 samples" in found.out


def test_on_a_terminal_what_is_trained_is_green(capsys, write, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = check(capsys, write(TALK)).out
    assert "\033[32mhello<|role_end|>\033[0m" in out
    assert "\033[31m" not in out


def test_over_long_samples_and_turns_that_are_context_are_noted(capsys, write, tokenizer_folder):
    turns = [{**m, "reasoning_content": "r"} for m in TALK["messages"]] * 2
    file = write({"messages": turns})
    options = (file, "--json", "--seq-length", 20, "--tokenizer", tokenizer_folder)
    ((sample,), summary) = objects(check(capsys, *options).out)
    assert "messages[1] is context only" in sample["notes"][0]
    assert sample["notes"][1].startswith("over-long: ")
    assert [len(summary[k]) for k in ("over_long", "context_only")] == [1, 1]
    samples, _ = objects(check(capsys, *options, "--split-turns").out)
    assert [s["line"] for s in samples] == [1, 1]


def test_other_templates(capsys, write, tmp_path):
    file = write(TALK)
    ((sample,), _) = objects(check(capsys, file, "--json", "--template", "megatron").out)
    assert sample["text"].startswith("<role>SYSTEM</role>\ndetailed thinking off<|role_end|>")
    assert sample["text"].endswith("hello<|role_end|><|endoftext|>")
    source = tmp_path / "t.jinja"
    source.write_text("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}")
    ((sample,), _) = objects(check(capsys, file, "--json", "--template", source).out)
    ((start, end),) = sample["trained"]  # without a generation prompt the name is said, too
    assert sample["text"][start:end] == "assistant:hello;"
    missing = check(capsys, file, "--template", tmp_path / "none", code=2).err
    assert "No such file" in missing
    assert "`megatron`" in missing
