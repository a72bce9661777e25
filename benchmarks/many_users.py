"""What many users of one server see: waiting times, shares, leaving clients, 1,000 streams.

    python benchmarks/many_users.py [--only ROW ...] [--streams 1000] [--prompt 32000] [--threads 1]

Serves a tiny model with random weights in processes of its own and prints one JSON object for each
row. Times are wall-clock unless they are said to be CPU seconds; run it on a quiet machine.

    short      a prompt of 32 tokens behind a long one: its first token, in step budgets
    gaps       pauses between the tokens of a stream beside a long prompt: p50, p99, in milliseconds
    share      one request of a key against 100 of another: steps of the others that it waits for
    streams    1,000 open streams: lost ones, /tokenize, /health, refusals, memory of three rounds
    leaving    150 clients that leave before their first token: steps until the engine is idle
    overhead   CPU seconds of the server beside the engine alone, for the same tokens
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ling import from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.config.engine import EngineConfig
from ling.data.tokenizer import train_tokenizer
from ling.infer.driver import Driver, Submission, Update
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import SamplingParams, SchedulingParams

BUDGET_MS = 250.0
TEXTS = ["def f(x):", "import os", "for i in range(10): print(i)"]
Row = dict[str, Any]


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# ---- the engine alone ----------------------------------------------------------------------------


def small_engine(context: int, **options: Any) -> Engine:
    """A tiny model with room for `context` positions of a request and 100 more requests."""
    config = preset("ling-nano").replace(max_position_embeddings=context)
    options = {"num_pages": context // 64 + 200, "format": "int8", **options}
    engine = EngineConfig(max_model_len=context, max_step_ms=BUDGET_MS, **options)
    return Engine(runner_for(from_config(config, seed=0), engine), engine)


class Listener:
    """A sink that notes when the tokens of a request came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ended = threading.Event()

    def sink(self, updates: list[Update]) -> None:
        now = time.perf_counter()
        for update in updates:
            self.times += [now] * len(update.event.token_ids)
            if update.event.finish_reason or update.event.error:
                self.ended.set()


def submit(driver: Driver, prompt: int, answer: int, key: str = "") -> tuple[Listener, Any]:
    """Queue a greedy request of this many tokens."""
    listener, params = Listener(), SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
    ids = [(7 * i + prompt) % 500 for i in range(prompt)]
    scheduling = SchedulingParams(share_key=key)
    (handle,) = driver.submit_all([Submission(ids, params, listener.sink, scheduling=scheduling)])
    return listener, handle


def warm(driver: Driver) -> None:
    """Let the engine see decodes and prompts, so that it knows what they cost."""
    for prompt in (20, 300, 2000):
        both = [submit(driver, prompt, 30), submit(driver, prompt + 1, 30)]
        for listener, _ in both:
            listener.ended.wait()


def short(prompt: int) -> Row:
    """First tokens of short prompts that come while a long one is read, beside another stream."""
    driver = Driver(small_engine(prompt + 1000))
    warm(driver)
    waits = []
    _, long = submit(driver, prompt, 10)
    time.sleep(0.05)
    while long.request.num_output_tokens == 0:
        begin = time.perf_counter()
        listener, _ = submit(driver, 32, 1)
        listener.ended.wait()
        waits.append(1000 * (listener.times[0] - begin))
        time.sleep(0.02)
    long.abort()
    first, later = waits[0], waits[1:]
    return {
        "row": "short",
        "prompt": prompt,
        "requests": len(waits),
        "first_ms": round(first, 1),
        "p50_ms": round(statistics.median(later), 1),
        "worst_budgets": round(max(waits) / BUDGET_MS, 2),
    }


def gaps(prompt: int) -> Row:
    """Pauses between the tokens of a stream while a long prompt is read."""
    driver = Driver(small_engine(prompt + 1000))
    warm(driver)
    stream, handle = submit(driver, 30, 900)
    while len(stream.times) < 20:
        time.sleep(0.01)
    begin = time.perf_counter()
    listener, _ = submit(driver, prompt, 1)
    while not listener.ended.is_set() and not stream.ended.is_set():
        time.sleep(0.01)
    end = time.perf_counter()
    handle.abort()
    times = [t for t in stream.times if begin <= t <= end]
    pauses = [1000 * (b - a) for a, b in itertools.pairwise(times)]
    return {
        "row": "gaps",
        "prompt": prompt,
        "tokens": len(pauses),
        "p50_ms": round(statistics.median(pauses), 1),
        "p99_ms": round(percentile(pauses, 0.99), 1),
        "p99_budgets": round(percentile(pauses, 0.99) / BUDGET_MS, 2),
    }


def share() -> Row:
    """Steps in which the key with 100 requests is served while that with one waits."""
    engine, waits = small_engine(2000, max_num_seqs=16), []
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)

    def ids(length: int) -> list[int]:
        return [(11 * i + length) % 500 for i in range(length)]

    for own in (16, 100, 400):
        for i in range(100):
            engine.add(ids(200 + i), params, scheduling=SchedulingParams(share_key="many"))
        for _ in range(5):
            engine.step()
        lone = engine.add(ids(own), params, scheduling=SchedulingParams(share_key="one"))
        steps = 0
        while not lone.num_computed_tokens:
            engine.step()
            steps += 1
        waits.append(steps - 1)
        while engine.has_work:
            engine.step()
    return {"row": "share", "turns_waited": waits}


# ---- the server ----------------------------------------------------------------------------------


def made(folder: Path, shape: str) -> Path:
    """A model folder with random weights and a tokenizer."""
    folder.mkdir()
    config = preset(shape).replace(dtype="float32")
    save_model(from_config(config, seed=1), config, folder)
    train_tokenizer(TEXTS * 10, 300).save(folder)
    return folder


@contextlib.contextmanager
def served(
    threads: int,
    shape: str = "ling-tiny",
    options: Sequence[str] = (),
    log: IO[bytes] | None = None,
) -> Iterator[tuple[int, int]]:
    """A server process on a small model: its port and its process id."""
    with tempfile.TemporaryDirectory() as name:
        folder = made(Path(name) / "tiny", shape)
        with served_folder(folder, threads, options, log) as port_and_pid:
            yield port_and_pid


@contextlib.contextmanager
def served_folder(
    folder: Path, threads: int, options: Sequence[str] = (), log: IO[bytes] | None = None
) -> Iterator[tuple[int, int]]:
    """The same on a model folder, in int8."""
    command = [sys.executable, "-m", "ling", "serve", str(folder), "--port", "0"]
    command += ["--format", "int8", "--log-level", "warning", "--threads", str(threads)]
    command += options
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.rsplit(":", 1)[1].split("/")[0]), process.pid
    finally:
        process.terminate()
        process.wait()


async def send(port: int, method: str, path: str, body: Any = None, key: str = "") -> Any:
    """A connection on which a request was sent: reader and writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def ask(
    port: int, method: str, path: str, body: Any = None, key: str = ""
) -> tuple[int, bytes, float]:
    """Status, body and seconds of a request."""
    begin = time.perf_counter()
    reader, writer = await send(port, method, path, body, key)
    data = await reader.read()
    writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest, time.perf_counter() - begin


async def probe(port: int) -> None:
    """Ask for other things again and again, until this process is ended; prints milliseconds. A
    process of its own, so that the many streams of the benchmark do not delay it."""
    while True:
        text = {"prompt": "def f(x): return x"}
        for method, path, body in (("POST", "/tokenize", text), ("GET", "/health", None)):
            print(path, 1000 * (await ask(port, method, path, body))[2], flush=True)
        full = {"model": "tiny", "n": 8, "prompt": ["x"] * 100, "max_tokens": 1}
        status, _, seconds = await ask(port, "POST", "/v1/completions", full)
        if status == 429:
            print("refusal", 1000 * seconds, flush=True)
        await asyncio.sleep(0.1)


def rss_mb(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def handles(pid: int) -> tuple[int, int]:
    """Threads and open files of a process."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


async def round_of(port: int, count: int, tokens: int) -> Row:
    """Open `count` streams, and ask for other things until they have ended."""
    body = {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    begin = time.perf_counter()
    streams = [
        asyncio.create_task(ask(port, "POST", "/v1/completions", body)) for _ in range(count)
    ]
    await asyncio.sleep(2)  # the burst of connects
    others = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--probe", str(port)), stdout=asyncio.subprocess.PIPE
    )
    replies = await asyncio.gather(*streams)
    seconds = time.perf_counter() - begin
    others.terminate()
    lines = [line.split() for line in (await others.communicate())[0].decode().splitlines()]
    times = {
        name: [float(t) for n, t in lines if n == name]
        for name in ("/tokenize", "/health", "refusal")
    }
    whole = sum(status == 200 and b"data: [DONE]" in data for status, data, _ in replies)
    return {
        "lost": count - whole,
        "tokens_per_s": round(count * tokens / seconds),
        "probes": len(times["/tokenize"]),
        "tokenize_p99_ms": round(percentile(times["/tokenize"], 0.99), 1),
        "health_worst_ms": round(max(times["/health"]), 1),
        "refusals": len(times["refusal"]),
        "refusal_worst_ms": round(max(times["refusal"], default=0.0), 1),
    }


def streams(count: int, tokens: int, threads: int) -> Row:
    """Three rounds of many open streams."""
    with served(threads) as (port, pid):
        rounds, memory = [], []
        for _ in range(3):
            rounds.append(asyncio.run(round_of(port, count, tokens)))
            time.sleep(1)
            memory.append(round(rss_mb(pid), 1))
        left = handles(pid)
    return {
        "row": "streams",
        "streams": count,
        "rounds": rounds,
        "memory_mb": memory,
        "threads_and_files": left,
    }


def leaving(count: int = 150) -> Row:
    """Steps of the engine after the last of its clients has left."""
    driver = Driver(small_engine(8000))
    warm(driver)
    asked = [submit(driver, 2000 + i, 10) for i in range(count)]
    while not any(handle.request.num_computed_tokens for _, handle in asked):
        time.sleep(0.001)
    steps, step = [], driver.engine.step

    def counted() -> Any:
        steps.append(time.perf_counter())
        return step()

    driver.engine.step = counted  # type: ignore[method-assign]
    begin = time.perf_counter()
    for _, handle in asked:
        handle.abort()
    left = time.perf_counter()
    while driver.engine.has_work:
        time.sleep(0.001)
    pool = driver.engine.pool
    return {
        "row": "leaving",
        "clients": count,
        "steps": sum(t >= left for t in steps),
        "seconds": round(time.perf_counter() - begin, 3),
        "all_pages_free": pool.available == pool.num_pages,
    }


ALONE = """
import sys, time
from ling import LLM, SamplingParams
llm = LLM(sys.argv[1], format="int8")
params = SamplingParams(temperature=0, max_tokens=int(sys.argv[3]), ignore_eos=True)
llm.generate(["y"] * 4, params)
begin = time.process_time()
llm.generate(["x" * 40] * int(sys.argv[2]), params)
print(time.process_time() - begin)
"""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def overhead(threads: int, count: int = 32, tokens: int = 400) -> Row:
    """CPU seconds a token of a server with streams, and of the engine alone."""
    shape = "ling-nano-bench"
    with tempfile.TemporaryDirectory() as name:
        folder = made(Path(name) / "model", shape)
        command = [sys.executable, "-c", ALONE, str(folder), str(count), str(tokens)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        alone = float(subprocess.run(command, env=env, check=True, capture_output=True).stdout)
    body = {"model": "tiny", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}

    async def together(port: int, prompt: str) -> None:
        asked = {**body, "prompt": prompt, "stream": True}
        await asyncio.gather(*(ask(port, "POST", "/v1/completions", asked) for _ in range(count)))

    with served(threads, shape) as (port, pid):
        asyncio.run(together(port, "y"))
        begin = cpu_s(pid)
        asyncio.run(together(port, "x" * 40))
        server = cpu_s(pid) - begin
    return {
        "row": "overhead",
        "model": shape,
        "streams": count,
        "engine_ms_a_token": round(1000 * alone / count / tokens, 4),
        "server_ms_a_token": round(1000 * server / count / tokens, 4),
        "ratio": round(server / alone, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompt", type=int, default=32000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--probe", type=int, help="used by itself: the port of a server")
    args = parser.parse_args()
    if args.probe:
        asyncio.run(probe(args.probe))
    rows = {
        "share": share,
        "leaving": leaving,
        "gaps": lambda: gaps(args.prompt),
        "short": lambda: short(args.prompt),
        "overhead": lambda: overhead(args.threads),
        "streams": lambda: streams(args.streams, args.tokens, args.threads),
    }
    for name, row in rows.items():
        if not args.only or name in args.only:
            print(json.dumps(row()), flush=True)


if __name__ == "__main__":
    main()
