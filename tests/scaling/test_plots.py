"""Pictures exist where there is something to show."""

from __future__ import annotations

import sys

import pytest
from scaling_rows import row, sweep

from ling.scaling.fit import fit
from ling.scaling.plots import draw

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _few_replicas(monkeypatch):
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 20)


def test_all_pictures_of_a_whole_sweep(tmp_path):
    rows = sweep(sigma=0.01, seeds_at=1e14, rates_at=3e13, families=("dense", "1/8"))
    found = draw(fit(rows, "largest"), tmp_path)
    assert list(found) == ["loss", "budgets", "leverage", "lr"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found.values())


def test_no_picture_of_what_was_not_measured(tmp_path):
    assert list(draw(fit([row()]), tmp_path)) == ["loss", "budgets"]


def test_none_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(fit([row()]), tmp_path) == {}
