"""Where the rows of a run come from: what a trainer asks of token files and conversations alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..data.samples import Samples
from ..data.tokenizer import Tokenizer
from .batches import BatchReader
from .state import TrainState

Log = Callable[[str], None]


@dataclass(frozen=True)
class HeldOutRows:
    """Rows for the held-out loss; as `heldout.loss_of_rows` takes them."""

    samples: Samples
    isolate_documents: bool
    trained_only: bool = False
    rows: int | None = None

    @property
    def count(self) -> int:
        """How many are scored."""
        return len(self.samples) if self.rows is None else min(self.rows, len(self.samples))


class RowSource(Protocol):
    """The rows of a run: row n is a function of its number, as long as `identity` is the same."""

    @property
    def recipe(self) -> Any:
        """The recipe with `train.steps`, of which epochs say how many only once data is open."""

    @property
    def names(self) -> list[str]:
        """Files, or a corpus, as the recipe names them."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What the rows were made with, if it is known; checkpoints get a copy."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration, with the special ids that it is trained on."""

    def identity(self) -> dict[str, Any]:
        """What decides which row comes when, by name; each checkpoint keeps it beside its position.

        It has `files` (hashes), `tokenizer` (a hash or None), `rows` (a list, which a source may
        use to keep the orders it laid out) and keys of the recipe.
        """

    def contents(self) -> dict[str, str]:
        """Hashes of what all ranks must have read alike, by what an error calls them."""

    def change(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """The first difference of two `identity`s in words; None: the position still counts."""

    def reader(self, state: TrainState) -> BatchReader:
        """Rows for all steps from `state` on; `state.data["rows"]` may note their orders."""

    def held_out(self) -> HeldOutRows | None:
        """The first `train.eval_rows` rows that are not trained on."""


def rows_needed(recipe: Recipe, state: TrainState) -> int:
    """Rows up to the last step, counted from the first of the data; those left out included."""
    left = recipe.train.rows(recipe.train.steps) - recipe.train.rows(state.step)
    left += sum(end - first for first, end in state.left_out if end > state.rows)
    return state.rows + left
