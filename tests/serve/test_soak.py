"""Ten seconds of `benchmarks/soak.py`; `docs/reference/clients.md` shows a long run of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_random_clients_leave_nothing_behind(tmp_path):
    report = tmp_path / "soak.json"
    command = [sys.executable, str(SOAK), "--minutes", "0.17", "--clients", "8"]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True)
    result = json.loads(report.read_text())
    assert all(result["verdict"].values()), {k: v for k, v in result.items() if k != "rows"}
    assert done.returncode == 0, done.stderr
    assert result["requests"] > 50
