"""`ling eval needle`: needles over the length of the context and their depth in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .options import engine_flag, make_parser, naming_flags, say, use_threads


def needle(args: list[str]) -> int:
    """Measure a model, or train a small one first."""
    ns = _parser().parse_args(args)
    if (ns.model is None) == (ns.train is None):
        raise UsageError("eval needle: give either a MODEL or `--train OUT`")
    use_threads(ns.threads)
    return _train(ns) if ns.model is None else _measure(ns)


def _parser() -> Any:
    parser = make_parser("eval needle")
    parser.add_argument("model", type=str, nargs="?", default=None, help="model folder or name")
    parser.add_argument(
        "--train",
        type=str,
        default=None,
        help="instead of MODEL: train a small one into this folder (minutes), then measure it "
        "without YaRN and with factors 2, 4 and 8 at up to 8 times its length",
    )
    parser.add_argument(
        "--quick", action="store_true", help="with --train: up to 128 tokens, and fewer factors"
    )
    parser.add_argument("--lengths", type=str, default=None, help="tokens, such as 256,512,1024")
    parser.add_argument("--depths", type=str, default="0,0.25,0.5,0.75,1", help="0 is the start")
    parser.add_argument("--rows", type=int, default=40, help="rows of each length and depth")
    parser.add_argument(
        "--yarn", type=str, default=None, help="factors, such as 1,4; 1 is off (default: config's)"
    )
    parser.add_argument(
        "--text", type=str, nargs="+", default=None, help="prose to hide sentences in (else ids)"
    )
    parser.add_argument("--chat", action="store_true", help="ask in a chat (with --text)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the rows (with --train, also of the weights)"
    )
    parser.add_argument("--out", type=str, default=None, help="folder (default: runs/needle-MODEL)")
    engine_flag(parser, "format", help="pack weights at load: {formats}")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    return parser


def _measure(ns: Any) -> int:
    from ..eval.needle import NeedleOptions, needle

    if ns.quick:
        raise UsageError("eval needle: `--quick` is for `--train OUT`; give fewer `--rows`")
    if ns.lengths is None:
        raise UsageError("eval needle: name the lengths, such as `--lengths 256,512,1024`")
    with naming_flags("lengths", "depths", "yarn", "rows", "chat", "text"):
        options = NeedleOptions(
            lengths=_numbers("lengths", ns.lengths, int),
            depths=_numbers("depths", ns.depths, float),
            rows=ns.rows,
            yarn=(None,) if ns.yarn is None else _numbers("yarn", ns.yarn, float),
            seed=ns.seed,
            text=tuple(ns.text or ()),
            chat=ns.chat,
            format=ns.format,
        )
        out = Path(ns.out or f"runs/needle-{Path(ns.model).name}")
        result = needle(ns.model, out, options, _log(ns))
    _report(result, out, ns)
    return 0


def _train(ns: Any) -> int:
    from ..eval.needle_train import FULL, QUICK, train_and_measure

    parser = _parser()
    own = ("lengths", "depths", "rows", "yarn", "text", "chat", "out", "format")
    given = [name for name in own if getattr(ns, name) != parser.get_default(name)]
    if given:
        raise UsageError(
            "eval needle: `--train OUT` measures what it trains at lengths and factors of its own, "
            f"without `--{given[0]}`; for others run `ling eval needle OUT/model` afterwards"
        )
    out = Path(ns.train)
    code, result = train_and_measure(out, QUICK if ns.quick else FULL, ns.seed, _log(ns))
    if not code:
        _report(result, out, ns)
    return code


def _log(ns: Any) -> Callable[[str], None]:
    from ..train.progress import tell

    return (lambda _: None) if ns.json else tell


def _report(result: dict[str, Any], out: Path, ns: Any) -> None:
    from ..eval import needle_plot
    from ..eval.needle import lines

    picture = needle_plot.draw(result, out / needle_plot.PICTURE)
    where = f"picture: {picture}" if picture else "no picture: pip install 'ling[plot]'"
    say(result, ns.json, "\n".join([*lines(result), where]))


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"eval needle: `--{name}` is `{text}`, expected numbers with commas between them"
        ) from None
