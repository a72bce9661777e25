from __future__ import annotations

import sys

import pytest

from ling.eval.serving.plot import draw


def side(name: str, k: float, **fields) -> dict:
    times = {f"{n}_{p}": k for n in ("ttft_ms", "itl_ms") for p in ("p50", "p99")}
    return {
        "server": name,
        "output_tokens_per_s": k,
        "server_cpu_ms_per_token": k,
        **times,
        **fields,
    }


def report(*sides: str, **fields) -> dict:
    points = [
        {"name": f"{n} streams"} | {key: side(key, float(n), **fields) for key in sides}
        for n in (1, 8, 32)
    ]
    return {
        "points": points, "servers": list(sides), "random_input_len": 300, "random_output_len": 100,
        "dataset_name": "random", "num_turns": 4, "sampling": {"temperature": 0.7},
        "date": "2026-11-28 10:00 UTC", "cores": 2, "load": "other programs took 1% of 2 cores",
    }  # fmt: skip


def test_all_servers_are_drawn_over_all_points(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    path = draw(report("ours", "theirs"), tmp_path / "p.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    throughput, first, _, _ = figures[0].axes
    assert throughput.get_ylabel() == "output tokens/s"
    assert [t.get_text() for t in throughput.get_xticklabels()] == [
        "1 streams",
        "8 streams",
        "32 streams",
    ]
    assert [line.get_label() for line in first.lines] == [
        "ours p50", "ours p99", "theirs p50", "theirs p99",
    ]  # fmt: skip
    title = figures[0].get_suptitle()
    for words in (
        "ours and theirs",
        "prompts of 300, answers of 100",
        "temperature 0.7",
        "2026-11-28",
    ):
        assert words in title
    monkeypatch.undo()
    pyplot.close("all")


def test_what_is_not_known_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "p.png"
    assert draw(report("ours", server_cpu_ms_per_token=None, ttft_ms_p99=None), path) == path


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(report("ours"), tmp_path / "p.png") is None
    assert not list(tmp_path.iterdir())
