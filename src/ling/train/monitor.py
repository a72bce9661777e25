"""What a run reports while it trains: rows of its log, progress, held-out loss, pictures."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint.run_folder import step_folder
from ..model.size import flops_per_token
from . import balance
from .clock import StepClock
from .fp8.health import Health
from .heldout import HeldOut, Share
from .log import MetricsLog, each_row
from .loggers import open_loggers
from .parallel.shard import release
from .plots import draw
from .profile import StepProfiler
from .progress import Progress, duration, gemm_peak
from .ranks import Ranks
from .rows import HeldOutRows
from .starts import note_start
from .step import StepResult

if TYPE_CHECKING:
    from .setup import Run

PEAK_INTERVAL_STEPS = 50


class Monitor:
    """Measures the steps of a run on every rank; rank 0 writes and shows them.

    Use it as a context manager around the steps: files are open inside.
    """

    def __init__(self, run: Run) -> None:
        self.recipe, self.out, self.log, self.state = run.recipe, run.out, run.log, run.state
        self._data_names = run.rows.names
        self.held_out, self.world = run.held_out, run.state.world
        self._measure = run.measure
        device, profile = run.state.device, run.recipe.train.profile
        self.clock = StepClock(device, self.world.size)
        self._profiler = StepProfiler(profile, run.out, self.world.rank, device, run.log)
        self.peak = 0.0
        self.start = time.monotonic()
        self._metrics: MetricsLog | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> Monitor:
        self._measure_peak()
        state = self.state
        self._ranks = Ranks(self.world, state.device, state.model, socket.gethostname())
        self._health = Health(state.model, self.world.added)
        self.world.lead(self._open)
        return self

    def _open(self) -> None:
        first = self.state.step + 1
        if self._metrics is None:  # going back to a checkpoint is no start
            note_start(self.out, self.state.step, self._ranks.hosts)
        loggers = open_loggers(self.recipe, self.out, first, self.log)
        self._metrics = MetricsLog(self.out, first, loggers)
        self._bar = Progress(self.recipe.train.steps, self.state.step)

    def __exit__(self, *error: object) -> None:
        if self._metrics is None or self._bar is None:
            return
        # A full disk fails here again, which must not hide the error of the step.
        with contextlib.suppress(OSError) if error[0] else contextlib.nullcontext():
            self._metrics.close()
        self._bar.close()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around the next step."""
        self._health.watch(self._is_logged(self.state.step + 1))
        with self._profiler.step(self.state.step + 1), self.clock.step():
            yield

    def _is_logged(self, step: int) -> bool:
        train = self.recipe.train
        return step % train.log_interval_steps == 0 or step == train.steps

    def step(self, done: StepResult) -> HeldOut | None:
        """Report the step that was just done; all ranks call this. Returns the held-out loss where
        it was measured."""
        step, train = self.state.step, self.recipe.train
        row = self._row(done, self.clock.last_s)
        if self._is_logged(step):
            row.update(self._ranks.measure(self.clock.take()))
            row.update(self._health.measure())
        if step % PEAK_INTERVAL_STEPS == 0:
            self._measure_peak()
        every = train.eval_interval_steps
        found = None
        if self.held_out and (step == train.steps or (every and step % every == 0)):
            found = self._measured(self.held_out)
            row["valid_loss"] = found.loss
            row["valid_mtp_loss"] = found.mtp_loss
            row["valid_mtp_agreement"] = found.mtp_agreement
            row.update({f"valid_{name}": value for name, value in found.named.items()})
        if self._metrics is not None and self._bar is not None:
            self._metrics.write(row)
            self._bar.step(row)
        return found

    def _row(self, done: StepResult, seconds: float) -> dict[str, Any]:
        rate = done.tokens / seconds
        flops = flops_per_token(self.state.model.config, self.recipe.data.seq_length)
        return {
            "step": self.state.step,
            "loss": done.losses["loss"],
            "mtp_loss": done.losses.get("mtp_loss"),
            **{k: v for k, v in done.losses.items() if k not in ("loss", "mtp_loss")},
            "z_loss": done.z_loss,
            "tokens": self.state.tokens,
            **({} if done.trained is None else {"trained_tokens": done.trained}),
            "lr": done.lr,
            "grad_norm": done.grad_norm,
            "grad_norms": done.part_norms,
            "tokens_per_s": rate,
            "mfu": rate * flops / (self.peak * self.world.size),
            "load_max_mean": balance.load_imbalance(done.counts),
            "expert_load": {str(layer): c.tolist() for layer, c in done.counts.items()},
            "skipped": self.state.skipped,
        }

    def _measured(self, held_out: HeldOutRows) -> HeldOut:
        layout, network = self.recipe.parallel, self.state.network
        share = Share(layout.place(self.world.rank).dp, layout.dp, self.world.added)
        network.eval()
        result = self._measure(network, held_out, share)
        network.train()
        release(network)
        return result

    def _measure_peak(self) -> None:
        """Keep the best seen: other programs on the machine can only make it look lower."""
        dtype = torch.bfloat16 if self.recipe.train.dtype == "bfloat16" else torch.float32
        self.peak = max(self.peak, gemm_peak(dtype, device=self.state.device))

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Draw, and say what came of the run, from the last row of the log."""
        if not self.world.leads:
            return
        self.draw()
        seconds = time.monotonic() - self.start
        (row,) = deque(each_row(self.out / "metrics.jsonl"), maxlen=1)
        words = [f"done: {self.state.step} steps, {self.state.tokens:,} tokens"]
        words.append(f"in {duration(seconds)}; loss {row['loss']:.3f}")
        if row.get("valid_loss") is not None:
            words.append(f"held out {row['valid_loss']:.3f}")
            if row.get("valid_mtp_loss") is not None:
                words[-1] += f" (MTP {row['valid_mtp_loss']:.3f})"
        self.log(f"{words[0]} {', '.join(words[1:])}")
        self.log(f"checkpoint: {step_folder(self.out, self.state.step)}")

    def finish_earlier_run(self) -> None:
        """A run may have been killed between its last step and its pictures: draw them now."""
        if self.world.leads and not (self.out / "loss.png").exists():
            self.draw()

    def draw(self) -> None:
        """Pictures of the run so far."""
        for path in draw(self.out, self._title()):
            self.log(f"picture: {path}")

    def _title(self) -> str:
        """Model, data and date of a picture."""
        names = self._data_names
        short = ["/".join(Path(n).parts[-2:]) for n in names[:2]]
        text = ", ".join(short) + (" ..." if len(names) > 2 else "")
        return f"{Path(self.recipe.model).name} on {text}, {time.strftime('%Y-%m-%d')}"
