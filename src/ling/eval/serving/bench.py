"""`ling bench serve URL`: a sweep over a running server, in turn with another one."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...ops.cores import load_in_words
from .client import Client
from .drive import Measurement, Target, calibrate, measure, target, warm_up
from .plot import draw
from .report import fault_lines, ratios, summary, table
from .requests import LoadOptions, Point, Words
from .started import StartedServer

Log = Callable[[str], None]
SPARE_FILES = 256


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Where the servers are: `url` runs already, `against` is a command that starts another."""

    url: str
    api_key: str | None = None
    against: str | None = None
    against_url: str | None = None
    start_timeout_s: float = 600.0


def bench_serve(
    servers: Servers, options: LoadOptions, *, png: str | None = None, log: Log = print
) -> dict[str, Any]:
    """Measure every point of the sweep; returns the report that `--json` prints.

    Wrong answers are counted by name in each row's `faults`. Raises `UsageError` for what is not an
    OpenAI-compatible server, and `RunError` when a server cannot be reached, ends meanwhile, or
    answers nothing right.
    """
    _allow_connections(options)
    report = asyncio.run(_bench(servers, options, log))
    if png is not None and draw(report, Path(png)) is None:
        log("no picture: it needs matplotlib, pip install 'ling[plot]'")
    return report


def _allow_connections(options: LoadOptions) -> None:
    """Raise this process's limit of open files to one connection for each request at once."""
    most = max(c or options.num_prompts for c in options.max_concurrency) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most:
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


async def _bench(servers: Servers, options: LoadOptions, log: Log) -> dict[str, Any]:
    client = Client(servers.url, servers.api_key, options.timeout_s)
    async with contextlib.AsyncExitStack() as stack:
        ours = await target(client, options.model)
        sides = [ours]
        if servers.against is not None:
            sides.append(await stack.enter_async_context(_other(servers, options, log)))
        words = await calibrate(ours, options)
        for side in sides:
            await warm_up(side, options, words)
        points, measurements = [], list[Measurement]()
        for number, point in enumerate(options.points):
            found = await _measure_point(sides, options, point, number, words)
            measurements += [m for side in found for m in side]
            points.append(_point_report(point, _names(sides), found))
            log(f"{point.words}: {points[-1]['ours']['output_tokens_per_s']:,.1f} tokens/s")
    return _report(servers, options, sides, points, measurements)


@asynccontextmanager
async def _other(servers: Servers, options: LoadOptions, log: Log) -> AsyncIterator[Target]:
    """The server to take turns with, from its start to its end."""
    assert servers.against is not None
    server = StartedServer(servers.against, servers.against_url)
    client = Client(server.url, servers.api_key, options.timeout_s)
    try:
        log(f"starting {servers.against}")
        await server.wait_until_ready(client, servers.start_timeout_s)
        yield await target(client, None)
    finally:
        server.stop()


async def _measure_point(
    sides: Sequence[Target], options: LoadOptions, point: Point, number: int, words: Words
) -> list[list[Measurement]]:
    """Each side's measurements, in turn; who is first alternates, so that a machine that slows down
    slows both."""
    found: list[list[Measurement]] = [[] for _ in sides]
    for k in range(options.pairs):
        order = range(len(sides)) if k % 2 == 0 else reversed(range(len(sides)))
        for i in order:
            label = f"point {number}, pair {k}"
            found[i].append(await measure(sides[i], options, point, label, words))
    return found


def _point_report(
    point: Point, names: Sequence[str], found: Sequence[Sequence[Measurement]]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": point.words,
        "request_rate": point.request_rate if math.isfinite(point.request_rate) else None,
        "max_concurrency": point.max_concurrency,
    }
    for key, name, measurements in zip(("ours", "theirs"), names, found, strict=False):
        row[key] = {"server": name, **summary(measurements)}
        if not row[key]["completed"]:
            raise RunError(f"{point.words}, {name}: {_worst(measurements)}")
    if len(found) > 1:
        row["ratio"] = ratios(*found)
    return row


def _worst(measurements: Sequence[Measurement]) -> str:
    """Why no request was answered as it should be."""
    replies = [r for m in measurements for r in m.replies]
    fault, _ = Counter(r.fault for r in replies).most_common(1)[0]
    detail = next((r.detail for r in replies if r.fault == fault and r.detail), "")
    text = f"none of {len(replies)} requests was answered as asked: {fault}"
    return f"{text}: {detail}" if detail else text


def _names(sides: Sequence[Target]) -> list[str]:
    """The models' names; with the port where both have the same."""
    names = [os.path.basename(side.model) or side.model for side in sides]
    if len(set(names)) < len(names):
        return [f"{n}:{side.client.port}" for n, side in zip(names, sides, strict=True)]
    return names


def _report(
    servers: Servers,
    options: LoadOptions,
    sides: Sequence[Target],
    points: list[dict[str, Any]],
    measurements: Sequence[Measurement],
) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    taken = _mean_taken(measurements)
    load = load_in_words(taken, cores or 1)
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "model": sides[0].model,
        "url": servers.url,
        "against": servers.against,
        "servers": _names(sides),
        "date": date,
        "cores": cores,
        "cores_taken_by_others": taken,
        "load": load,
        **_described(options),
        "points": points,
        "line": "\n".join([*table(points), *fault_lines(points), f"{date}: {load}"]),
    }


def _described(options: LoadOptions) -> dict[str, Any]:
    """The options as JSON has them, which knows no infinity."""
    found = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "model"}
    rates = [r if math.isfinite(r) else "inf" for r in options.request_rate]
    return found | {"request_rate": rates, "max_concurrency": list(options.max_concurrency)}


def _mean_taken(measurements: Sequence[Measurement]) -> float | None:
    """Cores that others took, weighted by time; None where that is unknown for any."""
    known = [(m.taken, m.wall_s) for m in measurements if m.taken is not None]
    if len(known) < len(measurements):
        return None
    return sum(t * s for t, s in known) / max(sum(s for _, s in known), 1e-9)
