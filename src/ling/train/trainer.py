"""The pretraining loop: batch → loss → backward → step → balance → log → save."""

from __future__ import annotations

import dataclasses
import fcntl
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from ..config import ModelConfig, PretrainConfig
from ..data.indexed import IndexedDataset
from ..data.prepare import prepare
from ..data.tokenizer import Tokenizer
from ..errors import RunError, UsageError
from ..files import make_folder, write_atomic
from ..hub import resolve_model
from ..model.ling import Ling, from_config
from ..model.size import flops_per_token, parameter_counts
from ..model.weights import load_model, read_config
from ..presets import PRESETS, preset
from . import balance, checkpoint
from .batches import make_batch, open_samples, run_data_folder
from .forward import compute_losses
from .heldout import HeldOut, held_out_loss
from .metrics import MetricsLog, Progress, draw, gemm_peak
from .optim import build_optimizer, learning_rate

Log = Callable[[str], None]
PEAK_INTERVAL_STEPS = 50


def run(recipe: PretrainConfig, out: Path, log: Log = print) -> int:
    """Train until `train.steps`, or continue a run; returns the exit code.

    0 when done (also when it was done before), 130 or 143 after a signal, once saved. Raises
    `UsageError` for a changed recipe or a folder in use, `RunError` for repeated non-finite steps.
    """
    make_folder(out)
    with _locked(out):
        _check_recipe(recipe, out)
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        return Trainer(recipe, out, log).run()


class Trainer:
    """State of one run. Parallelism is applied from outside, to `model`, before `run`."""

    def __init__(self, recipe: PretrainConfig, out: Path, log: Log) -> None:
        self.recipe, self.out, self.log = recipe, out, log
        torch.manual_seed(recipe.train.seed)
        self._open_data()
        self.model = self._build_model()
        self.optimizer = build_optimizer(self.model, recipe.optim)
        self.steps_done = self.nonfinite = 0
        self.caught: int | None = None

    # ---- set-up --------------------------------------------------------------------------------

    def _open_data(self) -> None:
        data = self.recipe.data
        train, valid, folder = list(data.prefix), list(data.valid_prefix), data.tokenizer
        if data.corpus:
            ready = prepare(
                data.corpus if data.corpus == "stdlib" else [data.corpus],
                run_data_folder(self.out),
                tokenizer=data.tokenizer,
                vocab_size=data.vocab_size,
                max_bytes=data.corpus_bytes,
                log=self.log,
            )
            train, valid = [str(ready.train_prefix)], [str(ready.valid_prefix)]
            folder = str(ready.tokenizer_folder)
        self.train_prefixes = train
        self.valid_prefixes = [p for p in valid if self._long_enough(p)]
        self.tokenizer = Tokenizer.from_folder(folder) if folder else None
        self.eod = self.tokenizer.eod_token_id if self.tokenizer else None

    def _long_enough(self, prefix: str) -> bool:
        """Whether held-out data fills a row; says so when it does not."""
        tokens = IndexedDataset(prefix).num_tokens
        if tokens <= self.recipe.data.seq_length:
            self.log(f"{prefix}: {tokens} tokens are less than a row, no held-out loss")
        return tokens > self.recipe.data.seq_length

    def _build_model(self) -> Ling:
        name, overrides = self.recipe.model, self.recipe.model_overrides
        folder = None if name in PRESETS else resolve_model(name)
        cfg = preset(name) if folder is None else read_config(folder)
        unknown = sorted(set(overrides) - {f.name for f in dataclasses.fields(ModelConfig)})
        if unknown:
            raise UsageError(f"`model_overrides.{unknown[0]}` is not a field of config.json")
        cfg = cfg.replace(**overrides) if overrides else cfg
        cfg = self._fit_vocabulary(cfg)
        has_weights = folder is not None and any(folder.glob("*.safetensors"))
        if has_weights and not overrides:
            assert folder is not None
            model = load_model(folder, dtype="float32")
        else:
            model = from_config(cfg, seed=self.recipe.train.seed)
        model.compute_dtype = torch.bfloat16 if self.recipe.train.dtype == "bfloat16" else None
        return model.train()

    def _fit_vocabulary(self, cfg: ModelConfig) -> ModelConfig:
        """Check that every token has a row, and take the special ids of the tokenizer."""
        if self.tokenizer is None:
            return cfg
        if self.tokenizer.vocab_size > cfg.vocab_size:
            raise UsageError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the model `vocab_size` = "
                f"{cfg.vocab_size}; use a smaller tokenizer or a larger model"
            )
        if self.eod is None:
            return cfg
        bos = self.tokenizer.token_to_id("<|startoftext|>")
        return cfg.replace(
            eos_token_id=self.eod,
            pad_token_id=self.eod,
            bos_token_id=self.eod if bos is None else bos,
        )

    # ---- the loop ------------------------------------------------------------------------------

    def run(self) -> int:
        """Resume, train, save, measure, draw."""
        cfg = self.recipe
        found = checkpoint.newest(self.out, self.log)
        if found is not None:
            self.steps_done = checkpoint.load(found, self.model, self.optimizer)["step"]
            if self.steps_done >= cfg.train.steps:
                self.log(f"{self.out}: already done ({self.steps_done} steps)")
                return 0
            self.log(f"resuming {self.out} after step {self.steps_done}")
        counts = parameter_counts(self.model.config)
        self.log(
            f"{cfg.model}: {counts['total'] / 1e6:.1f}M parameters, "
            f"{counts['active'] / 1e6:.1f}M active per token"
        )
        self.peak = 0.0
        self._measure_peak()
        rows = cfg.train.steps * cfg.train.global_batch_size
        self.samples = open_samples(
            self.train_prefixes,
            cfg.data,
            rows=rows,
            seed=cfg.train.seed,
            eod=self.eod,
            vocab_size=self.model.config.vocab_size,
        )
        metrics = MetricsLog(self.out, self.steps_done + 1)
        progress = Progress(cfg.train.steps, self.steps_done)
        restore = self._catch_signals()
        try:
            self._loop(metrics, progress)
        finally:
            restore()
            metrics.close()
            progress.close()
        if self.caught is not None:
            self.log(
                f"stopped after step {self.steps_done}, saved; the same command goes on from here"
            )
            return 128 + self.caught
        for path in draw(self.out, self.out.name) or []:
            self.log(f"picture: {path}")
        return 0

    def _loop(self, metrics: MetricsLog, progress: Progress) -> None:
        cfg = self.recipe
        saved = self.steps_done
        while self.steps_done < cfg.train.steps and self.caught is None:
            row = self._step(self.steps_done + 1)
            self.steps_done += 1
            if self.steps_done % PEAK_INTERVAL_STEPS == 0:
                self._measure_peak()
            last = self.steps_done == cfg.train.steps
            every = cfg.train.eval_interval_steps
            if self.valid_prefixes and (last or (every and self.steps_done % every == 0)):
                row.update(self._held_out())
            metrics.write(row)
            progress.step(row)
            if last or self.steps_done % cfg.checkpoint.interval_steps == 0:
                self._save()
                saved = self.steps_done
        if saved != self.steps_done:
            self._save()

    def _step(self, step: int) -> dict[str, Any]:
        cfg, start = self.recipe.train, time.perf_counter()
        micro_batches = cfg.global_batch_size // cfg.micro_batch_size
        lr = learning_rate(self.recipe.optim, step, cfg.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums = {"loss": 0.0, "mtp_loss": 0.0, "z_loss": 0.0}
        counts: dict[int, torch.Tensor] = {}
        for micro in range(micro_batches):
            first = (step - 1) * cfg.global_batch_size + micro * cfg.micro_batch_size
            rows = [self.samples[i] for i in range(first, first + cfg.micro_batch_size)]
            batch = make_batch(rows, self.eod if self.recipe.data.isolate_documents else None)
            losses = compute_losses(self.model, batch)
            (losses.total(cfg.mtp_loss_weight, cfg.z_loss_coef) / micro_batches).backward()
            sums["loss"] += float(losses.main.detach()) / micro_batches
            sums["mtp_loss"] += (
                float(losses.mtp.detach()) / micro_batches if losses.mtp is not None else 0.0
            )
            sums["z_loss"] += float(losses.z.detach()) / micro_batches
            for layer, c in losses.counts.items():
                counts[layer] = counts[layer] + c if layer in counts else c
        norm = self._update(sums["loss"] + sums["mtp_loss"], counts, step)
        tokens = cfg.global_batch_size * self.recipe.data.seq_length
        seconds = time.perf_counter() - start
        rate = tokens / seconds
        flops = flops_per_token(self.model.config, self.recipe.data.seq_length)
        return {
            "step": step,
            "loss": sums["loss"],
            "mtp_loss": sums["mtp_loss"] if self.model.config.num_nextn_predict_layers else None,
            "z_loss": sums["z_loss"],
            "tokens": step * tokens,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_s": rate,
            "mfu": rate * flops / self.peak,
            "load_max_mean": balance.load_imbalance(counts),
            "expert_load": {str(layer): c.tolist() for layer, c in counts.items()},
            "skipped": self.nonfinite,
        }

    def _update(self, loss: float, counts: dict[int, torch.Tensor], step: int) -> float:
        """Clip, step and balance; a step that is not finite leaves the state untouched."""
        cfg = self.recipe.train
        limit = cfg.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if math.isfinite(norm) and math.isfinite(loss):
            self.optimizer.step()
            balance.update_biases(
                self.model, counts, cfg.bias_update_rate, zero_mean=cfg.bias_zero_mean
            )
            self.nonfinite = 0
        else:
            self.nonfinite += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.nonfinite >= cfg.max_nonfinite:
            raise RunError(
                f"step {step}: loss or gradient not finite {self.nonfinite} times in a row; "
                "lower `optim.lr`"
            )
        return norm

    # ---- what happens now and then -------------------------------------------------------------

    def _held_out(self) -> dict[str, float | None]:
        cfg = self.recipe
        self.model.eval()
        result: HeldOut = held_out_loss(
            self.model,
            IndexedDataset(self.valid_prefixes[0]),
            cfg.data,
            rows=cfg.train.eval_rows,
            eod=self.eod,
        )
        self.model.train()
        return {
            "valid_loss": result.loss,
            "valid_mtp_loss": result.mtp_loss,
            "valid_mtp_agreement": result.mtp_agreement,
        }

    def _measure_peak(self) -> None:
        """Keep the best seen: other programs on the machine can only make it look lower."""
        dtype = torch.bfloat16 if self.recipe.train.dtype == "bfloat16" else torch.float32
        self.peak = max(self.peak, gemm_peak(dtype))

    def _save(self) -> None:
        checkpoint.prune(self.out, 0)
        folder = self.out / "checkpoints" / f"step-{self.steps_done}"
        # Only a damaged checkpoint, passed over at resume, can be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        progress = {
            "step": self.steps_done,
            "rows": self.steps_done * self.recipe.train.global_batch_size,
        }
        checkpoint.save(folder, self.model, self.optimizer, progress)
        if self.tokenizer is not None:
            self.tokenizer.save(make_folder(self.out / "tokenizer"))
        checkpoint.prune(self.out, self.recipe.checkpoint.keep_last)

    def _catch_signals(self) -> Callable[[], None]:
        """SIGINT and SIGTERM end the loop after the current step; returns what undoes this."""

        def note(number: int, frame: object) -> None:
            self.caught = number

        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore


class _locked:
    """Hold the run folder: a second run into it is refused, a dead run leaves no trace."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        self.file = (self.out / ".lock").open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{self.out}: another run is writing here") from None

    def __exit__(self, *error: object) -> None:
        self.file.close()


def _check_recipe(recipe: PretrainConfig, out: Path) -> None:
    """Save the resolved recipe, or refuse one that differs from the run's."""
    path, now = out / "config.yaml", dataclasses.asdict(recipe)
    if not path.exists():
        write_atomic(path, yaml.safe_dump(now, sort_keys=False))
        return
    try:
        before = _flat(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{path}: unreadable; use another --out") from None
    flat = _flat(now)
    for key in sorted(set(before) | set(flat)):
        if before.get(key) != flat.get(key):
            raise UsageError(
                f"{out}: `{key}` was {before.get(key)} in this run and is now {flat.get(key)}; "
                "use another --out or the old value"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
