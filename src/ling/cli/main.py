"""The command line: find the command, turn errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..errors import LingError, UsageError
from ..text import nearest, one_line
from .commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 2 bad input, 130/143 stopped, 1 otherwise."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    _tolerant_streams()
    _bound_threads()
    return guarded(lambda: _dispatch(args), debug=debug)


def _tolerant_streams() -> None:
    """Let no character end a command: one that a terminal lacks is shown as its escape."""
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):  # input that was read from before
                stream.reconfigure(errors=errors)


def _bound_threads() -> None:
    """Tell OpenMP a container's processor quota, before torch is loaded and takes all cores."""
    from ..ops.limits import default_threads

    threads = default_threads()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def guarded(run: Callable[[], int], *, debug: bool = False) -> int:
    """The exit code of `run`; what it raises becomes one line on stderr."""
    try:
        return run()
    except LingError as err:
        if debug:
            raise
        print(f"error: {one_line(str(err))}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as err:
        if debug:
            raise
        where = f"{err.filename}: " if err.filename else ""
        print(f"error: {one_line(f'{where}{err.strerror or err}')}", file=sys.stderr)
        return 1
    except Exception as err:
        if debug:
            raise
        print(
            f"error: {type(err).__name__}: {one_line(str(err))} (--debug shows more)",
            file=sys.stderr,
        )
        return 1


def _check_current_folder() -> None:
    """torch and MKL end the process when it is gone, with words about other things."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current folder no longer exists; `cd` to one that does") from None


# Shells leave the `~` of `--out=~/runs` as it is, and a folder of that name would be made.
_HOME = re.compile(r"--(?!prompt|system|stop)[\w.-]+=~(?=/)")


def _dispatch(args: list[str]) -> int:
    _check_current_folder()
    args = [_HOME.sub(lambda m: m[0][:-1] + os.path.expanduser("~"), a, count=1) for a in args]
    if not args or args[0] in ("-h", "--help"):
        print("usage: ling COMMAND ... (`ling COMMAND --help`: options; --debug: tracebacks)\n")
        print("\n".join(f"  {name:11} {text}" for name, (_, _, text) in COMMANDS.items()))
        return 0
    if args[0] in ("-V", "--version"):
        from .. import __version__

        print(f"ling {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UsageError(
            f"no command `{args[0]}`{nearest(args[0], list(COMMANDS))}; see `ling --help`"
        )
    command = COMMANDS[args[0]]
    group = import_module(f".{command.file}", __package__)
    run: Callable[[list[str]], int | None] = getattr(group, command.function)
    return run(args[1:]) or 0
