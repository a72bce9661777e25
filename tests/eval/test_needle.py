"""Rows of needles, cells that are measured once, and how far a model works."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from ling.checkpoint.hf.save import save_model
from ling.cli.main import guarded
from ling.cli.needle import needle as command
from ling.errors import UsageError
from ling.eval import needle as grid
from ling.eval.needle import Cell, NeedleOptions, lines, needle, works_to
from ling.eval.needle_plot import draw
from ling.eval.needle_rows import ANSWER, FILLER, KEY, TokenNeedles, training_row
from ling.model.ling import from_config
from ling.presets import preset


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of the smallest model, trained at 64 positions as far as it says."""
    folder = tmp_path_factory.mktemp("model")
    cfg = preset("ling-tiny").replace(max_position_embeddings=64, dtype="float32")
    save_model(from_config(cfg, seed=0), cfg, folder)
    return folder


SMALL = NeedleOptions(lengths=(32, 96), depths=(0.0, 1.0), rows=2, yarn=(1.0, 2.0))


class Finder:
    """Stands in for the engine, and finds needles up to `reach` tokens."""

    asked: list[int]

    def __init__(self, reach):
        self.reach, self.asked, self.options = reach, [], []

    def __call__(self, folder, **options):
        self.options.append(options)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, prompts, params):
        self.asked += [len(p) for p in prompts]
        return [SimpleNamespace(outputs=[self._answer(p, params.max_tokens)]) for p in prompts]

    def _answer(self, prompt, n):
        at = next(i for i in range(len(prompt)) if tuple(prompt[i : i + 2]) == KEY) + len(KEY)
        found = prompt[at : at + n] if len(prompt) + n <= self.reach else [0] * n
        return SimpleNamespace(token_ids=found, text="")


@pytest.mark.parametrize("depth", [0.0, 0.25, 1.0])
def test_a_row_has_its_length_its_depth_and_one_needle(depth):
    row = TokenNeedles().row(100, depth, 3, seed=1)
    assert isinstance(row.answer, list)
    assert len(row.prompt) + len(row.answer) == 100
    at = next(i for i in range(100) if tuple(row.prompt[i : i + 2]) == KEY)
    assert at == round(depth * (100 - 2 * (len(KEY) + ANSWER)))
    assert row.prompt[at + 2 : at + 4] == row.answer
    assert tuple(row.prompt[-2:]) == KEY
    others = row.prompt[:at] + row.prompt[at + 2 : -2]
    assert set(others) <= set(FILLER)


def test_rows_are_a_function_of_their_number_and_seed():
    make = TokenNeedles().row
    assert make(64, 0.5, 3, 1) == make(64, 0.5, 3, 1)
    assert make(64, 0.5, 3, 1) != make(64, 0.5, 4, 1)
    assert make(64, 0.5, 3, 1) != make(64, 0.5, 3, 2)


def test_only_the_answer_is_learned():
    ids, labels = training_row(48, random.Random(0))
    assert len(ids) == len(labels) == 48
    assert labels[:-ANSWER] == [-100] * (48 - ANSWER)
    assert labels[-ANSWER:] == ids[-ANSWER:]


def test_half_an_answer_is_wrong():
    needles = TokenNeedles()
    row = needles.row(64, 0.5, 0, 0)
    for ids, is_right in ((row.answer, True), ([row.answer[0], 0], False), (row.answer[:1], False)):
        assert needles.is_right(row, SimpleNamespace(token_ids=ids)) is is_right


def test_shares_and_reach_are_those_of_the_answers(model, tmp_path, monkeypatch):
    finder = Finder(reach=40)
    monkeypatch.setattr(grid, "LLM", finder)
    result = needle(str(model), tmp_path, SMALL, log=str)
    plain = result["scalings"][0]
    assert plain["shares"] == [[1.0, 1.0], [0.0, 0.0]]
    assert plain["works_to"] == 32
    assert (result["trained_length"], result["rows_of_a_length"]) == (64, 4)
    assert sorted(set(finder.asked)) == [30, 94]
    assert json.loads((tmp_path / "needle.json").read_text()) == result
    assert "works to 32" in "\n".join(lines(result))


@pytest.mark.parametrize(
    "damage", [lambda text: text[:20], lambda text: text.replace('"right": 0', '"right": 99')]
)
def test_finished_cells_are_not_asked_again_and_a_damaged_one_is(
    model, tmp_path, monkeypatch, damage
):
    first, second = Finder(reach=40), Finder(reach=40)
    monkeypatch.setattr(grid, "LLM", first)
    before = needle(str(model), tmp_path, SMALL, log=str)
    damaged = tmp_path / "cells" / Cell(2.0, 96, 1.0).file
    damaged.write_text(damage(damaged.read_text()))
    monkeypatch.setattr(grid, "LLM", second)
    said = []
    assert needle(str(model), tmp_path, SMALL, log=said.append) == before
    assert second.asked == [94, 94]
    assert any("damaged, measured again" in line for line in said)


def test_an_interrupted_run_keeps_its_cells(model, tmp_path, monkeypatch):
    class Stopped(Finder):
        def generate(self, prompts, params):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().generate(prompts, params)

    monkeypatch.setattr(grid, "LLM", Stopped(reach=40))
    with pytest.raises(KeyboardInterrupt):
        needle(str(model), tmp_path, SMALL, log=str)
    rest = Finder(reach=40)
    monkeypatch.setattr(grid, "LLM", rest)
    needle(str(model), tmp_path, SMALL, log=str)
    assert len(rest.asked) == 2 * 2 * 2 * 2 - 4


def test_results_of_another_seed_are_not_mixed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "LLM", Finder(reach=40))
    needle(str(model), tmp_path, SMALL, log=str)
    other = NeedleOptions(lengths=(32,), depths=(0.0,), rows=2, yarn=(1.0,), seed=1)
    with pytest.raises(UsageError, match=r"another `seed` \(0, now 1\); use another --out"):
        needle(str(model), tmp_path, other, log=str)


def test_more_rows_are_asked_again(model, tmp_path, monkeypatch):
    finder = Finder(reach=40)
    monkeypatch.setattr(grid, "LLM", finder)
    for rows in (2, 3):
        needle(str(model), tmp_path, NeedleOptions(lengths=(32,), depths=(0.0,), rows=rows))
    assert len(finder.asked) == 5


@pytest.mark.parametrize(
    ("shares", "reach"),
    [((1, 1, 1), 4), ((0.9, 0.9, 0.89), 2), ((0.5, 1, 1), None), ((1, 0.5, 1), 1)],
)
def test_a_length_works_only_behind_those_that_do(shares, reach):
    assert works_to((1, 2, 4), shares) == reach


def test_a_real_engine_answers_beyond_the_trained_length(model, tmp_path):
    """Random weights find nothing, but every scaling takes rows of 96 tokens at 64 of training."""
    result = needle(str(model), tmp_path, SMALL, log=str)
    assert [s["name"] for s in result["scalings"]] == ["without YaRN", "YaRN 2"]
    assert all(s["works_to"] is None for s in result["scalings"])


def test_the_picture_has_a_panel_for_each_scaling(model, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setattr(grid, "LLM", Finder(reach=40))
    result = needle(str(model), tmp_path, SMALL, log=str)
    path = draw(result, tmp_path / "needle.png")
    assert path is not None
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > height > 200


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "give either a MODEL or `--train OUT`"),
        (["m", "--train", "t"], "give either a MODEL or `--train OUT`"),
        (["m"], "name the lengths, such as `--lengths 256,512,1024`"),
        (["m", "--lengths", "a"], "`--lengths` is `a`, expected numbers with commas"),
        (["m", "--lengths", "8", "--depths", "2"], "`--depths` has 2, expected 0 to 1"),
        (["m", "--lengths", "8", "--yarn", "0.5"], "`--yarn` is 0.5, expected a factor from 1"),
        (["m", "--lengths", "8", "--chat"], "`--chat` needs prose to ask about: give `--text`"),
        (["--train", "t", "--yarn", "2"], "`--train OUT` measures what it trains"),
        (["--train", "t", "--rows", "4"], "without `--rows`"),
        (["--train", "t", "--depths", "0.5"], "without `--depths`"),
        (["--train", "t", "--format", "int8"], "without `--format`"),
    ],
)
def test_wrong_options_are_one_line(args, line, capsys):
    assert guarded(lambda: command(args)) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_row_without_room_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match="at least 9 tokens, not 8"):
        needle(str(model), tmp_path, NeedleOptions(lengths=(8,), rows=1))


def test_the_command_prints_a_table_and_writes_a_picture(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, "LLM", Finder(reach=40))
    out = tmp_path / "out"
    args = ["--lengths", "32,96", "--depths", "0,1", "--rows", "2", "--yarn", "1,4"]
    assert command([str(model), *args, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "YaRN 4, 96 tokens, depth 1: 0 of 2" in said
    assert f"picture: {out}/needle.png" in said
