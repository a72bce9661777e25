"""`ling sft`: fine-tuning on conversations, or on pairs of answers, from a recipe."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.sft import SFTConfig
from .data_check import shown_sample
from .recipe_args import build_recipe, recipe_parser, run_options, with_recipe

if TYPE_CHECKING:
    from ..data.conversations.supervise import Supervised

# Samples that a dry run shows, and records that are read for them: some may be bad.
_DRY_RUN_SAMPLES, _RECORDS = 2, 16


def sft(args: list[str]) -> int:
    """Train, or with `--dry-run` say what would be trained."""
    from ..config.recipe import recipe_yaml

    parser = _parser()
    given = GivenRecipe()
    args, path = with_recipe(args, SFTConfig, given.read)
    # The parser's own flag would print this command's flags too, which are no keys of a recipe.
    only_print = "--print-config" in args
    parsed = parser.parse_args([a for a in args if a != "--print-config"])
    out = Path(parsed.out or given.out or f"runs/{path.stem if path else 'sft'}")
    recipe: SFTConfig = build_recipe(vars(parser.instantiate(parsed)), SFTConfig)
    if only_print:
        print(recipe_yaml(recipe), end="")
        return 0
    if parsed.dry_run:
        _dry_run(recipe, out)
        return 0
    from ..finetune import finetune

    return finetune(recipe, out, allow_data_reset=parsed.allow_data_reset)


@dataclass
class GivenRecipe:
    """The file that was named: a recipe, or a training file of LLaMA-Factory, which names the
    folder of the run, too."""

    out: str | None = None

    def read(self, path: Path, kind: type) -> dict[str, Any]:
        """The keys of a recipe; what of the other program's file is read otherwise is told."""
        from ..compat.llama_factory import is_llama_factory, read_llama_factory
        from ..config.recipe_file import check_keys, read_yaml

        tree = read_yaml(path)
        if not is_llama_factory(tree):
            return check_keys(tree, path, kind)
        found = read_llama_factory(path)
        self.out = found.out
        for note in found.notes:
            print(f"{path}: {note}", file=sys.stderr)
        return asdict(found.recipe)


def _parser() -> Any:
    """Reads a recipe, its overrides, and the flags of `sft` that are no keys of one."""
    parser = recipe_parser("sft RECIPE", SFTConfig)
    run_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show data, steps, what is trained, memory and the first samples, and stop",
    )
    return parser


def _dry_run(recipe: SFTConfig, out: Path) -> None:
    from ..train.dry_run import dry_run
    from ..train.parallel.group import leads

    if not leads():
        return
    dry_run(recipe, out)
    has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(f"first samples, what is trained {'in colour' if has_colours else 'in [[...]]'}:")
    for head, sample in itertools.islice(_samples(recipe), _DRY_RUN_SAMPLES):
        print(f"\n{shown_sample(head, sample, has_colours)}")


def _samples(recipe: SFTConfig) -> Iterator[tuple[str, Supervised]]:
    """The first samples as the run renders them, each with where its record is."""
    from ..data.conversations.batches import Supervisor
    from ..data.conversations.check import Check
    from ..data.conversations.records import read_records
    from ..data.conversations.template import open_template
    from ..train.chat_rows import open_tokenizer
    from ..train.setup import model_config

    cfg, data = model_config(recipe), recipe.data
    tokenizer = open_tokenizer(recipe, cfg)
    template = open_template(data.template, tokenizer)
    supervisor = Supervisor(template, tokenizer, cfg.vocab_size, data.thinking, data.split_turns)
    first = itertools.islice(read_records(data), _RECORDS)
    for checked in Check(replace(data, skip_bad=True), supervisor).records(first):
        for name, sample in checked.sides:
            yield f"{checked.record.origin} {name}".strip(), sample
