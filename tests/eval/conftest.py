from __future__ import annotations

import sys

import pytest

from ling.eval import peers
from ling.eval.peers import Peer

# Speaks the peer's protocol: a setting, then tokens per second for each request; `slow` is slower.
FAKE = """
import json, sys
if "crash" in sys.argv[1]:
    sys.exit(3)
print(json.dumps({"what": "setting", "argv": sys.argv[1:]}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    rate = 2.0 if "slow" in sys.argv[1] else 4.0
    experts = request.get("sequences", 0) + 100 * request.get("tokens", 0)
    print(json.dumps({**request, "tokens_per_s": rate, "experts": experts}), flush=True)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    script = tmp_path / "peer.py"
    script.write_text(FAKE)
    monkeypatch.setattr(peers, "SCRIPT", script)
    return lambda name: Peer(name, sys.executable, tmp_path / name, 2, "on", "on")
