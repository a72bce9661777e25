"""Huber's loss: a point far off does not move the rest."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ling.errors import UsageError
from ling.scaling.robust import robust_fit


def line(x, y):
    rows = np.stack([np.ones_like(x), x], axis=1)
    return robust_fit(lambda p: rows @ p - y, lambda p: rows, [(0.0, 0.0), (5.0, 5.0)])


def test_an_outlier_does_not_move_the_line():
    pytest.importorskip("scipy")
    x = np.linspace(-1, 1, 9)
    y = 1.2 - 0.1 * x
    y[4] += 0.5
    assert line(x, y) == pytest.approx([1.2, -0.1], abs=1e-3)
    assert np.polyfit(x, y, 1)[1] > 1.25  # what least squares makes of it


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError, match=r"pip install 'ling\[scaling\]'"):
        line(np.arange(3.0), np.arange(3.0))
