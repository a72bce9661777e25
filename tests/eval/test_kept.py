"""Answers that were given are not asked for again, whatever happened to their file."""

from __future__ import annotations

import pytest
from scripted_scorer import ScriptedScorer

from ling.errors import RunError
from ling.eval import kept
from ling.eval.kept import Kept
from ling.eval.scorer import Ask, Row

ROWS = [Row([1], [65 + i]) for i in range(10)]
MODEL = {"model": "m", "weights": "1"}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(kept, "BATCH", 4)


def likes(text):
    return -float(ord(text[0]))


def open_kept(path, scorer, described=MODEL):
    return Kept(lambda: scorer, described, path)


def test_a_stopped_run_asks_only_for_the_rest(tmp_path):
    path = tmp_path / "a.jsonl"
    scorer = ScriptedScorer(likes)
    scorer.fail_after = 8
    with pytest.raises(KeyboardInterrupt):
        open_kept(path, scorer).score(ROWS)
    again = ScriptedScorer(likes)
    found = open_kept(path, again).score(ROWS)
    assert again.asked == 2
    assert [one.logprob for one in found] == [-65.0 - i for i in range(10)]
    none = ScriptedScorer()
    assert open_kept(path, none).score(ROWS) == found
    assert none.asked == 0


@pytest.mark.parametrize("damage", ["half a line", "no newline", "noise"])
def test_a_truncated_file_loses_no_whole_answer(tmp_path, damage):
    path = tmp_path / "a.jsonl"
    open_kept(path, ScriptedScorer(likes)).score(ROWS)
    text = path.read_text()
    cut_off = {"half a line": text[:-9], "no newline": text[:-1], "noise": text + "\x00{]"}[damage]
    path.write_text(cut_off)
    again = ScriptedScorer(likes)
    found = open_kept(path, again).score(ROWS)
    assert [one.logprob for one in found] == [-65.0 - i for i in range(10)]
    assert again.asked == (0 if damage == "noise" else 1)
    assert open_kept(path, ScriptedScorer(lambda text: 1.0)).score(ROWS) == found


def test_answers_of_another_model_are_not_used(tmp_path):
    path = tmp_path / "a.jsonl"
    open_kept(path, ScriptedScorer(likes)).score(ROWS)
    other = ScriptedScorer(likes)
    open_kept(path, other, {"model": "m", "weights": "2"}).score(ROWS)
    assert other.asked == 10


def test_several_samples_of_one_prompt_are_several_answers(tmp_path):
    scorer = ScriptedScorer(says=lambda ask: f"answer {ask.sample}")
    asks = [Ask("q", temperature=1.0, sample=i) for i in range(3)] + [Ask([{"role": "user"}])]
    found = open_kept(tmp_path / "a.jsonl", scorer).generate(asks)
    assert found == ["answer 0", "answer 1", "answer 2", "answer 0"]
    assert open_kept(tmp_path / "a.jsonl", ScriptedScorer()).generate(asks) == found


def test_the_model_is_opened_only_when_it_is_asked(tmp_path):
    open_kept(tmp_path / "a.jsonl", ScriptedScorer(likes)).score(ROWS)

    def refuse():
        raise AssertionError("opened")

    assert len(Kept(refuse, MODEL, tmp_path / "a.jsonl").score(ROWS)) == 10


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_kept(None, ScriptedScorer(likes)).score(ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["null", "[]", '["x", true]', "[NaN, true]", "7", "{}"])
def test_lines_that_are_no_answers_are_asked_for_again(tmp_path, answer):
    path = tmp_path / "a.jsonl"
    open_kept(path, ScriptedScorer(likes)).score(ROWS)
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].partition('"answer": ')[0] + f'"answer": {answer}}}'
    path.write_text("\n".join(lines) + "\n")
    again = ScriptedScorer(likes)
    assert open_kept(path, again).score(ROWS)[-1].logprob == -74.0
    assert again.asked == 1


def test_scores_that_are_no_numbers_stop_the_run_and_are_not_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(RunError, match="gives the log-probability nan"):
        open_kept(path, ScriptedScorer(lambda text: float("nan"))).score(ROWS)
    assert not path.exists()
