"""The pretraining loop: batch → loss → backward → step → balance → log → save."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.hf.config import read_config
from ..checkpoint.hf.folder import refuse_checkpoint
from ..checkpoint.load import load_model
from ..checkpoint.run_folder import locked, newest, prune
from ..config.model import ModelConfig
from ..config.recipe import PretrainConfig
from ..data.indexed import IndexedDataset
from ..data.prepare import prepare
from ..data.tokenizer import Tokenizer
from ..errors import DataError, RunError, UsageError
from ..files.atomic import make_folder
from ..hub import resolve_model
from ..model.ling import Ling, from_config
from ..model.size import flops_per_token, parameter_counts
from ..presets import PRESETS, preset
from ..text import nearest
from . import balance, state
from .batches import Batch, make_batch, open_samples, run_data_folder
from .heldout import HeldOut, held_out_loss
from .log import MetricsLog
from .objectives.pretrain import compute_losses
from .optim import build_optimizer, learning_rate
from .plots import draw
from .progress import Progress, gemm_peak
from .state import check_recipe, data_change, data_state, save_recipe

Log = Callable[[str], None]
PEAK_INTERVAL_STEPS = 50


def run(
    recipe: PretrainConfig, out: Path, log: Log = print, *, allow_data_reset: bool = False
) -> int:
    """Train until `train.steps`, or continue a run; returns the exit code.

    0 when done (also when it was done before), 130 or 143 after a signal, once saved. Raises
    `UsageError` for a changed recipe or a folder in use, `RunError` for repeated non-finite steps.
    With `allow_data_reset` other data, seed, batch or world size are no error: the data starts
    anew under the weights and optimizer of the run.
    """
    with locked(out):
        check_recipe(recipe, out)
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        return Trainer(recipe, out, log, allow_data_reset=allow_data_reset).run()


class Trainer:
    """State of one run. Parallelism is applied from outside, to `model`, before `run`."""

    def __init__(
        self, recipe: PretrainConfig, out: Path, log: Log, *, allow_data_reset: bool = False
    ) -> None:
        self.recipe, self.out, self.log = recipe, out, log
        self.allow_data_reset = allow_data_reset
        self.tokenizer: Tokenizer | None = None
        self.eod: int | None = None
        torch.manual_seed(recipe.train.seed)
        cfg = self._model_config()  # before the data: reading a corpus takes longest
        self._open_data(cfg)
        self.model = self._build_model(cfg)
        self._open_samples()
        self.optimizer = build_optimizer(self.model, recipe.optim)
        self.steps_done = self.nonfinite = 0
        self.rows = self.tokens = 0  # `rows` is the position in the data, which may start anew
        self.caught: int | None = None

    # ---- set-up --------------------------------------------------------------------------------

    def _open_data(self, cfg: ModelConfig) -> None:
        data = self.recipe.data
        if data.tokenizer:
            self._use_tokenizer(data.tokenizer, cfg)
        elif data.corpus and data.vocab_size > cfg.vocab_size:
            raise UsageError(
                f"`data.vocab_size` = {data.vocab_size} is above the model's `vocab_size` = "
                f"{cfg.vocab_size}"
            )
        train, valid = list(data.prefix), list(data.valid_prefix)
        if data.corpus:
            ready = prepare(
                data.corpus if data.corpus == "stdlib" else [data.corpus],
                run_data_folder(self.out),
                tokenizer=data.tokenizer,
                vocab_size=data.vocab_size,
                max_bytes=data.corpus_bytes,
                json_key=data.json_key,
                log=self.log,
            )
            train, valid = [str(ready.train_prefix)], [str(ready.valid_prefix)]
            self._use_tokenizer(str(ready.tokenizer_folder), cfg)
        self.train_prefixes = train
        self.valid_prefixes = [p for p in valid if self._long_enough(p)]

    def _use_tokenizer(self, folder: str, cfg: ModelConfig) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        self.eod = self.tokenizer.eod_token_id
        if self.tokenizer.vocab_size > cfg.vocab_size:
            raise UsageError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the model `vocab_size` = "
                f"{cfg.vocab_size}; use a smaller tokenizer or a larger model"
            )

    def _long_enough(self, prefix: str) -> bool:
        """Whether held-out data fills a row; says so when it does not."""
        tokens = IndexedDataset(prefix).num_tokens
        if tokens <= self.recipe.data.seq_length:
            self.log(f"{prefix}: {tokens} tokens are less than a row, no held-out loss")
        return tokens > self.recipe.data.seq_length

    def _open_samples(self) -> None:
        cfg = self.recipe
        if cfg.data.isolate_documents and self.eod is None:
            raise UsageError(
                "`data.isolate_documents` needs `data.tokenizer`: its end-of-document token is "
                "the border"
            )
        self.samples = open_samples(
            self.train_prefixes,
            cfg.data,
            rows=cfg.train.steps * cfg.train.global_batch_size,
            seed=cfg.train.seed,
            eod=self.eod,
            vocab_size=self.model.config.vocab_size,
        )
        self.data = data_state(cfg, self.train_prefixes)

    def _model_config(self) -> ModelConfig:
        name, overrides = self.recipe.model, self.recipe.model_overrides
        # A bare word that is no folder is a preset, misspelled at worst; a name with `/` is a
        # hub's.
        is_preset = name in PRESETS or ("/" not in name and not Path(name).exists())
        folder = None if is_preset else resolve_model(name)
        cfg = preset(name) if folder is None else read_config(folder)
        if folder is not None and not any(folder.glob("*.safetensors")):
            refuse_checkpoint(folder)  # its config alone would be taken, with random weights
        known = [f.name for f in dataclasses.fields(ModelConfig)]
        for key in sorted(set(overrides) - set(known)):
            raise UsageError(
                f"`model_overrides.{key}` is not a field of config.json{nearest(key, known)}"
            )
        cfg = cfg.replace(**overrides) if overrides else cfg
        if self.recipe.data.seq_length > cfg.max_position_embeddings:
            raise UsageError(
                f"`data.seq_length` = {self.recipe.data.seq_length} is above the model's "
                f"`max_position_embeddings` = {cfg.max_position_embeddings}"
            )
        return cfg

    def _build_model(self, cfg: ModelConfig) -> Ling:
        """Random weights, or those of the folder that `model` names."""
        name = self.recipe.model
        model = from_config(self._special_ids(cfg), seed=self.recipe.train.seed)
        folder = None if name in PRESETS else resolve_model(name)
        if folder is not None and any(folder.glob("*.safetensors")):
            try:
                model.load_state_dict(load_model(folder, dtype="float32").state_dict(), assign=True)
            except RuntimeError:
                raise UsageError(
                    f"`model_overrides` may not change the shapes of the weights in {name}"
                ) from None
        model.compute_dtype = torch.bfloat16 if self.recipe.train.dtype == "bfloat16" else None
        return model.train()

    def _special_ids(self, cfg: ModelConfig) -> ModelConfig:
        """Take the special ids of the tokenizer."""
        if self.tokenizer is None or self.eod is None:
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
        self._resume()
        # Only now: a recipe that could not start must not stand in the way of a better one.
        save_recipe(cfg, self.out)
        if self.steps_done >= cfg.train.steps:
            self.log(f"{self.out}: already done ({self.steps_done} steps)")
            # A run may be killed between its last step and its picture.
            return 0 if (self.out / "loss.png").exists() else self._draw()
        if self.steps_done:
            self.log(f"resuming {self.out} after step {self.steps_done}")
        counts = parameter_counts(self.model.config)
        self.log(
            f"{cfg.model}: {counts['total'] / 1e6:.1f}M parameters, "
            f"{counts['active'] / 1e6:.1f}M active per token"
        )
        self.peak = 0.0
        self._measure_peak()
        metrics = MetricsLog(self.out, self.steps_done + 1)
        bar = Progress(cfg.train.steps, self.steps_done)
        restore = self._catch_signals()
        try:
            self._loop(metrics, bar)
        finally:
            restore()
            metrics.close()
            bar.close()
        if self.caught is not None:
            self.log(
                f"stopped after step {self.steps_done}, saved; the same command goes on from here"
            )
            return 128 + self.caught
        return self._draw()

    def _resume(self) -> None:
        """Take up the newest checkpoint, if any; its position counts in its own data only."""
        found = newest(self.out, self.log)
        if found is None:
            return
        progress = state.load(found, self.model, self.optimizer)
        self.steps_done, self.tokens = progress["step"], progress["tokens"]
        self.rows = progress["rows"]
        change = data_change(progress["data"], self.data, self.train_prefixes)
        if change is None:
            return
        if not self.allow_data_reset:
            raise UsageError(
                f"{self.out}: {change}; go back to what it was, use another --out, or start the "
                "data anew under these weights with --allow-data-reset"
            )
        self.rows = 0
        self.log(f"{change}: the data starts anew, weights and optimizer are kept")

    def _draw(self) -> int:
        for path in draw(self.out, self.out.name):
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
            batch = self._batch(self.rows + micro * cfg.micro_batch_size)
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
        self.rows += cfg.global_batch_size
        self.tokens += tokens
        seconds = time.perf_counter() - start
        rate = tokens / seconds
        flops = flops_per_token(self.model.config, self.recipe.data.seq_length)
        return {
            "step": step,
            "loss": sums["loss"],
            "mtp_loss": sums["mtp_loss"] if self.model.config.num_nextn_predict_layers else None,
            "z_loss": sums["z_loss"],
            "tokens": self.tokens,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_s": rate,
            "mfu": rate * flops / self.peak,
            "load_max_mean": balance.load_imbalance(counts),
            "expert_load": {str(layer): c.tolist() for layer, c in counts.items()},
            "skipped": self.nonfinite,
        }

    def _batch(self, first: int) -> Batch:
        """The micro-batch of rows from `first`; raises `DataError` for ids without a row."""
        rows = [self.samples[i] for i in range(first, first + self.recipe.train.micro_batch_size)]
        batch = make_batch(rows, self.eod if self.recipe.data.isolate_documents else None)
        top = max(int(batch.tokens_BS.max()), int(batch.labels_BS.max()))
        if top >= self.model.config.vocab_size:
            raise DataError(
                f"token id {top} is outside the vocabulary of {self.model.config.vocab_size}",
                path=", ".join(self.train_prefixes),
            )
        return batch

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
        prune(self.out, 0)
        folder = self.out / "checkpoints" / f"step-{self.steps_done}"
        # Only a damaged checkpoint, passed over at resume, can be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        progress = {
            "step": self.steps_done,
            "rows": self.rows,
            "tokens": self.tokens,
            "data": self.data,
        }
        if self.tokenizer is not None:  # first: a checkpoint without it could not be used
            self.tokenizer.save(make_folder(self.out / "tokenizer"))
        state.save(folder, self.model, self.optimizer, progress)
        prune(self.out, self.recipe.checkpoint.keep_last)

    def _catch_signals(self) -> Callable[[], None]:
        """SIGINT and SIGTERM end the loop after the current step; returns what undoes this."""

        def note(number: int, frame: object) -> None:
            self.caught = number

        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore
