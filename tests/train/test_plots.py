"""Pictures of a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ling.train.plots import draw, smooth

pytest.importorskip("matplotlib")


def rows(steps):
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 5 / step, "mtp_loss": float("nan") if step == 2 else 6 / step}
        if step % 5 == 0:
            row |= {"valid_loss": 5.5 / step, "valid_mtp_loss": 6.5 / step}
        if step % 10 == 0 or step == steps:
            row |= {"router_bias": {"1": 0.001 * step, "2": 0.5}}
        yield row | {"expert_load": {"1": [3, 0, 9], "2": [4, 4, 4]}}


@pytest.fixture
def seen(monkeypatch):
    """The axes of each picture by its name, once it is saved."""
    from matplotlib.figure import Figure

    found = {}
    save = Figure.savefig

    def note(self, path, **options):
        found[path.name] = self.axes
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", note)
    return found


@pytest.mark.parametrize("steps", [1, 2, 200])
def test_pictures_of_any_length_are_drawn_with_their_title(tmp_path, seen, steps):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(steps)))
    paths = draw(tmp_path, "ling-tiny on text, 2026-01-01")
    assert [p.name for p in paths] == [
        "loss.png", "expert_load.png", "expert_load_over_time.png", "router_bias.png",
    ]  # fmt: skip
    assert all(p.stat().st_size > 1000 for p in paths)
    (losses,), (load, bar) = seen["loss.png"], seen["expert_load.png"]
    (history, _), (bias,) = seen["expert_load_over_time.png"], seen["router_bias.png"]
    for axes in (losses, load, history, bias):
        assert "ling-tiny on text, 2026-01-01" in axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert bar.get_ylabel()
    assert any("MTP" in t.get_text() for t in losses.get_legend().get_texts())
    # Nothing is clipped: the busiest expert has 2.25 times the mean.
    assert load.images[0].norm.vmax == pytest.approx(2.25)
    image = history.images[0].get_array()
    assert image.shape == (6, min(steps, 100))  # experts of both layers; spans of two steps at most
    assert image[:, -1].tolist() == [0.75, 0, 2.25, 1, 1, 1]
    assert [line.get_ydata()[-1] for line in bias.lines] == [0.001 * steps, 0.5]


def test_what_fp8_loses_is_drawn_for_each_kind_and_scales_that_no_tile_has_are_0(tmp_path, seen):
    a, b = "activations/attention", "gradients/experts"
    measured = {
        "fp8_underflow": {a: 0.1, b: 0.2},
        "fp8_cosine": {a: 0.9996401},  # of a tensor of zeros there is none
        "fp8_scales": {a: {"-8": 1.0}, b: {"-30": 0.25, "-27": 0.5, "0": 0.25}},
    }
    log = [row | (measured if row["step"] % 2 == 0 else {}) for row in rows(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log))
    draw(tmp_path, "ling-tiny")
    underflow, cosine, scales = seen["fp8.png"]
    assert [list(line.get_xdata()) for line in underflow.lines] == [[2, 4], [2, 4]]
    assert [list(line.get_ydata()) for line in cosine.lines] == [[0.9996401] * 2, []]
    assert cosine.yaxis.get_major_formatter().get_offset() == ""
    shares = dict(zip(*scales.lines[1].get_data(), strict=True))
    assert {e: s for e, s in shares.items() if s} == {-30: 0.25, -27: 0.5, 0: 0.25}
    assert list(shares) == list(range(-31, 2))


def test_a_smooth_line_keeps_ends_and_straight_lines():
    line = np.arange(100.0)
    assert np.allclose(smooth(line), line)
    noisy = np.where(np.arange(1000) % 2, 1.0, 3.0)
    assert np.allclose(smooth(noisy)[50:-50], 2.0, atol=0.1)
    assert smooth(np.array([7.0])).tolist() == [7.0]
