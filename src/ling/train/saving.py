"""Writing a run's checkpoints: at once, or in the background while steps go on.

Every rank writes and hashes its part, without talking to the others. Once a step they agree on
whether all are done; then rank 0 adds what describes the parts and gives the name. So a checkpoint
appears complete or not at all, and nothing depends on when a rank was how far.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import run_folder
from ..checkpoint.dcp.layout import FileLayout, metadata_bytes
from ..checkpoint.dcp.local import Deferred
from ..checkpoint.dcp.parts import held, local_parts, share, write_part
from ..checkpoint.run_folder import prune, step_folder, write_manifest
from ..errors import RunError
from ..files.atomic import make_folder, put_in_place, scratch_folder, scratch_path
from .state import TrainState, state_tensors

_DONE, _WRITING, _FAILED = 0, 1, 2
# How long the end of a run waits for a thread that is told to stop; a disk may be slow.
_ABANDON_S = 5.0


class Work:
    """What one rank writes, piece by piece, in a thread behind the steps or at once.

    `write` yields between pieces, with the hashes at last, as `write_part` does.
    """

    def __init__(self, write: Iterator[dict[str, str]]) -> None:
        self._write, self._stop = write, threading.Event()
        self._hashes: dict[str, str] = {}
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.status = _WRITING

    def start(self) -> None:
        """Write behind the steps."""
        self._thread = threading.Thread(target=self._behind, daemon=True)
        self._thread.start()

    def _behind(self) -> None:
        leave_processor()
        self._run()

    def _run(self) -> None:
        try:
            for hashes in self._write:
                self._hashes.update(hashes)
                if self._stop.is_set():
                    return
            self.status = _DONE
        except Exception as err:
            self._error, self.status = err, _FAILED

    def stop(self, seconds: float | None = None) -> None:
        """Leave it where it is."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join(seconds)
            self._thread = None

    def finish(self, name: str) -> dict[str, str]:
        """Write what is left, now; `RunError` when checkpoint `name` cannot be written.

        Here and not in the thread, which gets nothing done while others want the processor.
        """
        self.stop()
        self._stop.clear()
        if self.status == _WRITING:
            self._run()
        if isinstance(self._error, OSError):
            reason = self._error.strerror or self._error
            raise RunError(f"could not save checkpoint {name}: {reason}")
        if self._error is not None:
            raise self._error
        return self._hashes


def leave_processor() -> None:
    """Let other threads come first, where the system knows that of a thread alone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Staging:
    """A copy of tensors in main memory that is made again and again in the same place."""

    def __init__(self) -> None:
        self._copies: dict[tuple[str, int], Tensor] = {}

    def copy(self, parts: Mapping[str, Tensor | Deferred]) -> dict[str, Tensor | Deferred]:
        """The values of `parts` as they are now; deferred ones as what they are made from."""
        sources = {
            (key, i): source
            for key, part in parts.items()
            for i, source in enumerate(part.sources if isinstance(part, Deferred) else (part,))
        }
        for place, source in sources.items():
            if place not in self._copies:
                pinned = source.device.type == "cuda"
                copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=pinned)
                self._copies[place] = copy
        targets = [self._copies[place] for place in sources]
        torch._foreach_copy_(targets, list(sources.values()), non_blocking=True)
        if any(source.device.type == "cuda" for source in sources.values()):
            torch.cuda.synchronize()
        return {key: self._copied(key, part) for key, part in parts.items()}

    def _copied(self, key: str, part: Tensor | Deferred) -> Tensor | Deferred:
        if not isinstance(part, Deferred):
            return self._copies[key, 0]
        count = len(part.sources)
        return dataclasses.replace(part, sources=tuple(self._copies[key, i] for i in range(count)))


class Saver:
    """Saves the checkpoints of a run, of which at most one is being written.

    All ranks call its methods alike. An error, as for a full disk, is raised by the next call, on
    all ranks, and leaves the checkpoints that were there.
    """

    def __init__(
        self,
        out: Path,
        state: TrainState,
        keep_last: int,
        *,
        background: bool,
        keep_every_steps: int = 0,
    ) -> None:
        self.out, self.state, self.world = out, state, state.world
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._background = background
        self._files: list[FileLayout] | None = None
        self._staging = Staging()
        self._work: Work | None = None
        self._held = contextlib.ExitStack()
        self._folder = out
        self._texts: dict[str, str] = {}
        self._skipped = 0
        self._kept: int | None = None

    def save(self, *, keep: bool = False) -> None:
        """Begin the checkpoint of `state.step`, and write all of it unless in the background; with
        `keep` it stays, instead of that which was kept before."""
        self.finish()
        self._kept = self.state.step if keep else None
        self._folder = folder = step_folder(self.out, self.state.step)
        self.world.lead(lambda: self._make_room(folder))
        tensors = state_tensors(self.state)
        if self._files is None:  # the layout of a run does not change
            self._files = share(self.world.gather(held(tensors)))
        layout = self._files[self.world.rank]
        parts = local_parts({key: tensors[key] for key, *_ in layout.boxes})
        if self._background:
            parts = self.world.together(lambda: self._staging.copy(parts))
        config = json.dumps(self.state.model.config.to_dict(), indent=2)
        progress = json.dumps(self.state.progress())
        self._texts = {"config.json": config + "\n", "state.json": progress + "\n"}
        self._skipped = self.state.skipped
        self._work = Work(write_part(layout, scratch_path(folder), parts))
        if self._background:
            self._work.start()
        else:
            self.finish()

    def advance(self) -> None:
        """Once a step: give the name to a checkpoint that all ranks have written."""
        if self._work is not None and self.world.largest(self._work.status) != _WRITING:
            self.finish()

    def finish(self) -> None:
        """Write what is left of the checkpoint that is being written, if there is one."""
        work, name = self._work, self._folder.name
        if work is None:
            return
        with self._held:
            self._work = None
            hashes = self.world.together(lambda: work.finish(name))
            known = {file: h for part in self.world.gather(hashes) for file, h in part.items()}
            self.world.lead(lambda: self._commit(known))

    def abandon(self) -> None:
        """Stop writing, without the other ranks: after an error that ends the run."""
        if self._work is not None:
            self._work.stop(_ABANDON_S)
            self._work = None
        self._held.close()

    def _make_room(self, folder: Path) -> None:
        prune(self.out, 0)
        # Only a damaged checkpoint, passed over at resume, can be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = self.state.tokenizer
        if tokenizer is not None:  # first: a checkpoint without it could not be used
            tokenizer.save(make_folder(self.out / "tokenizer"))
        self._held.enter_context(scratch_folder(folder))

    def _commit(self, hashes: dict[str, str]) -> None:
        """Add what describes the tensors, and the name."""
        assert self._files is not None
        tmp = scratch_path(self._folder)
        (tmp / ".metadata").write_bytes(metadata_bytes(self._files[0].tensors, self._files))
        for name, text in self._texts.items():
            (tmp / name).write_text(text)
        write_manifest(tmp, hashes)
        put_in_place(tmp, self._folder)
        if self._kept is not None:
            run_folder.keep(self.out, self._kept)
        if not self._skipped:  # else the last good one, to go back to, might be too old
            prune(self.out, self._keep_last, self._keep_every_steps)
