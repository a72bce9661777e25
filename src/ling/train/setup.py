"""From a recipe to a run that can take its next step, in an order that sharding depends on.

config → data → model without storage → parallelise → materialise or load → optimizer → resume →
samples. The optimizer comes after `parallelise`: it would otherwise hold parameters that sharding
has replaced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..checkpoint.open import config_at, holds_weights
from ..checkpoint.run_folder import keep
from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.sft import SFTConfig
from ..errors import UsageError
from ..hub import resolve_model
from ..ops import fp8_choice
from ..plan.layouts import check_fp8_sizes, check_layout
from ..plan.stages import described, stage_layers
from ..presets import PRESETS, preset
from ..text import nearest
from .adapt import keeps_base, trained_table
from .batches import BatchReader
from .chat_rows import ChatRows
from .device import choose_device
from .forward import LingForTraining
from .heldout import Measure, token_loss
from .memory import MemoryReport
from .moments import change as moments_change
from .network import build_network
from .newest import newest
from .objectives.base import Objective
from .objectives.dpo import Preferences
from .objectives.pretrain import Pretraining
from .objectives.sft import FineTuning
from .optim import build_optimizer
from .packed.place import check_packed
from .parallel.apply import parallelise
from .parallel.group import ALONE, World
from .parallel.mesh import make_meshes
from .parallel.reduce import OverRanks
from .resume import check_start, check_steps, rows_before, start_of
from .rollback import forget, forget_rows, read_rollbacks, restore
from .rows import HeldOutRows, Log, RowSource
from .state import TrainState, load, read_progress
from .step import ONE_RANK, Reduce
from .token_rows import TokenRows


@dataclass
class Run:
    """A run that is set up: what trains, on what, and where its files are."""

    recipe: Recipe
    out: Path
    log: Log
    state: TrainState
    objective: Objective
    rows: RowSource
    reader: BatchReader
    held_out: HeldOutRows | None
    reduce: Reduce
    open_reader: Callable[[], BatchReader]
    """A reader of the rows that `state` needs from now on."""
    memory: MemoryReport
    measure: Measure = token_loss
    """What the held-out rows are measured by."""


def setup(
    recipe: Recipe,
    out: Path,
    log: Log,
    *,
    allow_data_reset: bool = False,
    world: World = ALONE,
) -> Run:
    """Open data and model, and take up the newest checkpoint of `out`.

    Ranks meet between the stages, not in them: an error of one ends all (`World.together`).
    """
    device = world.together(lambda: choose_device(recipe.train.device))
    world.same("kind of device (`train.device`)", device.type)
    if recipe.train.fp8 != "off":
        choice = world.together(lambda: fp8_choice.choose(device, recipe.train.fp8_products))
        log(f"FP8 products: {choice}")
    torch.manual_seed(recipe.train.seed)
    # Before the data: reading a corpus takes longest.
    cfg = world.together(lambda: _checked_config(recipe, world))
    rows = world.first(lambda: open_rows(recipe, cfg, out, log))
    recipe, cfg = rows.recipe, rows.config
    world.together(lambda: check_steps(recipe, out))
    meshes = None if world.size == 1 else make_meshes(recipe.parallel, device.type, world)
    if recipe.parallel.pp > 1:
        log(described(stage_layers(recipe.parallel, cfg, recipe.data.seq_length), cfg))

    if isinstance(recipe, SFTConfig):
        log("\n".join(world.together(lambda: trained_table(recipe, cfg))))
    memory = MemoryReport(recipe, device, world)
    memory.tell(cfg, log)

    def build() -> TrainState:
        spread = partial(parallelise, recipe, meshes)
        network = build_network(recipe, cfg, device, spread)
        optimizer = build_optimizer(network.ling, recipe.optim)
        state = TrainState(network, optimizer, device, world, rows.tokenizer)
        state.data = rows.identity()
        state.start = start_of(recipe.model, is_weights=isinstance(recipe, SFTConfig))
        state.base = recipe.model if keeps_base(recipe) else None
        return state

    state = world.together(build)
    require_same(world, state, rows)
    found = newest(world, out, log)
    world.together(lambda: _resume(recipe, out, log, state, rows, allow_data_reset, found))
    open_reader = partial(rows.reader, state)
    reader = world.first(open_reader)
    objective = objective_of(recipe, state.network, rows)
    measure = objective.measure if isinstance(objective, Preferences) else token_loss
    reduce = ONE_RANK if meshes is None else OverRanks(meshes)
    held_out = world.together(rows.held_out)
    return Run(
        *(recipe, out, log, state, objective, rows, reader, held_out, reduce, open_reader, memory),
        measure,
    )


def open_rows(recipe: Recipe, cfg: ModelConfig, out: Path, log: Log) -> RowSource:
    """Open the data of a recipe of either kind, prepared into the run folder where need be."""
    if isinstance(recipe, SFTConfig):
        return ChatRows(recipe, cfg, out, log)
    return TokenRows(recipe, cfg, out, log)


def early_stop(recipe: Recipe) -> int:
    """After how many measurements without a better one a run ends; 0 where it never does."""
    return recipe.train.early_stop if isinstance(recipe, SFTConfig) else 0


def objective_of(recipe: Recipe, network: LingForTraining, rows: RowSource) -> Objective:
    """What the recipe minimises."""
    train = recipe.train
    if not isinstance(recipe, SFTConfig):
        return Pretraining(train.mtp_loss_weight, train.z_loss_coef)
    z_coef = train.z_loss_coef if recipe.train.train_router else None
    if isinstance(rows, ChatRows) and recipe.objective == "dpo":
        return Preferences(recipe.dpo, rows.pairs, z_coef)
    return FineTuning(train.mtp_loss_weight, z_coef, network.num_mtp_layers)


def _checked_config(recipe: Recipe, world: World) -> ModelConfig:
    cfg = model_config(recipe)
    check_fp8_sizes(recipe.train, cfg)
    check_layout(recipe.parallel, recipe.train, cfg, world.size)
    if isinstance(recipe, SFTConfig):
        check_packed(recipe)
    return cfg


def require_same(world: World, state: TrainState, rows: RowSource) -> None:
    """End all ranks unless they read the same bytes; the line names the files that differ."""
    if world.size == 1:
        return
    for what, content in world.together(rows.contents).items():
        world.same(what, content)
    world.same("tokenizer", state.data["tokenizer"])
    world.same("`model` (weights or configuration)", state.start)
    world.same("order of the data", state.data)


# ---- config ------------------------------------------------------------------------------------


def model_config(recipe: Recipe, *, needs_weights: bool = True) -> ModelConfig:
    """The configuration of `model` with `model_overrides`; to be fine-tuned it needs weights."""
    name, overrides = recipe.model, recipe.model_overrides
    tunes = isinstance(recipe, SFTConfig) and needs_weights
    cfg = _tuned_config(recipe) if tunes else _shape(name)
    known = [f.name for f in dataclasses.fields(ModelConfig)]
    for key in sorted(set(overrides) - set(known)):
        raise UsageError(
            f"`model_overrides.{key}` is not a field of config.json{nearest(key, known)}"
        )
    cfg = cfg.replace(**overrides) if overrides else cfg
    if recipe.data.seq_length > cfg.max_position_embeddings:
        raise UsageError(
            f"`data.seq_length` = {recipe.data.seq_length} is above the model's "
            f"`max_position_embeddings` = {cfg.max_position_embeddings}: set it to that or less"
        )
    return cfg


def _shape(name: str) -> ModelConfig:
    # A bare word that is no folder is a preset, misspelled at worst; a name with `/` is a
    # hub's.
    is_preset = name in PRESETS or ("/" not in name and not Path(name).exists())
    return preset(name) if is_preset else config_at(resolve_model(name))


def _tuned_config(recipe: Recipe) -> ModelConfig:
    """Of a model that has weights: there is nothing to fine-tune in a shape."""
    folder = resolve_model(recipe.model)
    if not holds_weights(folder):
        raise UsageError(
            f"{recipe.model}: a configuration without weights; fine-tuning needs a checkpoint"
        )
    return config_at(folder)


# ---- resume ------------------------------------------------------------------------------------


def _resume(
    recipe: Recipe,
    out: Path,
    log: Log,
    state: TrainState,
    rows: RowSource,
    allow_data_reset: bool,
    found: Path | None,
) -> None:
    """Take up the checkpoint `found`, if any; its position counts in its own data only."""
    if found is None:
        if state.world.leads:
            forget(out)
            keep(out, None)
        return
    before = read_progress(found)
    check_start(before, state.start, recipe.model, out)
    change = rows.change(before["data"], state.data)
    if change and not allow_data_reset:
        raise UsageError(
            f"{out}: {change}; go back to what it was, use another --out, or start the "
            "data again under these weights with --allow-data-reset"
        )
    load(found, state)
    if state.ended != early_stop(recipe):  # asked for another one: the run goes on
        state.ended = 0
    moments = moments_change(before, state.optimizer)
    if moments:
        log(moments)
    if change is None:
        state.data["rows"] = rows_before(before["data"], out)
        restore(out, state)
    else:
        state.rows = 0
        if state.world.leads:
            forget_rows(out)
        state.rollbacks = len(read_rollbacks(out))
        log(f"{change}: the data starts again, weights and optimizer are kept")
