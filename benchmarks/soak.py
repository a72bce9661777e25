"""Random clients for some minutes: does the server come back to where it was?

    python benchmarks/soak.py [--minutes 10] [--clients 16] [--seed 0] [--json F] [--picture F]

Serves a tiny model with random weights in a process of its own, with one thread and two keys. The
clients (`soak_clients.py`) ask for everything that the server has, whole and streamed; some send
nonsense, some have a wrong key, and a third leave at a random moment. Every second is written down.
When nobody asks any more, all pages must be free and nothing running, threads and open files must
be as after the first seconds, the memory of the last quarter that of the second, and the server's
log without a complaint. Prints one JSON object, and exits with 1 where something is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from many_users import ask, handles, percentile, rss_mb, served
from soak_clients import KEYS, Client

WARM_UP_S = 5.0
"""Until then the server has loaded what it loads at first use, and started its threads."""
SETTLE_S = 30.0
GROWTH = 0.03
"""Share by which the memory of the last quarter may be above that of the second."""
COMPLAINT = re.compile(r"asyncio|Traceback|ERROR|was never")
HEAD = re.compile(r"^\S+ (\S+ \S+) \S+")
"""Time, level, logger and request of a line."""
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
Row = dict[str, Any]


async def gauges(port: int) -> Row:
    """What `/metrics` says of requests and pages."""
    _, body, seconds = await ask(port, "GET", "/metrics", key=KEYS[0])
    text = body.decode()
    found = {name: re.search(rf"^ling:{name}(?:{{.*}})? (\S+)", text, re.M) for name in GAUGES}
    return {"metrics_s": seconds, **{n: float(m[1]) for n, m in found.items() if m}}


async def look(port: int, pid: int, begin: float) -> Row:
    """The state of the server now."""
    _, _, health_s = await ask(port, "GET", "/health")
    threads, files = handles(pid)
    state = {"threads": threads, "files": files, "memory_mb": round(rss_mb(pid), 2)}
    return {"at_s": round(time.monotonic() - begin, 2), "health_s": health_s, **state} | (
        await gauges(port)
    )


def complaints(log: str) -> dict[str, int]:
    """How often the log has each message that no client should bring about."""
    lines = (line for line in log.splitlines() if COMPLAINT.search(line))
    return dict(Counter(HEAD.sub(r"\1", line)[:200] for line in lines).most_common(10))


def is_idle(row: Row) -> bool:
    """Nothing runs or waits, and all pages are free."""
    return not any(row[name] for name in GAUGES)


async def settled(port: int, pid: int, begin: float) -> Row:
    """The state when nobody asks any more, once it is idle, or after a while."""
    end = time.monotonic() + SETTLE_S
    while True:
        row = await look(port, pid, begin)
        if is_idle(row) or time.monotonic() > end:
            return row
        await asyncio.sleep(0.2)


async def soak(port: int, pid: int, seconds: float, num_clients: int, seed: int) -> Row:
    """Let clients ask for so long, in two parts: what the first one left is compared with what is
    left after the second."""
    begin = time.monotonic()
    clients = [Client(port, random.Random(f"{seed}-{i}")) for i in range(num_clients)]
    await asyncio.gather(*(c.run_until(begin + WARM_UP_S) for c in clients))
    first = await settled(port, pid, begin)
    work = [asyncio.create_task(c.run_until(begin + WARM_UP_S + seconds)) for c in clients]
    rows: list[Row] = []
    while not all(task.done() for task in work):
        rows.append(await look(port, pid, begin))
        await asyncio.sleep(min(1.0, seconds / 10))
    await asyncio.gather(*work)
    last = await settled(port, pid, begin)
    outcomes = sum((c.outcomes for c in clients), start=type(clients[0].outcomes)())
    return {"outcomes": dict(sorted(outcomes.items())), "first": first, "last": last, "rows": rows}


def verdict(result: Row) -> dict[str, bool]:
    """What must hold, and whether it does."""
    first, last, rows = result["first"], result["last"], result["rows"]
    memory = [row["memory_mb"] for row in rows]
    quarter = max(len(memory) // 4, 1)
    before = statistics.median(memory[quarter : 2 * quarter] or memory)
    after = statistics.median(memory[-quarter:])
    result["growth"] = round(after / before - 1, 4)
    result["health_p99_s"] = round(percentile([row["health_s"] for row in rows], 0.99), 4)
    return {
        "no pages, no requests": is_idle(last),
        "no threads": last["threads"] <= first["threads"],
        "no descriptors": last["files"] <= first["files"],
        "flat memory": result["growth"] <= GROWTH,
        # 504 is the deadline that some requests bring.
        "quiet log": not result["complaints"],
        "no failure": not any(name.startswith("500") for name in result["outcomes"]),
    }


def draw(result: Row, path: Path) -> None:
    """Memory, threads, files and requests over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [*result["rows"], result["last"]]
    minutes = [row["at_s"] / 60 for row in rows]
    curves = [
        ("memory, MB", "memory_mb"),
        ("threads", "threads"),
        ("open files", "files"),
        ("pages in use, share", "kv_cache_usage_perc"),
    ]
    figure, axes = plt.subplots(len(curves), 1, figsize=(8, 7), sharex=True)
    for axis, (label, name) in zip(axes, curves, strict=True):
        axis.plot(minutes, [row[name] for row in rows], linewidth=1)
        axis.plot(minutes[-1], rows[-1][name], "o", color="tab:red", label="when all have left")
        axis.set_ylim(0, 1.15 * max(row[name] for row in rows))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    axes[0].set_title(f"{result['requests']:,} random requests of {result['clients']} clients")
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def run(minutes: float, clients: int, seed: int) -> Row:
    """A soak on a server of its own, and what it left."""
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name) / "keys"
        keys.write_text("\n".join(KEYS))
        keys.chmod(0o600)
        log = Path(name) / "log"
        options = ["--api-key-file", str(keys)]
        with log.open("wb") as stderr, served(1, options=options, log=stderr) as (port, pid):
            result = asyncio.run(soak(port, pid, 60 * minutes, clients, seed))
        result["complaints"] = complaints(log.read_text())
    requests = sum(result["outcomes"].values())
    result = {"minutes": minutes, "clients": clients, "seed": seed, "requests": requests, **result}
    result["verdict"] = verdict(result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all of it here")
    parser.add_argument("--picture", type=Path, help="draw the curves here")
    args = parser.parse_args()
    result = run(args.minutes, args.clients, args.seed)
    if args.json:
        args.json.write_text(json.dumps(result) + "\n")
    if args.picture:
        draw(result, args.picture)
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}))
    return 0 if all(result["verdict"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
