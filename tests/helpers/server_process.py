"""A server on the stand-in model, in a process of its own."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from fake_llm import NAME, SCRIPT

HERE = Path(__file__).parent
# `/counts` is a route that only these tests add.
PROGRAM = """
import sys, time
sys.path.insert(0, {here!r})
import ling.llm
from fake_llm import FakeLLM
import ling.serve.app as app
import ling.serve.server as life
from ling.config.engine import ServeConfig

class Loaded(FakeLLM):
    def __init__(self, model, **options):
        time.sleep({load_s})
        if model == "broken":
            raise ling.errors.CheckpointError("broken: no config.json")
        super().__init__(script={script!r}, step_s={step_s})
        self.max_model_len = 100_000

import ling.errors
ling.llm.LLM = Loaded
life.DRAIN_WRITE_TIMEOUT_S = life.DEAD_S = 0.5
make = app.create_app

def with_counts(*args, **kwargs):
    made = make(*args, **kwargs)

    @made.get("/die")
    async def die():
        made.state.service.llm.failure = RuntimeError("no more steps")

    @made.get("/counts")
    async def counts():
        llm = made.state.service.llm
        return {{"steps": llm.steps, "open": llm.open_streams, "busy": made.state.service.busy}}

    return made

app.create_app = with_counts
try:
    sys.exit(app.serve({model!r}, ServeConfig(port={port}, served_model_name="fake",
                       drain_s={drain_s}, request_timeout_s={request_timeout_s},
                       metrics_port={metrics_port})))
except ling.errors.LingError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Server:
    """A running server process."""

    def __init__(self, *, env=None, wait=True, **options) -> None:
        settings = {
            "here": str(HERE),
            "model": "m",
            "script": SCRIPT,
            "step_s": 0.0,
            "load_s": 0.0,
            "drain_s": 5.0,
            "request_timeout_s": 30.0,
            "port": 0,
            "metrics_port": None,
            **options,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(**settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.port = settings["port"]
        if wait:
            self.line = self.process.stdout.readline()
            assert self.line.startswith(f"ling: serving {NAME} on http://127.0.0.1:"), self.line
            self.port = int(self.line.split(":")[-1].split("/")[0])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())

    def counts(self) -> dict:
        return self.get("/counts")[1]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code and what was printed after the ready line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@contextlib.contextmanager
def running(**options):
    server = Server(**options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()
