"""`ling data prepare` against the tokenizer library alone, and two processes against one.

    python benchmarks/data_prepare.py [--megabytes 80] [--pairs 2] [--tokenizer FOLDER]

Each pair runs, one after the other: the library's `encode_batch_fast` on one thread, the same in
two processes at once on half of the text each (what the machine can give), `ling data prepare` with
one worker and with two. The text is the standard library of Python as JSON lines, over and over, so
that documents have the sizes of real ones. Goals: two workers at least 1.8 times as fast as one,
one worker at least 0.9 times as fast as the library.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from ling.data.tokenizer import train_tokenizer
from ling.ops.cores import FreeCores, load_in_words

LIBRARY = """
import json, sys, time
from ling.data.tokenizer import Tokenizer

tokenizer, part, parts = Tokenizer.from_folder(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
texts = [json.loads(line)["text"] for line in open(sys.argv[2])][part::parts]
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter(), time.process_time()
for i in range(0, len(texts), 64):
    tokenizer.backend.encode_batch_fast(texts[i : i + 64], add_special_tokens=False)
print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--tokenizer", type=Path, help="default: one of 4,096 tokens is trained")
    parser.add_argument("--folder", type=Path, help="where text and results are written")
    ns = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ns.folder) as tmp:
        work = Path(tmp)
        corpus, size = work / "text.jsonl", ns.megabytes * 1_000_000
        write_corpus(corpus, size)
        tokenizer = ns.tokenizer or trained(corpus, work / "tokenizer")
        free = FreeCores(own=lambda: time.process_time() + children_seconds())
        rows = [pair(corpus, tokenizer, work) for _ in range(ns.pairs)]
        for row in rows:
            print(line(row, size))
        print(summary(rows))
        print(load_in_words(free.taken(), len(free.cores)))


def write_corpus(path: Path, size: int) -> None:
    """Modules of the standard library, each copy with another first line."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py"))
    done = number = 0
    with path.open("w") as out:
        while done < size:
            for file in files:
                number += 1
                text = f"# copy {number}\n" + file.read_text("utf-8", "replace")[:200_000]
                record = json.dumps({"text": text}) + "\n"
                out.write(record)
                done += len(record)
                if done >= size:
                    return


def trained(corpus: Path, folder: Path) -> Path:
    """A tokenizer trained on some of the text."""
    with corpus.open() as lines:
        texts = (json.loads(text)["text"] for text, _ in zip(lines, range(400), strict=False))
        train_tokenizer(texts, 4096).save(folder)
    return folder


def pair(corpus: Path, tokenizer: Path, work: Path) -> dict[str, tuple[float, float]]:
    """Seconds (wall, CPU) of each."""
    return {
        "library": library(corpus, tokenizer, 1),
        "library, two processes": library(corpus, tokenizer, 2),
        "one worker": prepare(corpus, tokenizer, work / "one", 1),
        "two workers": prepare(corpus, tokenizer, work / "two", 2),
    }


def library(corpus: Path, tokenizer: Path, parts: int) -> tuple[float, float]:
    """The library alone, once all processes have read their text."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    env = {**os.environ, "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIBRARY, str(tokenizer), str(corpus)]
    processes = [
        subprocess.Popen([*command, str(k), str(parts)], env=env, **pipes)  # type: ignore[call-overload]
        for k in range(parts)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in processes]
    return max(wall for wall, _ in found), sum(cpu for _, cpu in found)


def prepare(corpus: Path, tokenizer: Path, out: Path, workers: int) -> tuple[float, float]:
    """The whole command, start of Python included."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "ling", "data", "prepare", str(corpus), "--out", str(out)]
    command += ["--tokenizer", str(tokenizer), "--workers", str(workers)]
    before, start = children_seconds(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, children_seconds() - before


def children_seconds() -> float:
    """CPU seconds of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def line(row: dict[str, tuple[float, float]], size: int) -> str:
    """A pair in words."""
    each = [
        f"{name} {wall:.1f} s ({cpu:.1f} s CPU, {size / cpu / 1e6:.2f} MB a CPU second)"
        for name, (wall, cpu) in row.items()
    ]
    return "; ".join(each)


def summary(rows: list[dict[str, tuple[float, float]]]) -> str:
    """Medians of the ratios."""

    def ratio(a: str, b: str, kind: int) -> float:
        return statistics.median(row[a][kind] / row[b][kind] for row in rows)

    one, two, most = "one worker", "two workers", "library, two processes"
    return (
        f"two workers against one: {ratio(one, two, 0):.2f} (goal 1.8; the library alone "
        f"{ratio('library', most, 0):.2f}); one worker against the library: "
        f"{ratio('library', one, 0):.2f} of its speed, {ratio('library', one, 1):.2f} by CPU "
        "seconds (goal 0.9)"
    )


if __name__ == "__main__":
    main()
