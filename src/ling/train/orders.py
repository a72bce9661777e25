"""From the prefixes of a recipe to the order of its rows: mixtures, epochs, orders one behind the
other, and what a run says of them before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..config.recipe import DataConfig
from ..data.index_files import IndexFolder
from ..data.indexed import IndexedDataset
from ..data.mixture import Mixture
from ..data.samples import GPTSamples, Sample, Samples, split_part
from ..data.whole_documents import WholeDocuments
from ..errors import DataError, UsageError

# Token files up to this size are read once before the first step, to find ids without a row;
# of larger ones every batch is checked.
SCAN_TOKENS = 1 << 28

Source = GPTSamples | WholeDocuments


@dataclass(frozen=True)
class OneAfterAnother:
    """The rows of several orders, the next where the one before ends."""

    parts: Sequence[Samples]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: int) -> Sample:
        for part in self.parts:
            if i < len(part):
                return part[i]
            i -= len(part)
        raise IndexError(i)


@dataclass(frozen=True)
class Order:
    """Rows of one or several sources, laid out for one number of rows."""

    sources: list[Source]
    rows: Source | Mixture

    def taken(self, count: int) -> list[int]:
        """How many of the first `count` rows come from each source."""
        count = min(count, len(self.rows))
        return self.rows.taken(count) if isinstance(self.rows, Mixture) else [count]

    def epochs(self, count: int) -> list[float]:
        """How often the first `count` rows read each source."""
        taken = self.taken(count)
        return [s.epochs_of(n) for s, n in zip(self.sources, taken, strict=True)]


@dataclass(frozen=True)
class Opening:
    """Opens the orders of a run. `contents` are hashes of what the files of each prefix have; with
    them the orders are kept in `index`.

    Raises `DataError` for unusable data, `UsageError` for fewer rows than are needed.
    """

    prefixes: Sequence[str]
    cfg: DataConfig
    seed: int
    eod: int | None
    vocab_size: int
    contents: Sequence[str] | None = None
    index: IndexFolder = field(default_factory=IndexFolder)
    log: Callable[[str], None] = lambda _: None

    def orders(self, laid_out: Sequence[int], needed: int) -> tuple[Samples, list[int]]:
        """Samples in orders laid out for these numbers of rows, and in one more if `needed` rows
        are more.

        Megatron's order depends on the number of rows in all. A run whose steps were changed later
        keeps its first order and continues in another one behind it, so that rows read stay those
        read.
        """
        datasets, rows = self._datasets(), list(laid_out)
        orders: list[Order] = []
        for count in rows:
            self._add_order(orders, datasets, count)
        missing = needed - sum(len(o.rows) for o in orders)
        if missing > 0 and self._add_order(orders, datasets, missing):
            rows.append(missing)
        self._check(orders, needed)
        self._describe(datasets, orders, needed)
        parts = [o.rows for o in orders]
        return parts[0] if len(parts) == 1 else OneAfterAnother(parts), rows

    def _datasets(self) -> list[IndexedDataset]:
        datasets = [IndexedDataset(p) for p in self.prefixes]
        for dataset, prefix in zip(datasets, self.prefixes, strict=True):
            if dataset.num_tokens <= self.cfg.seq_length:
                raise DataError(
                    f"{dataset.num_tokens} tokens are fewer than one row of "
                    f"`data.seq_length` = {self.cfg.seq_length}",
                    path=f"{prefix}.bin",
                )
            if dataset.num_tokens <= SCAN_TOKENS:
                dataset.check_ids(self.vocab_size)
        return datasets

    # ---- one order -----------------------------------------------------------------------------

    def _add_order(
        self, orders: list[Order], datasets: Sequence[IndexedDataset], rows: int
    ) -> bool:
        """Append the order of these rows; not where some source has no row left."""
        left = self._epochs_left(orders)
        row = self.cfg.seq_length + 1
        if any(
            n is not None and n * d.num_tokens < row for n, d in zip(left, datasets, strict=True)
        ):
            return False
        weights = self._weights(datasets)
        sources = [
            self._source(k, dataset, share(rows, weight, weights), len(orders), left[k])
            for k, (dataset, weight) in enumerate(zip(datasets, weights, strict=True))
        ]
        mixed = len(sources) > 1
        found = Mixture(sources, weights, index=self.index) if mixed else sources[0]
        orders.append(Order(sources, found))
        return True

    def _weights(self, datasets: Sequence[IndexedDataset]) -> list[float]:
        return self.cfg.weights or [float(d.num_tokens) for d in datasets]

    def _source(
        self, k: int, dataset: IndexedDataset, rows: int, number: int, epochs: float | None
    ) -> Source:
        kind: Callable[..., Source] = WholeDocuments
        if self.cfg.packing == "concatenate":
            kind = partial(GPTSamples, documents=split_part(len(dataset), self.cfg.split, 0))
        return kind(
            dataset,
            seq_length=self.cfg.seq_length,
            num_samples=rows,
            seed=self.seed + number,
            epochs=epochs,
            eod=self.eod,
            eod_mask_loss=self.cfg.eod_mask_loss,
            index=self.index,
            content=None if self.contents is None else self.contents[k],
        )

    def _epochs_left(self, before: Sequence[Order]) -> list[float | None]:
        """How often each source may still be read behind these orders."""
        if self.cfg.epochs is None:
            return [None] * len(self.prefixes)
        read = [order.epochs(len(order.rows)) for order in before]
        return [most - sum(n[k] for n in read) for k, most in enumerate(self.cfg.epochs)]

    # ---- before the first step -----------------------------------------------------------------

    def _check(self, orders: Sequence[Order], needed: int) -> None:
        have = sum(len(o.rows) for o in orders)
        if have >= needed:
            return
        assert self.cfg.epochs is not None
        left = self._epochs_left(orders)
        first = min(range(len(left)), key=lambda k: left[k] or 0.0)
        raise UsageError(
            f"{needed:,} rows are needed (`train.steps` x `train.global_batch_size`), the data has "
            f"{have:,}: {self.prefixes[first]} is used up after `data.epochs` = "
            f"{self.cfg.epochs[first]:g}; lower the steps or its weight, or allow more epochs"
        )

    def _describe(
        self, datasets: Sequence[IndexedDataset], orders: Sequence[Order], needed: int
    ) -> None:
        weights, read = self._weights(datasets), [0.0] * len(datasets)
        left = needed
        for order in orders:
            read = [a + b for a, b in zip(read, order.epochs(left), strict=True)]
            left -= min(left, len(order.rows))
        for k, (prefix, dataset) in enumerate(zip(self.prefixes, datasets, strict=True)):
            self.log(
                f"data: {prefix}: weight {weights[k] / sum(weights):.3g}, "
                f"{dataset.num_tokens:,} tokens, read {read[k]:.3g} times"
                + _packed(orders[0].sources[k])
            )


def share(rows: int, weight: float, weights: Sequence[float]) -> int:
    """Rows that one dataset of a mixture can be asked for, with room for rounding."""
    return rows if len(weights) == 1 else int(rows * weight / sum(weights) * 1.01) + 2


def _packed(source: Source) -> str:
    if isinstance(source, GPTSamples):
        return ""
    return f", {source.padding:.2%} padding"
