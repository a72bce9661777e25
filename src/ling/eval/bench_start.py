"""`ling bench start`: from starting Python to the first token."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..config.engine import EngineConfig
from ..errors import RunError

START = """
import json, sys
import ling
prompt = {"prompt_token_ids": [1]}
llm = ling.LLM(sys.argv[1], **json.loads(sys.argv[2]))
llm.generate([prompt], ling.SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
"""


def start(folder: Path, name: str, times: int, engine: EngineConfig) -> dict[str, Any]:
    """Seconds from starting Python to the first token, each time in a process of its own."""
    options = json.dumps(dataclasses.asdict(engine))
    command = [sys.executable, "-c", START, str(folder.resolve()), options]
    samples = []
    for _ in range(times):
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        samples.append(time.perf_counter() - begin)
        if done.returncode:
            raise RunError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    seconds = statistics.median(samples)
    text = f"{name}: {seconds:.2f} s from the start of Python to the first token"
    return {"model": name, "seconds": seconds, "samples": samples, "line": text}
