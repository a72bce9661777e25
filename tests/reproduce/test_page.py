"""The summary has a line for each row, and says what was computed only."""

from __future__ import annotations

import pytest
from stand_in_records import record

from ling.reproduce.claim import Figure, together
from ling.reproduce.page import index_page, outcome, summary, table
from ling.reproduce.rows import read_rows


def test_the_summary_has_all_rows_and_counts_them():
    rows, _ = read_rows()
    records = {
        "sizes": record("sizes"),
        "pipeline": record("pipeline", how="planned", outcome="open"),
    }
    lines = summary(rows, records).splitlines()
    assert len(lines) == 45
    assert "reproduced" in lines[0]
    assert "sizes: 42 (agrees)" in lines[0]
    assert "planned" in lines[19]
    assert "pipeline: 42 (cannot tell)" in lines[19]
    assert "not run yet" in lines[12]
    assert lines[-1].startswith("Of 43 claims: ")
    counted = [int(word) for word in lines[-1].replace(",", " ").split() if word.isdigit()]
    assert sum(counted[1:]) == 43


def test_a_row_shows_the_figure_that_answers_it():
    rows, sources = read_rows()
    figures = [Figure("all", "", "42", "measured"), Figure("one", "", "7", "planned", row=2)]
    page = index_page(rows, sources, {"sizes": record("sizes", figures=figures)})
    first, second = (line for line in page.splitlines() if line.startswith(("| 1 |", "| 2 |")))
    assert "[all: 42](sizes.md)" in first
    assert "| reproduced |" in first
    assert "[one: 7](sizes.md)" in second
    assert "| planned |" in second


def test_a_row_has_the_outcome_of_its_own_figure():
    rows, sources = read_rows()
    figures = [
        Figure("ratio", "2", "3", "measured", 3, 13, "agrees"),
        Figure("growth", "7", "1", "measured", 1, 14, "disagrees"),
    ]
    records = {"decode": record("decode", figures=figures, outcome="partly")}
    page = index_page(rows, sources, records)
    lines = [line for line in page.splitlines() if line.startswith(("| 13 |", "| 14 |", "| 16 |"))]
    assert [line.rstrip(" |").split(", ")[-1] for line in lines] == [
        "agrees at this scale",
        "disagrees at this scale",
        "agrees at this scale",
    ]
    said = summary(rows, records).splitlines()
    assert "decode: 1 (disagrees at this scale)" in said[13]
    assert outcome(records["decode"]) == "agrees in part at this scale"


def test_what_was_not_run_is_not_called_reproduced():
    rows, sources = read_rows()
    page = index_page(rows, sources, {"sizes": record("sizes")})
    assert "4 reproduced" in page
    assert "| not run yet | not run yet: `ling reproduce decode` |" in page


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["agrees", "agrees"], "agrees"),
        (["agrees", "disagrees"], "partly"),
        (["agrees", "open"], "partly"),
        (["partly", "disagrees"], "partly"),
        (["disagrees", "open"], "disagrees"),
        (["open", "open"], "open"),
    ],
)
def test_a_claim_agrees_where_all_of_its_parts_do(parts, whole):
    assert together(parts) == whole


def test_bars_in_cells_do_not_end_them():
    assert table(("a",), [("x | y",)]).splitlines()[2] == "| x \\| y |"
