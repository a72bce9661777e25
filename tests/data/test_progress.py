"""What a log says of long work."""

from __future__ import annotations

from ling.data.progress import Progress


def test_a_log_has_a_line_every_ten_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ling.data.progress.time.monotonic", lambda: now[0])
    said: list[str] = []
    with Progress(50_000_000, "reading", said.append) as progress:
        for _ in range(25):
            now[0] += 1
            progress.add(1_000_000)
    assert said == ["reading: 11.0 MB of about 50.0 MB", "reading: 22.0 MB of about 50.0 MB"]
