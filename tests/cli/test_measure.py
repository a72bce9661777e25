"""What the commands that measure print."""

from __future__ import annotations

import json

import pytest

from ling.cli import measure
from ling.eval import bench
from ling.eval.bench_report import line

REPORT = {"model": "m", "tokens_per_s": 12.5, "line": "m: 12 tokens/s"}


@pytest.mark.parametrize("as_json", [False, True])
def test_bench_prints_json_only_when_asked(monkeypatch, capsys, as_json):
    monkeypatch.setattr(bench, "train", lambda *a: dict(REPORT))
    measure.bench(["train", "ling-tiny", *["--json"] * as_json])
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == {"model": "m", "tokens_per_s": 12.5}
    else:
        assert out == "m: 12 tokens/s\n"


@pytest.mark.parametrize(("share", "explained"), [(0.8, False), (1.4, True)])
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_share_above_all_is_explained(kind, share, explained):
    report = {
        "model": "m", "kind": kind, "format": "int4", "context": 0, "batch": 1,
        "tokens_per_s": 100.0, "share_of_limit": share, "share_of_peak": share,
        "bytes_per_token": 3.2e6, "read_limit_gb_per_s": 14.0, "int8_peak_gops": 500.0,
    }  # fmt: skip
    assert ("above 100%" in line(report)) == explained
    if kind == "decode":
        assert "3.2 MB a token" in line(report)
