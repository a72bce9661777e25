"""Data sets of a hub on this machine, through huggingface_hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ling.errors import UsageError
from ling.hub.datasets import dataset_folder, is_dataset

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = "".join(json.dumps({"text": f"row {i} of words"}) + "\n" for i in range(50))
FILES = {
    "data/train.jsonl": ROWS.encode(),
    "data/other.jsonl": b'{"text": "another"}\n',
    "script.py": b"raise SystemExit('code of the hub ran')",
    "README.md": b"# words",
}


class _Hub(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        name = self.path.partition(f"/datasets/org/words/resolve/{COMMIT}/")[2]
        if self.path.startswith("/api/datasets/org/words"):
            listing = [{"rfilename": n, "size": len(d)} for n, d in FILES.items()]
            body, code = json.dumps({"id": "org/words", "sha": COMMIT, "siblings": listing}), 200
            if "/tree/" in self.path:
                files = [
                    {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                    for n, d in FILES.items()
                ]
                body = json.dumps(files)
            raw = body.encode()
        elif name in FILES:
            raw, code = FILES[name], 200
        else:
            raw, code = b"{}", 404
        self.send_response(code)
        for key, value in {
            "Content-Length": len(raw),
            "ETag": f'"{name.encode().hex()[:40]:0<40}"',
            "X-Repo-Commit": COMMIT,
            **({} if code == 200 else {"X-Error-Code": "RepoNotFound"}),
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(raw)

    do_GET = do_HEAD = _answer


@pytest.fixture
def command(tmp_path):
    """Runs `ling data prepare SOURCE` against a hub of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def run(source: str, out: str = "out") -> subprocess.CompletedProcess[str]:
        args = ["data", "prepare", source, "--out", str(tmp_path / out), "--vocab-size", "300"]
        line = [sys.executable, "-m", "ling", *args]
        return subprocess.run(line, env=env, capture_output=True, text=True)

    yield run
    server.shutdown()
    server.server_close()


def test_text_of_a_data_set_is_prepared(command, tmp_path):
    done = command("hf://datasets/org/words")
    assert done.returncode == 0, done.stderr
    note = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert note["stats"]["documents"] == 51
    names = {p.name for p in (tmp_path / "home").rglob("*")}
    assert "train.jsonl" in names
    assert not {"script.py", "README.md"} & names


def test_a_pattern_chooses_files(command, tmp_path):
    assert command("hf://datasets/org/words/data/train*").returncode == 0
    note = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert note["stats"]["documents"] == 50


def test_files_that_other_calls_left_in_the_cache_are_not_read(command, tmp_path):
    documents = []
    for name in ("data/[ot]*", "data/train*", "data/train.jsonl", "README.md"):
        out = tmp_path / f"out{len(documents)}"
        done = command(f"hf://datasets/org/words/{name}", out)
        assert done.returncode == 0, done.stderr
        documents.append(json.loads((out / "prepared.json").read_text())["stats"]["documents"])
    assert documents == [51, 50, 50, 1]
    done = command("hf://datasets/org/words/none*", tmp_path / "none")
    assert done.returncode == 2
    assert "no text files" in done.stderr


def test_a_data_set_that_is_not_there_is_named(command):
    done = command("hf://datasets/org/none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the hub has no such data set" in done.stderr


@pytest.mark.parametrize("name", ["org", "org/../x", "org/x@-f", "org/x y", ""])
def test_a_name_that_is_none_is_refused(name):
    assert is_dataset(f"hf://datasets/{name}")
    with pytest.raises(UsageError, match="expected `hf://datasets/ORG/NAME"):
        dataset_folder(f"hf://datasets/{name}")
