"""`ling scaling predict`: the published laws at a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.checks import at_least
from ..errors import UsageError
from .options import at_least_one, make_parser, say

if TYPE_CHECKING:
    from ..config.model import ModelConfig
    from ..scaling.predict import Target

_SEQ_LENGTH = 4096
# Beyond it products of the laws leave the range of floats.
_MOST = 1e40


def predict(args: list[str]) -> None:
    ns = _parser().parse_args(args)
    _check(ns)
    from ..scaling.predict import predict as predicted
    from ..scaling.predict import report

    target = _target(ns)
    longest = target.config.max_position_embeddings if target.config else _SEQ_LENGTH
    found = predicted(target, ns.seq_length or min(_SEQ_LENGTH, longest), ns.flops, ns.tokens)
    say(found, ns.json, report(found))


def _parser() -> Any:
    parser = make_parser("scaling predict")
    parser.add_argument(
        "model",
        type=str,
        nargs="?",
        default=None,
        help="preset, checkpoint of any kind or hub name",
    )
    parser.add_argument(
        "--flops", type=float, default=None, help="training FLOPs, embedding and head not counted"
    )
    parser.add_argument(
        "--tokens",
        type=float,
        default=None,
        help="with MODEL in place of --flops; without, a choice to compare with the optimum",
    )
    parser.add_argument(
        "--activation-ratio",
        type=float,
        default=None,
        help="A, without MODEL: (experts of a token + shared) / all experts (default: 0.031)",
    )
    parser.add_argument(
        "--granularity",
        type=float,
        default=None,
        help="G, without MODEL: 2 x hidden size / expert width (default: 12; the law has its log2)",
    )
    parser.add_argument(
        "--seq-length", type=int, default=None, help="tokens of a row (default: at most 4096)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _check(ns: Any) -> None:
    for name in ("flops", "tokens", "granularity"):
        if getattr(ns, name) is not None:
            at_least(f"--{name}", getattr(ns, name), 1)
            if getattr(ns, name) > _MOST:
                raise UsageError(f"`--{name}` is {getattr(ns, name)}, expected at most {_MOST}")
    at_least_one("seq_length", ns.seq_length)
    ratio = ns.activation_ratio
    if ratio is not None and not 0 < ratio <= 1:
        raise UsageError(f"`--activation-ratio` is {ratio}, expected a number above 0, at most 1")
    if ns.model is None and ns.flops is None:
        raise UsageError("give `--flops`, or a model and `--tokens`")
    if ns.model is None:
        return
    if (ns.flops is None) == (ns.tokens is None):
        raise UsageError("of a model give `--flops` or `--tokens`: each follows from the other")
    if ratio is not None or ns.granularity is not None:
        raise UsageError(
            f"`{ns.model}` has its own activation ratio and granularity; "
            "leave out `--activation-ratio` and `--granularity`"
        )


def _target(ns: Any) -> Target:
    from ..scaling.predict import Target, target_of

    if ns.model is not None:
        return target_of(ns.model, _config(ns.model))
    given = {name: getattr(ns, name) for name in ("activation_ratio", "granularity")}
    return Target(**{name: value for name, value in given.items() if value is not None})


def _config(model: str) -> ModelConfig:
    from ..checkpoint.open import config_at
    from ..hub import resolve_model
    from ..presets import PRESETS, preset

    # A bare word that is no folder is a preset, misspelled at worst; a name with `/` is a hub's.
    if model in PRESETS or ("/" not in model and not Path(model).exists()):
        return preset(model)
    return config_at(resolve_model(model, only="config.json"))
