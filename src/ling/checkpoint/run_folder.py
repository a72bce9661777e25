"""A run folder: who writes in it, its checkpoints `step-N`, which of them are whole.

A checkpoint holds `.metadata` and `*.distcp` (model, optimizer moments, RNG state), `config.json`
of the model, `state.json` (step and data position) and `manifest.json` (SHA-256 of each file).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import CheckpointError, InputError, UsageError
from ..files.atomic import files_below, hash_file, hash_tree, make_folder, read_json, write_atomic

MANIFEST = "manifest.json"
KEPT = "kept.json"
# Of Megatron's training folders: which iteration is the newest, and the arguments in each.
MEGATRON_LATEST, MEGATRON_ARGS = "latest_checkpointed_iteration.txt", "common.pt"
_STEP = re.compile(r"step-([0-9]{1,18})")


def step_folder(run: Path, step: int) -> Path:
    """The checkpoint of a run after that many steps."""
    return run / "checkpoints" / f"step-{step}"


def step_of(checkpoint: Path) -> int:
    """After how many steps a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def run_index_folder(run: Path) -> Path:
    """Where a run keeps the order of its rows; whatever is missing there is made again."""
    return run / "index"


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that `path` is, or the newest finished one of the run that it is."""
    if (path / ".metadata").is_file():
        return path
    return next(reversed(checkpoints(path)), None)


def refuse_checkpoint(folder: Path) -> None:
    """Raise `CheckpointError` with the command to convert it when `folder` is a run, one of its
    checkpoints or a Megatron checkpoint, and only a Hugging Face folder will do."""
    is_run = bool(checkpoints(folder))
    is_checkpoint = (folder / ".metadata").is_file() and any(
        (folder / beside).is_file() for beside in ("config.json", MEGATRON_ARGS)
    )
    if is_run or is_checkpoint or (folder / MEGATRON_LATEST).is_file():
        what = "a run" if is_run else "a training checkpoint"
        raise CheckpointError(
            f"{folder}: {what}, not a model yet; convert it first: "
            f"`ling convert {shlex.quote(str(folder))} OUT`"
        )


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [
        (int(m[1]), p)
        for p in (run / "checkpoints").glob("step-*")
        if (m := _STEP.fullmatch(p.name))
    ]
    return [p for _, p in sorted(found) if (p / MANIFEST).is_file()]


def write_manifest(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Record the hash of every file of a checkpoint that is complete; `known` are there already."""
    hashes = {**hash_tree(folder, skip=known or {}), **(known or {})}
    (folder / MANIFEST).write_text(json.dumps(dict(sorted(hashes.items())), indent=1) + "\n")


def recorded_hashes(folder: Path) -> dict[str, str] | None:
    """The hash of each file when it was written; None unless exactly these files are there."""
    try:
        recorded = read_json(folder / MANIFEST)
    except InputError:
        return None
    names = files_below(folder).keys() - {MANIFEST}
    return recorded if isinstance(recorded, dict) and recorded.keys() == names else None


def match(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether files of a checkpoint have these hashes."""
    return all(hash_file(folder / name) == known for name, known in hashes.items())


def intact(folder: Path) -> bool:
    """Whether every file has the hash that was recorded when it was written."""
    recorded = recorded_hashes(folder)
    return recorded is not None and match(folder, recorded)


def base_of(checkpoint: Path) -> str | None:
    """The model under the adapters that a checkpoint holds; None of one that holds all weights."""
    state = checkpoint / "state.json"
    base = read_json(state).get("base") if state.is_file() else None
    return None if base is None else str(base)


def refuse_adapters(checkpoint: Path) -> None:
    """Raise `CheckpointError` for a checkpoint that holds adapters, where all weights are due."""
    base = base_of(checkpoint)
    if base is not None:
        raise CheckpointError(
            f"{checkpoint}: holds adapters of {base}, not a model; `ling sft` leaves them as the "
            f"folder `adapter` of the run: `ling serve {shlex.quote(base)} --lora NAME=FOLDER`"
        )


def keep(run: Path, step: int | None) -> None:
    """Let the checkpoint of that step, and no other, stay however many are newer."""
    if step is None:
        (run / KEPT).unlink(missing_ok=True)
    else:
        write_atomic(run / KEPT, json.dumps({"step": step}) + "\n")


def kept(run: Path) -> Path | None:
    """The checkpoint that was kept, for the least held-out loss, if there is one."""
    if not (run / KEPT).is_file():
        return None
    folder = step_folder(run, read_json(run / KEPT)["step"])
    return folder if (folder / MANIFEST).is_file() else None


def prune(run: Path, keep_last: int, keep_every_steps: int = 0) -> None:
    """Remove all but the newest `keep_last` checkpoints (0 keeps all), that which is `kept`, and
    those of every `keep_every_steps`-th step; unfinished ones too."""
    folder = run / "checkpoints"
    for tmp in folder.glob("step-*.tmp"):
        shutil.rmtree(tmp, ignore_errors=True)
    if keep_last:
        stays = kept(run)
        for old in checkpoints(run)[:-keep_last]:
            if old != stays and not (keep_every_steps and step_of(old) % keep_every_steps == 0):
                shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Create and hold the run folder: a second run into it is refused, a dead run leaves no trace.

    A folder that is still empty at the end, because the recipe was unusable, is removed.
    """
    new = not out.exists()
    lock, index = make_folder(out) / ".lock", run_index_folder(out)
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield
            finally:
                if new and {p.name for p in out.iterdir()} <= {lock.name, index.name}:
                    shutil.rmtree(index, ignore_errors=True)
                    lock.unlink()
                    with contextlib.suppress(OSError):  # somebody has put a file there since
                        out.rmdir()
    except BlockingIOError:
        raise UsageError(f"{out}: another run is writing here") from None


def is_locked(out: Path) -> bool:
    """Whether a process is writing into the run folder now."""
    try:
        with (out / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
