"""The loop of a run: when to step, measure, log, save and stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.run_folder import checkpoints, locked, step_folder
from ..config.recipe import PretrainConfig
from ..data.indexed import IndexedDataset
from ..errors import RunError
from ..model.size import flops_per_token, parameter_counts
from ..ops.native import bound_threads
from . import balance
from .device import device_type
from .heldout import Share, held_out_loss
from .log import MetricsLog, read_metrics
from .parallel.group import (
    World,
    code_version,
    ended_here,
    first_line,
    is_lost_rank,
    join,
    leave,
    process_here,
    tells_first,
)
from .parallel.shard import release
from .plots import draw
from .progress import Progress, duration, gemm_peak
from .resume import check_recipe, save_recipe
from .rollback import roll_back
from .saving import Saver
from .setup import Log, Run, setup
from .step import StepResult, TooManySkipped, train_step
from .threads import Threads

PEAK_INTERVAL_STEPS = 50


def run(
    recipe: PretrainConfig, out: Path, log: Log = print, *, allow_data_reset: bool = False
) -> int:
    """Train until `train.steps`, or continue a run; returns the exit code.

    0 when done (also when it was done before), 130 or 143 after a signal, once saved. Raises
    `UsageError` for a changed recipe or a folder in use, `RunError` for repeated non-finite steps.
    With `allow_data_reset` other data, seed, batch or world size are no error: the data starts
    again under the weights and optimizer of the run.

    Under torchrun every rank calls this; rank 0 keeps lock, logs and metrics.
    """
    world = join(device_type(recipe.train.device), recipe.train.group_timeout_s)
    code = run_in(world, recipe, out, log, allow_data_reset=allow_data_reset)
    leave()  # not after an error: the others may be gone
    return code


def run_in(
    world: World, recipe: PretrainConfig, out: Path, log: Log, *, allow_data_reset: bool = False
) -> int:
    """`run` of ranks that have met already."""
    with contextlib.ExitStack() as held:
        world.same("recipe", recipe)
        world.same("version of ling", code_version() if world.size > 1 else "")
        log = log if world.leads else _silent
        world.lead(lambda: held.enter_context(locked(out)))
        world.together(lambda: check_recipe(recipe, out, log))
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        else:
            bound_threads()
        return Loop(setup(recipe, out, log, allow_data_reset=allow_data_reset, world=world)).run()


def _silent(text: str) -> None:
    """The log of ranks other than 0."""


class Loop:
    """Steps of one run from where it is to its last, or to a signal."""

    def __init__(self, run: Run) -> None:
        self.prepared, self.recipe, self.out, self.log = run, run.recipe, run.out, run.log
        self.state, self.objective = run.state, run.objective
        self.valid_prefixes, self.reduce = run.valid_prefixes, run.reduce
        self.world = run.state.world
        self.processes = self.world.gather(process_here())
        keep, behind = run.recipe.checkpoint.keep_last, run.recipe.checkpoint.async_save
        self.saver = Saver(run.out, run.state, keep, background=behind)
        self.peak = 0.0
        # The signal that this process got, and that on which all ranks stop.
        self.caught: int | None = None
        self.stopping: int | None = None

    def run(self) -> int:
        """Train, save, measure, draw."""
        cfg, state = self.recipe, self.state
        # Only now: a recipe that could not start must not stand in the way of a better one.
        self.world.lead(lambda: save_recipe(cfg, self.out))
        if state.step >= cfg.train.steps:
            self.log(f"{self.out}: already done ({state.step} steps)")
            # A run may be killed between its last step and its picture.
            done = not self.world.leads or (self.out / "loss.png").exists()
            return 0 if done else self._draw()
        if state.step:
            self.log(f"resuming {self.out} after step {state.step}")
        counts = parameter_counts(state.model.config)
        self.log(
            f"{cfg.model}: {counts['total'] / 1e6:.1f}M parameters, "
            f"{counts['active'] / 1e6:.1f}M active per token"
        )
        self._measure_peak()
        start = time.monotonic()
        leads = self.world.leads
        restore = self._catch_signals()
        try:
            with Threads(self.log) as threads:
                self._train(threads)
        except RuntimeError as err:
            if self.world.size == 1 or not is_lost_rank(err):
                raise
            raise self._lost(err) if tells_first() else SystemExit(RunError.exit_code) from None
        finally:
            self.saver.abandon()
            restore()
        if self.stopping is not None:
            self.log(
                f"stopped after step {state.step}, saved; the same command continues from here"
            )
            return 128 + self.stopping
        if leads:
            self._draw()
            self._report(time.monotonic() - start)
        return 0

    def _lost(self, err: RuntimeError) -> RunError:
        """What to tell when another rank does not answer any more."""
        saved = checkpoints(self.out)
        where = f"continue from {saved[-1].name}" if saved else "nothing was saved yet"
        ended = "".join(f"rank {rank}: " for rank in ended_here(self.processes))
        return RunError(
            f"rank {self.world.rank}: step {self.state.step + 1}: another rank is gone or does not "
            f"answer ({ended}{first_line(err)}); {where}"
        )

    def _report(self, seconds: float) -> None:
        """What came of it, from the last row of the log."""
        row = read_metrics(self.out / "metrics.jsonl")[-1]
        words = [f"done: {self.state.step} steps, {self.state.tokens:,} tokens"]
        words.append(f"in {duration(seconds)}; loss {row['loss']:.3f}")
        if row.get("valid_loss") is not None:
            words.append(f"held out {row['valid_loss']:.3f}")
            if row.get("valid_mtp_loss") is not None:
                words[-1] += f" (MTP {row['valid_mtp_loss']:.3f})"
        self.log(f"{words[0]} {', '.join(words[1:])}")
        self.log(f"checkpoint: {step_folder(self.out, self.state.step)}")

    def _draw(self) -> int:
        for path in draw(self.out, self._title()):
            self.log(f"picture: {path}")
        return 0

    def _title(self) -> str:
        """Model, data and date of a picture."""
        data = self.recipe.data
        names = [data.corpus] if data.corpus else data.prefix
        short = ["/".join(Path(n).parts[-2:]) for n in names[:2]]
        text = ", ".join(short) + (" ..." if len(names) > 2 else "")
        return f"{Path(self.recipe.model).name} on {text}, {time.strftime('%Y-%m-%d')}"

    def _train(self, threads: Threads) -> None:
        """To the end, if need be from an earlier checkpoint again."""
        while True:
            try:
                with self._logs() as (metrics, bar):
                    return self._loop(metrics, bar, threads)
            except TooManySkipped as err:
                self.saver.finish()
                roll_back(self.prepared, err)

    @contextlib.contextmanager
    def _logs(self) -> Iterator[tuple[MetricsLog | None, Progress | None]]:
        """What rank 0 writes of the steps from here on."""
        if not self.world.leads:
            yield None, None
            return
        step = self.state.step
        metrics, bar = MetricsLog(self.out, step + 1), Progress(self.recipe.train.steps, step)
        try:
            yield metrics, bar
        finally:
            metrics.close()
            bar.close()

    def _loop(
        self, metrics: MetricsLog | None, progress: Progress | None, threads: Threads
    ) -> None:
        cfg, state = self.recipe, self.state
        saved = state.step
        while state.step < cfg.train.steps and self.stopping is None:
            threads.adapt()
            row = self._step()
            if state.step % PEAK_INTERVAL_STEPS == 0:
                self._measure_peak()
            last = state.step == cfg.train.steps
            every = cfg.train.eval_interval_steps
            if self.valid_prefixes and (last or (every and state.step % every == 0)):
                row.update(self._held_out())
            if metrics is not None and progress is not None:
                metrics.write(row)
                progress.step(row)
            # A signal to one rank stops all after the same step.
            self.stopping = self.world.largest(self.caught or 0) or None
            self.saver.advance()
            if last or state.step % cfg.checkpoint.interval_steps == 0:
                self.saver.save()
                saved = state.step
        if saved != state.step:
            self.saver.save()
        self.saver.finish()

    def _step(self) -> dict[str, Any]:
        """The next step; returns its row of the log."""
        cfg, start = self.recipe, time.perf_counter()
        size = cfg.train.micro_batch_size
        rows = self.state.first_rows(cfg.train, cfg.parallel)
        batches = (self.prepared.reader.read(row, size) for row in rows)
        state, reduce = self.state, self.reduce
        done = train_step(state, self.objective, batches, cfg.train, cfg.optim, reduce)
        return self._row(done, time.perf_counter() - start)

    def _row(self, done: StepResult, seconds: float) -> dict[str, Any]:
        rate = done.tokens / seconds
        flops = flops_per_token(self.state.model.config, self.recipe.data.seq_length)
        return {
            "step": self.state.step,
            "loss": done.losses["loss"],
            "mtp_loss": done.losses.get("mtp_loss"),
            "z_loss": done.z_loss,
            "tokens": self.state.tokens,
            "lr": done.lr,
            "grad_norm": done.grad_norm,
            "tokens_per_s": rate,
            "mfu": rate * flops / (self.peak * self.world.size),
            "load_max_mean": balance.load_imbalance(done.counts),
            "expert_load": {str(layer): c.tolist() for layer, c in done.counts.items()},
            "skipped": self.state.skipped,
        }

    def _held_out(self) -> dict[str, float | None]:
        cfg, network, tokenizer = self.recipe, self.state.network, self.state.tokenizer
        layout = cfg.parallel
        share = Share(layout.place(self.world.rank).dp, layout.dp, self.reduce.added)
        network.eval()
        result = held_out_loss(
            network,
            IndexedDataset(self.valid_prefixes[0]),
            cfg.data,
            rows=cfg.train.eval_rows,
            eod=None if tokenizer is None else tokenizer.eod_token_id,
            share=share,
        )
        network.train()
        release(network)
        return {
            "valid_loss": result.loss,
            "valid_mtp_loss": result.mtp_loss,
            "valid_mtp_agreement": result.mtp_agreement,
        }

    def _measure_peak(self) -> None:
        """Keep the best seen: other programs on the machine can only make it look lower."""
        dtype = torch.bfloat16 if self.recipe.train.dtype == "bfloat16" else torch.float32
        self.peak = max(self.peak, gemm_peak(dtype, device=self.state.device))

    def _catch_signals(self) -> Callable[[], None]:
        """SIGINT and SIGTERM end the loop after the current step; returns what undoes this."""

        def note(number: int, frame: object) -> None:
            self.caught = number

        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore
