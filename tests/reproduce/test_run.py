"""Claims are measured once, their pages are written, and a failing one stops no other."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from ling.cli.main import main
from ling.errors import RunError, UsageError
from ling.reproduce.claim import Claim, Figure, Result, Scale
from ling.reproduce.registry import NAMES, claim
from ling.reproduce.run import FULL, QUICK, Options, reproduce


def stand_in(name="sizes", measure=None, settings=None):
    """A claim that takes no time."""

    def once(context):
        made.append(context)
        return Result(
            [Figure("answer", "41", "42 | 43", "measured", 42)], "disagrees", "Off by one."
        )

    made = []
    scale = Scale(budget_s=1, settings=settings or {"width": 3})
    found = Claim(
        name=name,
        title="The answer",
        published="It is 41.",
        source="a paper",
        differs="Everything.",
        quick=scale,
        full=dataclasses.replace(scale, settings={"width": 300}),
        measure=measure or once,
    )
    return found, made


def test_a_page_has_all_that_makes_it_checkable(tmp_path):
    one, made = stand_in()
    assert reproduce([one], Options(out=tmp_path, work=tmp_path / "work", quick=True)) == []
    page = (tmp_path / "sizes.md").read_text()
    for text in (
        "**Claimed** (a paper): It is 41.",
        "**Here: disagrees at this scale.** Off by one.",
        "| answer | 41 | 42 \\| 43 | measured |",
        "Everything.",
        "`ling reproduce sizes --quick`",
        "width 3, seed 0",
        "| commit |",
        "| machine |",
        "| date | 20",
    ):
        assert text in page
    record = json.loads((tmp_path / "sizes.json").read_text())
    assert record["figures"][0]["value"] == 42
    assert record["cores"] >= 1
    index = (tmp_path / "README.md").read_text()
    assert "[answer: 42 \\| 43](sizes.md), disagrees at this scale" in index
    assert "not run yet: `ling reproduce kv-bytes`" in index
    assert made[0]["width"] == 3


def test_what_was_measured_with_the_same_settings_is_not_measured_again(tmp_path):
    one, made = stand_in()
    options = Options(out=tmp_path, work=tmp_path / "work", quick=True)
    lines = []
    reproduce([one], options, lines.append)
    reproduce([one], options, lines.append)
    assert len(made) == 1
    assert "measured on 20" in lines[-1]
    left = made[0].work / "run"
    left.mkdir()
    reproduce([one], dataclasses.replace(options, again=True))
    assert not left.exists()
    assert made[1].work == made[0].work
    reproduce([one], dataclasses.replace(options, seed=1))
    reproduce([one], dataclasses.replace(options, quick=False))
    assert len(made) == 4
    (tmp_path / "sizes.json").write_text("{")  # a cut-off record is made again
    reproduce([one], dataclasses.replace(options, quick=False))
    assert len(made) == 5
    assert len({context.work for context in made}) == 3  # of each scale and seed


def test_a_failing_claim_stops_no_other_but_an_interruption_does(tmp_path):
    def fails(context):
        raise RunError("no room")

    def stops(context):
        raise KeyboardInterrupt

    bad, _ = stand_in(measure=fails)
    good, made = stand_in("laws")
    options, lines = Options(out=tmp_path, work=tmp_path / "work"), []
    assert reproduce([bad, good], options, lines.append) == ["sizes"]
    assert any("failed: no room" in line for line in lines)
    assert len(made) == 1
    assert not (tmp_path / "sizes.md").exists()
    with pytest.raises(RunError, match="no room"):
        reproduce([bad], options)
    stopped, _ = stand_in(measure=stops)
    (tmp_path / "README.md").unlink()
    with pytest.raises(KeyboardInterrupt):
        reproduce([stopped, good], options)
    assert (tmp_path / "README.md").is_file()


def test_quick_results_do_not_replace_full_ones_in_the_same_folder(tmp_path):
    one, _ = stand_in()
    other, _ = stand_in("laws")
    full = Options(out=tmp_path, work=tmp_path / "work")
    quick = dataclasses.replace(full, quick=True)
    reproduce([one], full)
    before = (tmp_path / "sizes.json").read_text()
    with pytest.raises(UsageError, match="has `sizes` at full scale"):
        reproduce([one], quick)
    lines = []
    assert reproduce([one, other], quick, lines.append) == ["sizes"]
    assert (tmp_path / "sizes.json").read_text() == before
    assert (tmp_path / "laws.json").is_file()
    reproduce([other], full)
    assert not json.loads((tmp_path / "laws.json").read_text())["quick"]


def test_a_full_record_says_that_it_is_full_where_the_settings_are_the_same(tmp_path):
    one, made = stand_in()
    one = dataclasses.replace(one, full=one.quick)
    full = Options(out=tmp_path, work=tmp_path / "work")
    quick = dataclasses.replace(full, quick=True)
    for options, count, is_quick in ((quick, 1, True), (full, 2, False), (quick, 2, False)):
        reproduce([one], options)
        assert len(made) == count
        assert json.loads((tmp_path / "sizes.json").read_text())["quick"] is is_quick


def drawing(data, path):
    path.write_text(data["text"])


def no_library(data, path):
    raise ImportError("matplotlib")


def with_picture(draw):
    found, _ = stand_in(
        measure=lambda context: Result(
            [Figure("answer", "41", "42", "measured", 42)], "agrees", "Yes.", {"text": "drawn"}
        )
    )
    return dataclasses.replace(found, draw=draw)


def test_a_picture_stays_where_it_cannot_be_drawn_again(tmp_path):
    options = Options(out=tmp_path, work=tmp_path / "work")
    reproduce([with_picture(drawing)], options)
    reproduce([with_picture(no_library)], options)
    assert "](sizes.png)" in (tmp_path / "sizes.md").read_text()
    # A new record has no picture of an older one.
    reproduce([with_picture(no_library)], dataclasses.replace(options, again=True))
    assert "png" not in (tmp_path / "sizes.md").read_text()
    assert not (tmp_path / "sizes.png").exists()


def test_a_record_that_cannot_be_drawn_is_measured_again(tmp_path):
    options, lines = Options(out=tmp_path, work=tmp_path / "work"), []
    reproduce([with_picture(drawing)], options)
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": {}}))
    reproduce([with_picture(drawing)], options, lines.append)
    assert any("is damaged, measured again" in line for line in lines)
    assert json.loads(path.read_text())["data"] == {"text": "drawn"}


def test_a_picture_that_fails_stops_no_other_claim(tmp_path):
    def fails(data, path):
        raise RuntimeError("no font")

    bad, (good, made) = with_picture(fails), stand_in("laws")
    options = Options(out=tmp_path, work=tmp_path / "work")
    assert reproduce([bad, good], options, lambda line: None) == ["sizes"]
    assert len(made) == 1


def test_quick_pages_do_not_replace_full_ones():
    assert FULL != QUICK
    assert FULL not in QUICK.parents


def test_an_unknown_claim_lists_the_names(capsys):
    assert main(["reproduce", "kvbytes"]) == 2
    said = capsys.readouterr().err
    assert "did you mean `kv-bytes`?" in said
    assert all(name in said for name in NAMES)
    assert main(["reproduce"]) == 2
    assert "which claim?" in capsys.readouterr().err
    assert main(["reproduce", "sizes", "--seed", "-1"]) == 2
    assert "expected 0 or more" in capsys.readouterr().err


def test_all_quick_claims_take_far_less_than_half_an_hour():
    assert sum(claim(name).quick.budget_s for name in NAMES) <= 1300


def test_the_command_reproduces_and_lists(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert main(["reproduce", "sizes", "--quick", *out]) == 0
    assert "16,255,638,528; agrees" in capsys.readouterr().out
    assert main(["reproduce", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name}" in f"\n{said}" for name in (*NAMES, "all"))


def test_the_time_of_a_claim_is_that_of_all_its_starts(tmp_path, monkeypatch):
    clock = iter((0.0, 70.0, 100.0, 130.0, 200.0, 204.0))
    monkeypatch.setattr("ling.reproduce.run.time", SimpleNamespace(monotonic=lambda: next(clock)))
    left = [KeyboardInterrupt]
    plain, _ = stand_in()

    def measure(context):
        if left:
            raise left.pop()
        return plain.measure(context)

    one, _ = stand_in(measure=measure)
    options = Options(out=tmp_path, work=tmp_path / "work", quick=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce([one], options)
    seconds = []
    for again in (False, True):  # the interrupted one, and all of it again
        reproduce([one], dataclasses.replace(options, again=again))
        seconds.append(json.loads((tmp_path / "sizes.json").read_text())["seconds"])
    assert seconds == [100, 4]
