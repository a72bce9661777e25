"""The files of `deploy/` at work: two replicas behind nginx, and Prometheus, all of them real."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deploy_files import DEPLOY, nginx_conf
from fake_llm import wait_until

from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.model.ling import from_config
from ling.presets import preset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("nginx") and shutil.which("prometheus")),
        reason="nginx or prometheus is not installed",
    ),
]
KEY = "secret of all"
TEXT = "The quick brown fox jumps over the lazy dog. "


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class Stack:
    """What runs, and where."""

    folder: Path
    replicas: list[subprocess.Popen] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    metrics: list[int] = field(default_factory=list)
    nginx: int = 0
    prometheus: int = 0

    def start_replica(self, model: Path) -> None:
        """`ling serve` as the files start it."""
        port, metrics = free_port(), free_port()
        keys = self.folder / "keys"
        keys.write_text(f"{KEY}\n")
        run = "import sys; from ling.cli.main import main; sys.exit(main(sys.argv[1:]))"
        options = ["--port", port, "--metrics-port", metrics, "--api-key-file", keys]
        words = [sys.executable, "-c", run, "serve", model, "--served-model-name", "ling", *options]
        log = (self.folder / f"replica-{port}.log").open("wb")
        process = subprocess.Popen(
            [*map(str, words), "--drain-s", "5", "--log-format", "json"],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.replicas.append(process)
        self.ports.append(port)
        self.metrics.append(metrics)

    def is_ready(self, port: int) -> bool:
        with contextlib.suppress(OSError):
            return get(port, "/ready") == 200
        return False

    def post(self, body: dict, **headers: str) -> http.client.HTTPResponse:
        """A completion through nginx."""
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
        whole = {"model": "ling", "max_tokens": 4, "temperature": 0, "ignore_eos": True, **body}
        connection.request("POST", "/v1/completions", json.dumps(whole), headers)
        return connection.getresponse()

    def log(self) -> list[dict]:
        """What nginx has logged."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def upstreams_of(self, count: int) -> Counter[str]:
        return Counter(line["upstream"] for line in self.log()[-count:])


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replicas") / "model"
    folder.mkdir()
    config = preset("ling-tiny").replace(dtype="float32")
    save_model(from_config(config, seed=1), config, folder)
    train_tokenizer([TEXT] * 10, 300).save(folder)
    return folder


@pytest.fixture
def stack(tmp_path, model):
    stack = Stack(tmp_path, nginx=free_port(), prometheus=free_port())
    others: list[subprocess.Popen] = []
    try:
        for _ in range(2):
            stack.start_replica(model)
        for port in stack.metrics:
            wait_until(lambda port=port: stack.is_ready(port), 60)
        conf = nginx_conf(tmp_path, stack.ports, stack.nginx)
        main = "daemon off;" if os.getuid() else "daemon off; user root;"
        others.append(subprocess.Popen(["nginx", "-p", tmp_path, "-c", conf, "-g", main]))
        others.append(prometheus(stack))
        wait_until(lambda: stack.is_ready(stack.nginx), 20)
        yield stack
    finally:
        for process in (*others, *stack.replicas):
            process.terminate()
        for process in (*others, *stack.replicas):
            process.wait(20)


def prometheus(stack: Stack) -> subprocess.Popen:
    text = (DEPLOY / "prometheus.yml").read_text()
    for n, port in enumerate(stack.metrics, 1):
        text = text.replace(f"ling-{n}:9100", f"127.0.0.1:{port}")
    conf = stack.folder / "prometheus.yml"
    conf.write_text(text.replace("scrape_interval: 5s", "scrape_interval: 1s"))
    shutil.copy(DEPLOY / "ling-alerts.yml", stack.folder)
    return subprocess.Popen(
        [
            "prometheus",
            f"--config.file={conf}",
            f"--storage.tsdb.path={stack.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{stack.prometheus}",
            "--log.level=warn",
        ]
    )


def query(stack: Stack, expression: str) -> dict[str, float]:
    """Values by instance."""
    url = f"http://127.0.0.1:{stack.prometheus}/api/v1/query?query="
    with urllib.request.urlopen(url + urllib.request.quote(expression), timeout=10) as reply:
        found = json.load(reply)["data"]["result"]
    return {row["metric"].get("instance", ""): float(row["value"][1]) for row in found}


def test_replicas_behind_nginx_and_prometheus(stack):
    # A conversation finds its prefix again: the same name, or else the same key, one replica.
    for n, headers in enumerate(({"X-Cache-Key": "chat 1"}, {})):
        cached = []
        for _ in range(3):
            reply = json.load(stack.post({"prompt": [n, *range(100)]}, **headers))
            cached.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached[0] == 0
        assert min(cached[1:]) >= 64
        assert len(stack.upstreams_of(3)) == 1
    # Many conversations are spread over both.
    for n in range(20):
        assert stack.post({"prompt": "a"}, **{"X-Cache-Key": f"chat {n}"}).read()
    assert len(stack.upstreams_of(20)) == 2
    assert KEY not in (stack.folder / "access.log").read_text()

    # A stream passes as it is written.
    reply = stack.post({"prompt": "a", "max_tokens": 300, "stream": True})
    assert reply.getheader("content-type").startswith("text/event-stream")
    times = []
    while line := reply.readline():
        if line.startswith(b"data: {"):
            times.append(time.monotonic())
    assert len(times) > 20
    assert times[-1] - times[0] > 5 * (times[1] - times[0])

    # The id of the caller reaches the replica's log, and the key is checked there.
    assert stack.post({"prompt": "a"}, **{"X-Request-Id": "mine-1"}).getheader("x-request-id") == (
        "mine-1"
    )
    assert stack.post({"prompt": "a"}, Authorization="Bearer wrong").status == 401
    assert get(stack.nginx, "/metrics") == 404

    # Prometheus has both, and counts what they did.
    targets = [f"127.0.0.1:{port}" for port in stack.metrics]
    wait_until(lambda: query(stack, "up") == dict.fromkeys(targets, 1.0), 20)
    wait_until(lambda: sum(query(stack, "ling:generation_tokens_total").values()) >= 300, 20)
    for expression in dashboard():
        query(stack, expression)  # raises for one that Prometheus cannot read

    # One replica is killed: its conversations move, and nobody sees an error.
    stack.replicas[0].send_signal(signal.SIGKILL)
    stack.replicas[0].wait()
    for n in range(20):
        reply = stack.post({"prompt": "a"}, **{"X-Cache-Key": f"chat {n}"})
        assert (reply.status, bool(reply.read())) == (200, True)
    wait_until(lambda: query(stack, "up")[targets[0]] == 0, 20)

    # The other one drains: new requests are told to come again, and it ends in order.
    assert stack.replicas[1].poll() is None
    stack.replicas[1].terminate()
    assert stack.replicas[1].wait(20) == 0
    assert stack.post({"prompt": "a"}).status in (502, 503, 504)


def dashboard() -> list[str]:
    """Its queries, as Grafana would send them."""
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "ling.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [re.sub(r"\$instance", ".*", q.replace("$__rate_interval", "1m")) for q in queries]


def test_a_post_that_began_is_never_sent_again(stack):
    """Its replica dies in the middle: the client sees that, and no other replica generates."""
    reply = stack.post({"prompt": "a", "max_tokens": 400, "stream": True}, **{"X-Cache-Key": "x"})
    reply.read(20)
    (at,) = [n for n, port in enumerate(stack.metrics) if generated(port) > 0]
    stack.replicas[at].send_signal(signal.SIGKILL)
    with contextlib.suppress(http.client.IncompleteRead):
        assert b"[DONE]" not in reply.read()
    assert generated(stack.metrics[1 - at]) == 0
    wait_until(lambda: len(stack.log()) >= 2)
    assert "," not in stack.log()[-1]["upstream"]  # one replica alone was asked


def generated(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    return float(re.search(r"^ling:generation_tokens_total\{.*\} (\S+)", text, re.M)[1])
