"""`ling scaling fit` as people run it."""

from __future__ import annotations

import json

import pytest
from scaling_rows import row, sweep, write_rows

from ling.cli.main import main

pytest.importorskip("scipy")


@pytest.fixture(autouse=True)
def _few_replicas(monkeypatch):
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 20)


def run(capsys, *args):
    code = main(["scaling", "fit", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sweep_becomes_json_page_and_pictures(capsys, tmp_path):
    results, out = tmp_path / "results.jsonl", tmp_path / "evidence"
    rows = sweep(sigma=0.01, seeds_at=1e14, families=("dense", "1/8"))
    rows.append(row(run="gone", status="diverged", loss=None))
    write_rows(results, rows)
    code, text, _ = run(capsys, results, "--out", out, "--hold-out", "largest")
    assert code == 0
    assert "left out: gone (diverged)" in text
    assert "predicted by power law" in text
    assert json.loads((out / "scaling.json").read_text())["runs"] == 20
    assert "scaling-leverage.png" in (out / "scaling.md").read_text()
    assert (out / "scaling-leverage.png").is_file()
    code, text, _ = run(capsys, results, "--out", out, "--hold-out", "largest", "--json")
    assert json.loads(text) == json.loads((out / "scaling.json").read_text())


def test_without_matplotlib_one_line_says_how_to_get_pictures(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    write_rows(tmp_path / "results.jsonl", [row()])
    code, text, err = run(capsys, tmp_path / "results.jsonl", "--out", tmp_path / "out")
    assert code == 0
    assert "no power law of `dense`: 1 of 2 budgets that a power law needs" in text
    assert err == "[no pictures: pip install 'ling[plot]']\n"
    assert "![" not in (tmp_path / "out" / "scaling.md").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.jsonl"], "none.jsonl: No such file"),
        (["cut.jsonl"], "cut.jsonl:1: the last line is cut off"),
        (["gone.jsonl"], "no run to fit: gone (diverged)"),
        (["good.jsonl", "--seed", "-1"], "`--seed` is -1"),
        (["good.jsonl", "--hold-out", "some"], "hold-out"),
    ],
)
def test_mistakes_are_one_line(args, message, capsys, tmp_path):
    (tmp_path / "cut.jsonl").write_text(row().as_json())
    write_rows(tmp_path / "gone.jsonl", [row(run="gone", status="diverged", loss=None)])
    write_rows(tmp_path / "good.jsonl", [row()])
    code, _, err = run(capsys, tmp_path / args[0], *args[1:], "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
