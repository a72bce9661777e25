from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from ling.train import plots

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws the rows; gives the paths and the axes of each picture."""

    def draw(rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "metrics.jsonl").write_text(text)
        axes, save = {}, plots._save

        def kept(figure, path):
            axes[path.name] = figure.axes[0]
            return save(figure, path)

        monkeypatch.setattr(plots, "_save", kept)
        return plots.draw(tmp_path, "a run"), axes

    return draw


def rows(count, **more):
    return [{"step": n, "loss": 1 / n, "mtp_loss": 2 / n, **more} for n in range(1, count + 1)]


def test_losses_are_drawn_over_their_steps(drawn, tmp_path):
    log = rows(4)
    log[1]["mtp_loss"] = None
    log[3]["valid_loss"] = 0.75
    paths, axes = drawn(log)
    assert paths == [tmp_path / "loss.png"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    lines = [(list(x), list(y)) for x, y in (line.get_data() for line in axes["loss.png"].lines)]
    assert lines == [
        ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4]),
        ([1, 3, 4], [2, 2 / 3, 2 / 4]),
        ([4], [0.75]),
    ]
    assert axes["loss.png"].get_title() == "a run: loss"
    assert [t.get_text() for t in axes["loss.png"].get_legend().get_texts()] == [
        "next token",
        "MTP (token after next)",
        "held out",
    ]


def test_expert_load_is_that_of_the_last_tenth_over_its_mean(drawn, tmp_path):
    log = rows(20, expert_load={"1": [9, 0, 0], "2": [0, 0, 9]})
    log[18]["expert_load"] = {"1": [1, 2, 3], "2": [5, 5, 5]}
    log[19]["expert_load"] = {"1": [3, 2, 7], "2": [0, 5, 5]}
    paths, axes = drawn(log)
    assert paths == [tmp_path / "loss.png", tmp_path / "expert_load.png"]
    (image,) = axes["expert_load.png"].images
    want = np.array([[4, 4, 10], [5, 10, 10]])
    np.testing.assert_allclose(image.get_array(), want / want.mean(1, keepdims=True), rtol=1e-6)
    labels = [t.get_text() for t in axes["expert_load.png"].get_yticklabels()]
    assert labels == ["layer 1", "layer 2"]


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots.draw(tmp_path, "a run") == []
    assert not list(tmp_path.iterdir())
