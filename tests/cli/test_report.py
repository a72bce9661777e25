"""`ling report` as a command."""

from __future__ import annotations

import json

from ling.cli.main import main


def test_the_page_goes_where_it_is_wanted(tmp_path, capsys):
    row = {"step": 1, "loss": 5.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    target = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "-o", str(target)]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    assert target.read_text("utf-8").startswith("<!doctype html>")


def test_a_folder_that_is_no_run_is_an_error_of_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path}: no metrics.jsonl; give the folder that `--out` named"
    assert main(["report"]) == 2
