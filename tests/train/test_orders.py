"""The order of a run's rows: mixtures, epochs, packing, and what is said before the first step."""

from __future__ import annotations

import re

import pytest
from runs import write_tokens

from ling.config.recipe import DataConfig
from ling.data.index_files import IndexFolder
from ling.data.mixture import Mixture
from ling.data.whole_documents import WholeDocuments
from ling.errors import DataError, UsageError
from ling.train.orders import Opening, share


@pytest.fixture
def two(tmp_path):
    """1,000 and 3,000 tokens."""
    write_tokens(tmp_path / "low", top=100, tokens=1000)
    write_tokens(tmp_path / "high", top=100, tokens=3000, seed=1)
    return [str(tmp_path / "low"), str(tmp_path / "high")]


def opened(prefixes, laid_out=(8,), needed=None, vocab_size=300, said=None, index=None, **data):
    cfg = DataConfig(prefix=prefixes, **{"seq_length": 16, **data})
    log = (lambda _: None) if said is None else said.append
    kept = {} if index is None else {"index": IndexFolder(index), "contents": prefixes}
    opening = Opening(prefixes, cfg, 1, None, vocab_size, log=log, **kept)
    return opening.orders(laid_out, sum(laid_out) if needed is None else needed)


def rows_of(samples, count):
    return [samples[i].tokens.tolist() for i in range(count)]


def test_a_mixture_has_the_shares_of_its_weights_or_of_its_tokens(two):
    for weights, part in ((None, 3 / 4), ([1.0, 1.0], 1 / 2), ([9.0, 1.0], 1 / 10)):
        samples, _ = opened(two, [100], weights=weights)
        assert samples.taken(100)[1] == pytest.approx(100 * part, abs=1.1)
        assert len(samples) >= 100


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [3.0, 1.0, 0.01], [1e-6, 1.0, 1.0, 5.0]])
def test_no_part_of_a_mixture_runs_out_before_the_last_row(weights):
    for rows in range(1, 120, 7):
        room = [share(rows, w, weights) for w in weights]
        assert len(Mixture([range(n) for n in room], weights, rows)) == rows
        assert sum(room) <= 1.01 * rows + 2 * len(weights)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_rows_that_were_read_stay_where_they_were_when_steps_are_added(two, tmp_path, packing):
    kept = {"index": tmp_path / "index", "packing": packing}
    for prefixes in (two[:1], two):
        short, laid_out = opened(prefixes, [100], packing=packing)
        longer, rows = opened(prefixes, laid_out, 900, **kept)
        again, same = opened(prefixes, rows, 900, **kept)
        assert laid_out == [100]
        assert same == rows == [100, 900 - len(short)]
        assert len(longer) >= 900
        assert rows_of(longer, 900) == rows_of(again, 900)
        assert rows_of(longer, len(short)) == rows_of(short, len(short))


# ---- epochs ------------------------------------------------------------------------------------


def test_sources_are_read_as_often_as_epochs_allow(two):
    said = []
    samples, _ = opened(two, [180], weights=[1, 2], epochs=[1, 2], said=said)
    assert samples.taken(180) == [60, 120]  # of 62 and 374
    assert said == [
        f"data: {two[0]}: weight 0.333, 1,000 tokens, read 0.96 times",
        f"data: {two[1]}: weight 0.667, 3,000 tokens, read 0.64 times",
    ]
    # The cap moves no row that it allows.
    assert rows_of(samples, 180) == rows_of(opened(two, [180], weights=[1, 2])[0], 180)


def test_a_mixture_that_is_used_up_is_said_before_the_first_step(two):
    words = (
        "200 rows are needed (`train.steps` x `train.global_batch_size`), the data has 186: "
        f"{two[0]} is used up after `data.epochs` = 1; lower the steps or its weight, or allow "
        "more epochs"
    )
    with pytest.raises(UsageError, match=re.escape(words)):
        opened(two, [200], weights=[1, 2], epochs=[1, 2])
    with pytest.raises(UsageError, match=r"63 rows .* the data has 62: .*low is used up"):
        opened(two[:1], [63], epochs=[1])
    with pytest.raises(UsageError, match=r"1 rows .* the data has 0: .*`data.epochs` = 0.001"):
        opened(two[:1], [1], epochs=[0.001])
    opened(two[:1], [62], epochs=[1])
    opened(two[:1], [62 * 3], epochs=[3])


def test_epochs_count_over_all_orders(two):
    samples, rows = opened(two[:1], [62], 120, epochs=[2])
    assert (len(samples), rows) == (124, [62, 58])
    with pytest.raises(UsageError, match=r"125 rows are needed .* the data has 124"):
        opened(two[:1], [62], 125, epochs=[2])


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ([1.0], r"`data.epochs` needs one value for each `data.prefix` .2., not 1"),
        ([1.0, 0.0], "`data.epochs` must be above 0"),
        ([1.0, float("inf")], "`data.epochs` must be above 0"),
    ],
)
def test_epochs_that_say_nothing_are_refused(epochs, words):
    with pytest.raises(UsageError, match=words):
        DataConfig(prefix=["a", "b"], epochs=epochs)
    assert DataConfig(corpus="stdlib", epochs=2).epochs == [2]
    with pytest.raises(UsageError, match="needs one value for the corpus, not 2"):
        DataConfig(corpus="stdlib", epochs=[1, 2])


# ---- packing -----------------------------------------------------------------------------------


def test_whole_documents_are_packed_where_that_is_chosen(two):
    said = []
    samples, _ = opened(two, [40], packing="best_fit", seq_length=80, said=said)
    assert all(isinstance(part, WholeDocuments) for part in samples.parts)
    assert all(re.search(r"read [0-9.]+ times, [0-9.]+% padding$", line) for line in said)
    with pytest.raises(UsageError, match=r"the data has \d+: .*high is used up"):
        opened(two, [400], packing="best_fit", epochs=[9, 1])


# ---- what is refused ---------------------------------------------------------------------------


def test_a_file_that_fills_no_row_is_named(tmp_path):
    write_tokens(tmp_path / "short", tokens=40)
    words = r"short.bin: 40 tokens are fewer .* `data.seq_length` = 40"
    with pytest.raises(DataError, match=words):
        opened([str(tmp_path / "short")], [1], seq_length=40)


def test_an_id_without_a_row_is_found_at_once(tmp_path, monkeypatch):
    write_tokens(tmp_path / "text", top=300, tokens=400)
    text = [str(tmp_path / "text")]
    opened(text)
    with pytest.raises(DataError, match="outside the vocabulary of 200"):
        opened(text, vocab_size=200)
    # Files too large to be read first are checked batch by batch.
    monkeypatch.setattr("ling.train.orders.SCAN_TOKENS", 399)
    opened(text, vocab_size=200)
