"""The summary has a line for each row, and says what was computed only."""

from __future__ import annotations

from stand_in_records import record

from ling.reproduce.page import summary, table
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


def test_bars_in_cells_do_not_end_them():
    assert table(("a",), [("x | y",)]).splitlines()[2] == "| x \\| y |"
