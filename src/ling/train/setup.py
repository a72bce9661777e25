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

from ..checkpoint.open import config_at
from ..checkpoint.run_folder import run_index_folder
from ..config.model import ModelConfig
from ..config.recipe import PretrainConfig
from ..data.index_files import IndexFolder
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..hub import resolve_model
from ..ops import fp8_choice
from ..plan.layouts import check_fp8_sizes, check_layout
from ..plan.stages import described, stage_layers
from ..presets import PRESETS, preset
from ..text import nearest
from .batches import BatchReader
from .device import choose_device
from .memory import MemoryReport
from .moments import change as moments_change
from .network import build_network
from .newest import newest
from .objectives.base import Objective
from .objectives.pretrain import Pretraining
from .optim import build_optimizer
from .orders import Opening
from .parallel.apply import parallelise
from .parallel.group import ALONE, World
from .parallel.mesh import make_meshes
from .parallel.reduce import OverRanks
from .resume import check_start, data_change, data_state, fingerprints, rows_before, start_of
from .rollback import forget, forget_rows, read_rollbacks, restore
from .run_data import Log, RunData, fills_a_row, open_data
from .state import TrainState, load, read_progress
from .step import ONE_RANK, Reduce


@dataclass
class Run:
    """A run that is set up: what trains, on what, and where its files are."""

    recipe: PretrainConfig
    out: Path
    log: Log
    state: TrainState
    objective: Objective
    reader: BatchReader
    valid_prefixes: list[str]
    reduce: Reduce
    open_reader: Callable[[], BatchReader]
    """A reader of the rows that `state` needs from now on."""
    memory: MemoryReport


def setup(
    recipe: PretrainConfig,
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
    data = world.first(lambda: open_data(recipe, cfg, out, log))
    cfg = _with_special_ids(cfg, data.tokenizer)
    meshes = None if world.size == 1 else make_meshes(recipe.parallel, device.type, world)
    if recipe.parallel.pp > 1:
        log(described(stage_layers(recipe.parallel, cfg, recipe.data.seq_length), cfg))

    memory = MemoryReport(recipe, device, world)
    memory.tell(cfg, log)

    def build() -> TrainState:
        spread = partial(parallelise, recipe, meshes)
        network = build_network(recipe, cfg, device, spread)
        state = TrainState(
            network, build_optimizer(network.ling, recipe.optim), device, world, data.tokenizer
        )
        state.data = data_state(recipe, data.train_prefixes, data.tokenizer)
        state.start = start_of(recipe.model)
        return state

    state = world.together(build)
    require_same(world, state, data)
    found = newest(world, out, log)
    world.together(
        lambda: _resume(recipe, out, log, state, data.train_prefixes, allow_data_reset, found)
    )
    open_reader = partial(_open_reader, recipe, data, cfg.vocab_size, state, out, log)
    reader = world.first(open_reader)
    objective = Pretraining(recipe.train.mtp_loss_weight, recipe.train.z_loss_coef)
    reduce = ONE_RANK if meshes is None else OverRanks(meshes)
    valid = [p for p in data.valid_prefixes if fills_a_row(p, recipe.data, log)]
    return Run(recipe, out, log, state, objective, reader, valid, reduce, open_reader, memory)


def _checked_config(recipe: PretrainConfig, world: World) -> ModelConfig:
    cfg = model_config(recipe)
    check_fp8_sizes(recipe.train, cfg)
    check_layout(recipe.parallel, recipe.train, cfg, world.size)
    return cfg


def require_same(world: World, state: TrainState, data: RunData) -> None:
    """End all ranks unless they read the same bytes; the line names the files that differ."""
    if world.size == 1:
        return
    held_out = [p for p in data.valid_prefixes if p not in data.train_prefixes]
    contents = [*state.data["files"], *world.together(lambda: fingerprints(held_out))]
    for prefix, content in zip([*data.train_prefixes, *held_out], contents, strict=True):
        world.same(f"content of {prefix}.bin or .idx", content)
    world.same("tokenizer", state.data["tokenizer"])
    world.same("`model` (weights or configuration)", state.start)
    world.same("order of the data", state.data)


# ---- config ------------------------------------------------------------------------------------


def model_config(recipe: PretrainConfig) -> ModelConfig:
    """The configuration of `model` with `model_overrides`."""
    name, overrides = recipe.model, recipe.model_overrides
    # A bare word that is no folder is a preset, misspelled at worst; a name with `/` is a
    # hub's.
    is_preset = name in PRESETS or ("/" not in name and not Path(name).exists())
    folder = None if is_preset else resolve_model(name)
    cfg = preset(name) if folder is None else config_at(folder)
    known = [f.name for f in dataclasses.fields(ModelConfig)]
    for key in sorted(set(overrides) - set(known)):
        raise UsageError(
            f"`model_overrides.{key}` is not a field of config.json{nearest(key, known)}"
        )
    cfg = cfg.replace(**overrides) if overrides else cfg
    if recipe.data.seq_length > cfg.max_position_embeddings:
        raise UsageError(
            f"`data.seq_length` = {recipe.data.seq_length} is above the model's "
            f"`max_position_embeddings` = {cfg.max_position_embeddings}"
        )
    return cfg


def _with_special_ids(cfg: ModelConfig, tokenizer: Tokenizer | None) -> ModelConfig:
    """Take the special ids of the tokenizer."""
    eod = None if tokenizer is None else tokenizer.eod_token_id
    if tokenizer is None or eod is None:
        return cfg
    bos = tokenizer.token_to_id("<|startoftext|>")
    return cfg.replace(eos_token_id=eod, pad_token_id=eod, bos_token_id=eod if bos is None else bos)


def _open_reader(
    recipe: PretrainConfig, data: RunData, vocab_size: int, state: TrainState, out: Path, log: Log
) -> BatchReader:
    """Rows for all steps; `state.data` notes the orders that they come in."""
    left = recipe.train.rows(recipe.train.steps) - recipe.train.rows(state.step)
    left += sum(end - first for first, end in state.left_out if end > state.rows)
    opening = Opening(
        data.train_prefixes,
        recipe.data,
        recipe.train.seed,
        data.eod,
        vocab_size,
        contents=state.data["files"],
        index=IndexFolder(run_index_folder(out), log),
        log=log,
    )
    samples, state.data["rows"] = opening.orders(state.data["rows"], state.rows + left)
    files = ", ".join(data.train_prefixes)
    return BatchReader(samples, recipe.data.isolate_documents, vocab_size, files)


# ---- resume ------------------------------------------------------------------------------------


def _resume(
    recipe: PretrainConfig,
    out: Path,
    log: Log,
    state: TrainState,
    prefixes: list[str],
    allow_data_reset: bool,
    found: Path | None,
) -> None:
    """Take up the checkpoint `found`, if any; its position counts in its own data only."""
    if found is None:
        if state.world.leads:
            forget(out)
        return
    before = read_progress(found)
    check_start(before, state.start, recipe.model, out)
    change = data_change(before["data"], state.data, prefixes)
    if change and not allow_data_reset:
        raise UsageError(
            f"{out}: {change}; go back to what it was, use another --out, or start the "
            "data again under these weights with --allow-data-reset"
        )
    load(found, state)
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
