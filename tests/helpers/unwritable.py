"""`ling` where nothing can be written, and nothing be connected to.

Rights do not bind the administrator, as whom tests may run, so Python's own events are refused:
opening for writing, making, moving and connecting. All are counted, so that a library that only
tries is seen, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = """
import errno, os, sys
from pathlib import Path

import ling.hub.packaged
from ling.cli.main import main

CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "remove", "link", "symlink", "rmdir")}
CONNECTS = {f"socket.{name}" for name in ("connect", "getaddrinfo", "bind", "sendto")}
tried = []

def refuse(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if event in CHANGES or event in CONNECTS or (writes and args[0] != os.devnull):
        tried.append((event, str(args[0])))
        raise OSError(errno.EROFS, "nothing can be written here")

weights, *args = sys.argv[1:]
ling.hub.packaged.weights_folder = lambda: Path(weights)
sys.addaudithook(refuse)
code = main(args)
assert not tried, tried
sys.exit(code)
"""


def run_unwritable(
    args: Sequence[str], typed: str, weights: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `weights` stands for the package's folder of models."""
    from ling.hub.packaged import weights_folder

    environment = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(weights or weights_folder()), *args],
        input=typed,
        env={**os.environ, **environment},
        cwd="/proc",
        capture_output=True,
        text=True,
        timeout=120,
    )
