"""The loop of a run: when to step, report, save and stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..checkpoint.run_folder import checkpoints, locked
from ..config.kinds import Recipe
from ..errors import RunError
from ..model.size import parameter_counts
from ..ops.native import bound_threads
from .adapt import keeps_base
from .after_held_out import AfterHeldOut, Verdict, asked
from .device import device_type
from .heap import keep_freed_memory
from .layout import chosen
from .loggers import check_loggers
from .lora.check import FirstStep
from .lora.check import lines as first_step_lines
from .monitor import Monitor
from .parallel.group import (
    World,
    code_version,
    join,
    leave,
)
from .parallel.lost import (
    ended_here,
    first_line,
    is_lost_rank,
    naming_rank,
    process_here,
    tells_first,
)
from .progress import tell
from .resume import check_recipe, save_recipe
from .rollback import roll_back
from .saving import Saver
from .setup import Log, Run, early_stop, model_config, setup
from .step import StepResult, TooManySkipped, train_step
from .threads import Threads


def run(
    recipe: Recipe,
    out: Path,
    log: Log = tell,
    *,
    allow_data_reset: bool = False,
    after_held_out: Sequence[AfterHeldOut] = (),
) -> int:
    """Train until `train.steps`, or continue a run; returns the exit code.

    0 when done (also when it was done before), 130 or 143 after a signal, once saved. Raises
    `UsageError` for a changed recipe or a folder in use, `RunError` for repeated non-finite steps.
    With `allow_data_reset` other data, seed, batch or world size are no error: the data starts
    again under the weights and optimizer of the run. `after_held_out` are called after each
    measurement of the held-out loss.

    Under torchrun every rank calls this; rank 0 keeps lock, logs and metrics.
    """
    world = join(device_type(recipe.train.device), recipe.train.group_timeout_s)
    code = run_in(
        world,
        recipe,
        out,
        log,
        allow_data_reset=allow_data_reset,
        after_held_out=after_held_out,
    )
    leave()  # not after an error: the others may be gone
    return code


def run_in(
    world: World,
    recipe: Recipe,
    out: Path,
    log: Log,
    *,
    allow_data_reset: bool = False,
    after_held_out: Sequence[AfterHeldOut] = (),
) -> int:
    """`run` of ranks that have met already."""
    with contextlib.ExitStack() as held:
        world.same("recipe", recipe)
        world.same("version of ling", code_version() if world.size > 1 else "")
        log = log if world.leads else _silent
        world.lead(lambda: held.enter_context(locked(out)))
        recipe = chosen(recipe, model_config, out, log, world)
        world.together(lambda: check_recipe(recipe, out, log))
        world.lead(lambda: check_loggers(recipe.train.loggers))
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        else:
            bound_threads()
        keep_freed_memory()
        ready = setup(recipe, out, log, allow_data_reset=allow_data_reset, world=world)
        return Loop(ready, after_held_out).run()


def _silent(text: str) -> None:
    """The log of ranks other than 0."""


class Loop:
    """Steps of one run from where it is to its last, or to a signal."""

    def __init__(self, run: Run, after_held_out: Sequence[AfterHeldOut] = ()) -> None:
        self.prepared, self.after_held_out = run, after_held_out
        self.recipe, self.out, self.log = run.recipe, run.out, run.log
        self.state, self.objective = run.state, run.objective
        self.reduce, self.world = run.reduce, run.state.world
        self.processes = self.world.gather(process_here())
        cfg = run.recipe.checkpoint
        self.saver = Saver(
            run.out,
            run.state,
            cfg.keep_last,
            background=cfg.async_save,
            keep_every_steps=cfg.keep_every_steps,
        )
        self.monitor = Monitor(run)
        # The signal that this process got, and that on which all ranks stop.
        self.caught: int | None = None
        self.stopping: int | None = None
        self.ends_early = False

    def run(self) -> int:
        """Train, report, save."""
        cfg, state = self.recipe, self.state
        # Only now: a recipe that could not start must not stand in the way of a better one.
        self.world.lead(lambda: save_recipe(cfg, self.out))
        if state.step >= cfg.train.steps or state.ended:
            early = ", ended by `train.early_stop`" if state.ended else ""
            self.log(f"{self.out}: already done ({state.step} steps{early})")
            self.monitor.finish_earlier_run()
            return 0
        if state.step:
            self.log(f"resuming {self.out} after step {state.step}")
        counts = parameter_counts(state.model.config)
        self.log(
            f"{cfg.model}: {counts['total'] / 1e6:.1f}M parameters, "
            f"{counts['active'] / 1e6:.1f}M active per token"
        )
        restore = self._catch_signals()
        try:
            with Threads(self.log) as threads:
                self.objective.begin(self.prepared, self._stops)
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
        self.monitor.finish()
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

    def _train(self, threads: Threads) -> None:
        """To the end, if need be from an earlier checkpoint again."""
        while True:
            try:
                with self.monitor:
                    return self._loop(threads)
            except TooManySkipped as err:
                self.saver.finish()
                roll_back(self.prepared, err)

    def _loop(self, threads: Threads) -> None:
        cfg, state = self.recipe, self.state
        saved = state.step
        while not self._is_over():
            verdict = Verdict()
            with naming_rank(self.world, shared=TooManySkipped):
                threads.adapt()
                with self.monitor.watch():
                    done = self._step()
                held_out = self.monitor.step(done)
                self.prepared.memory.measure(self.log)
                if held_out is not None:
                    verdict = asked(self.after_held_out, self.prepared, held_out)
            self.ends_early = verdict.stop
            state.ended = early_stop(cfg) if verdict.stop else 0
            self._stops()
            self.saver.advance()
            wanted = verdict.keep or state.step == cfg.train.steps
            if wanted or state.step % cfg.checkpoint.interval_steps == 0:
                self.saver.save(keep=verdict.keep)
                saved = state.step
        if saved != state.step:
            self.saver.save()
        self.saver.finish()

    def _stops(self) -> bool:
        """A signal to one rank stops all after the same step."""
        self.stopping = self.world.largest(self.caught or 0) or None
        return self.stopping is not None

    def _is_over(self) -> bool:
        last = self.state.step >= self.recipe.train.steps
        return last or self.ends_early or self.stopping is not None

    def _step(self) -> StepResult:
        cfg = self.recipe
        size = cfg.train.micro_batch_size
        rows = self.state.first_rows(cfg.train, cfg.parallel)
        batches = (self.prepared.reader.read(row, size) for row in rows)
        state, reduce = self.state, self.reduce
        timed = self.monitor.clock.reading(batches)
        if state.step or not keeps_base(cfg):
            return train_step(state, self.objective, timed, cfg.train, cfg.optim, reduce)
        first = FirstStep()
        done = train_step(state, self.objective, timed, cfg.train, cfg.optim, reduce, first.look)
        for line in first_step_lines(self.world.gather(first)):
            self.log(line)
        return done

    def _catch_signals(self) -> Callable[[], None]:
        """SIGINT and SIGTERM end the loop after the current step; returns what undoes this."""

        def note(number: int, frame: object) -> None:
            self.caught = number

        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore
