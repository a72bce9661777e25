"""`ling plan`: what a recipe needs and how fast it goes, before anyone pays for a GPU."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.recipe import PretrainConfig
from ..config.recipe_file import find_recipe, kind_of, read_recipe, read_yaml
from ..config.sft import SFTConfig
from ..errors import UsageError
from ..presets import PRESETS
from .options import at_least_one
from .recipe_args import build_recipe, recipe_parser, with_recipe
from .sft import GivenRecipe

if TYPE_CHECKING:
    from ..config.kinds import Recipe
    from ..plan.constants import Calibration
    from ..plan.estimate import Estimate
    from ..plan.gpus import Gpu

# Rows of a preset's plan: there is no recipe that says how many.
_ROWS_PER_GPU, _SEQ_LENGTH, _BATCH = 16, 4096, "train.global_batch_size"


def plan(args: list[str]) -> None:
    name = args[0] if args and not args[0].startswith("-") else None
    kind = _kind(args, name)
    parser = _parser(kind)
    if "--published" in args:
        return _published(args)
    if name is None and not args:
        raise UsageError("plan: expected `ling plan RECIPE|PRESET --gpus N --gpu NAME`")
    if name in PRESETS:
        given, _ = with_recipe(_of_preset(args))
    else:
        given = _given(args, kind)
    ns = parser.parse_args(given)
    at_least_one("gpus", ns.gpus)
    if ns.price_per_gpu_hour is not None and not _is_price(ns.price_per_gpu_hour):
        raise UsageError(f"`--price-per-gpu-hour` is {ns.price_per_gpu_hour}, expected 0 or more")
    recipe = build_recipe(vars(parser.instantiate(ns)), kind)
    if name in PRESETS and not any(a.partition("=")[0] == f"--{_BATCH}" for a in args):
        recipe = _with_batch(recipe, ns.gpus or recipe.parallel.world)
    _show(ns, recipe, is_preset=name in PRESETS)


def _is_price(price: float) -> bool:
    return math.isfinite(price) and price >= 0


def _kind(args: list[str], name: str | None) -> type:
    """Of the recipe that is named: pre-training or fine-tuning."""
    from ..compat.llama_factory import is_llama_factory

    path = _given_config(args) or name
    if path is None or path in PRESETS:
        return PretrainConfig
    tree = read_yaml(find_recipe(path))
    return SFTConfig if is_llama_factory(tree) else kind_of(tree)


def _given_config(args: list[str]) -> str | None:
    """What `--config FILE` or `--config=FILE` says."""
    for n, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option == "--config":
            return value if equals else next(iter(args[n + 1 :]), None)
    return None


def _reader(kind: type) -> Callable[[Path, type], dict[str, Any]]:
    """What reads a file of the kind, LLaMA-Factory's too."""
    return GivenRecipe().read if kind is SFTConfig else read_recipe


def _given(args: list[str], kind: type) -> list[str]:
    """The arguments with the recipe in them. Those for fine-tuning of the package name no files,
    and none are read: what is given behind wins."""
    if kind is SFTConfig:
        args = ["--data.files=data", *(args if args[0].startswith("-") else ["--config", *args])]
    return with_recipe(args, kind, _reader(kind))[0]


def _parser(kind: type) -> Any:
    parser = recipe_parser("plan RECIPE", kind)
    parser.add_argument("--gpus", type=int, default=None, help="how many (default: the recipe's)")
    parser.add_argument(
        "--gpu",
        type=str,
        default="h100-80g",
        help="h100-80g, h800-80g, h20-96g, a100-80g, or cpu for this machine",
    )
    parser.add_argument("--search", action="store_true", help="find the best layouts")
    parser.add_argument(
        "--calibrate", type=str, default=None, help="constants that `scripts/gpu_check` measured"
    )
    parser.add_argument(
        "--price-per-gpu-hour", type=float, default=None, help="to tell what the tokens cost"
    )
    parser.add_argument(
        "--plot", type=str, default=None, help="picture of memory and pipeline (PNG)"
    )
    parser.add_argument(
        "--published", action="store_true", help="the published throughput beside what is planned"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _of_preset(args: list[str]) -> list[str]:
    """A preset as flags of a recipe; what the caller gives behind them wins."""
    from ..presets import preset

    length = min(_SEQ_LENGTH, preset(args[0]).max_position_embeddings)
    flags = {"model": args[0], "data.prefix": "data", "data.seq_length": length}
    flags["train.micro_batch_size"] = 1
    return [*(f"--{key}={value}" for key, value in flags.items()), *args[1:]]


def _published(args: list[str]) -> None:
    """The published table, for which there is no recipe."""
    from ..plan import published, table

    extra = [a for a in args if a not in ("--published", "--json")]
    if extra:
        raise UsageError(f"`--published` takes no other options than `--json`, not `{extra[0]}`")
    if "--json" not in args:
        print(table.published_page(), end="")
        return
    cells = [
        {**dataclasses.asdict(cell), "planned": published.planned(cell).tokens_per_s}
        for cell in published.CELLS
    ]
    errors = published.errors()
    summary = {"rms": published.rms(errors), "worst": max(map(abs, errors))}
    texts = {"assumptions": published.ASSUMPTIONS, "not_identifiable": published.NOT_IDENTIFIABLE}
    others = [
        {**dataclasses.asdict(other), "rms": published.rms(other.errors())}
        for other in published.OTHERS
    ]
    print(json.dumps({"cells": cells, **summary, **texts, "others": others}))


def _show(ns: Any, recipe: Recipe, *, is_preset: bool) -> None:
    from ..plan.estimate import as_json, check_fp8, check_method, estimate
    from ..plan.search import search
    from ..plan.table import flags, report, search_table

    gpus = ns.gpus or recipe.parallel.world
    gpu, calibration = _gpu(ns.gpu, gpus, ns.calibrate)
    cfg = _config(recipe)
    check_fp8(recipe, cfg, gpu)
    check_method(recipe, gpu)
    layouts: list[Estimate] = []
    no_layout = is_preset and gpus > 1 and recipe.parallel == type(recipe.parallel)()
    if ns.search or recipe.parallel.auto or no_layout:
        layouts = search(cfg, recipe, gpu, calibration.constants, gpus)
        if not layouts:
            raise UsageError(f"no layout of {gpus} ranks exists for this batch and model")
        found = layouts[0]
    else:
        _check_count(recipe, gpus)
        found = estimate(cfg, recipe, gpu, calibration.constants)
    if ns.plot:
        from ..plan.plot import draw

        draw(found, calibration.constants, Path(ns.plot))
    if ns.json:
        made = as_json(found) | {"measured": calibration.measured, "assumed": calibration.assumed}
        made["constants"] = dataclasses.asdict(calibration.constants)
        if ns.price_per_gpu_hour is not None and found.run_tokens():
            made["cost"] = ns.price_per_gpu_hour * found.gpu_hours()
        made["search"] = [as_json(e) for e in layouts[:20]]
        print(json.dumps(made))
        return
    if layouts:
        print(f"{search_table(layouts)}\n\nthe first: {flags(found)}\n")
    print(report(found, calibration, ns.price_per_gpu_hour, searched=bool(layouts)))


def _with_batch(recipe: PretrainConfig, gpus: int) -> PretrainConfig:
    train = dataclasses.replace(recipe.train, global_batch_size=_ROWS_PER_GPU * gpus)
    return dataclasses.replace(recipe, train=train)


def _check_count(recipe: Recipe, gpus: int) -> None:
    layout = recipe.parallel
    if layout.world == gpus:
        return
    rest = layout.world // layout.dp_shard
    fix = "`--search` finds a layout"
    if gpus % rest == 0 and gpus // rest % layout.ep == 0:
        fix = f"give `--parallel.dp_shard {gpus // rest}`, or {fix}"
    raise UsageError(f"`--gpus` is {gpus}, but `parallel` makes {layout.world} ranks; {fix}")


def _gpu(name: str, gpus: int, calibrate: str | None) -> tuple[Gpu, Calibration]:
    """The GPU and its constants, of a file where one is given; a CPU is measured."""
    from ..plan.constants import Calibration, read_calibration
    from ..plan.gpus import CPU_CONSTANTS, find_gpu

    if name == "cpu":
        from ..train.layout import this_cpu

        gpu, base = this_cpu(gpus), CPU_CONSTANTS
    else:
        gpu, base = find_gpu(name), Calibration().constants
    if calibrate is None:
        return gpu, Calibration(base)
    found = read_calibration(Path(calibrate), base)
    if found.gpu not in (None, name):
        raise UsageError(
            f"{calibrate}: measured on `{found.gpu}`, not on `{name}`; "
            f"plan with `--gpu {found.gpu}`"
        )
    return gpu, found


def _config(recipe: Recipe) -> Any:
    """The configuration of the recipe's model; the released models' without a download, and of one
    that is packed from them before it is made."""
    from ..hub.names import ORGANISATION
    from ..train.setup import model_config

    name = recipe.model
    bare = name.removeprefix(f"{ORGANISATION}/").lower()
    to_make = getattr(recipe, "method", None) == "qlora" and not Path(name).exists()
    shapes = [p for p in PRESETS if (bare != name.lower() or to_make) and _same(p, bare)]
    if shapes:
        recipe = dataclasses.replace(recipe, model=shapes[0])
    return model_config(recipe, needs_weights=False)


def _same(preset: str, name: str) -> bool:
    """Whether a released name has a preset's shape: `ling-mini-base-2.0-5t` that of
    `ling-mini-2.0`."""
    family = "-".join(preset.split("-")[:2])
    return (preset.startswith("ling-") and name.startswith(f"{family}-")) or name == preset
