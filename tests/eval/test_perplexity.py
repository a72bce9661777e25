from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from ling.checkpoint.hf.save import save_model
from ling.data.indexed import IndexedWriter
from ling.data.tokenizer import train_tokenizer
from ling.errors import DataError
from ling.eval.perplexity import perplexity
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset

TEXTS = ["def f(x):\n    return x + 1\n", "import os\n"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder without a tokenizer, and its module."""
    folder = tmp_path_factory.mktemp("model")
    model = from_config(preset("ling-tiny"), seed=3)
    save_model(model, model.config, folder, dtype="float32")
    return folder, model


@pytest.fixture
def ids(tmp_path):
    """Tokens of a prefix that is beside it."""
    ids = torch.randint(0, 384, (41,), generator=torch.Generator().manual_seed(0))
    with IndexedWriter(tmp_path / "data", np.int32) as writer:
        writer.add_document(ids[:30].numpy())
        writer.add_document(ids[30:].numpy())
    return ids


@torch.no_grad()
def expected(model, ids, length):
    """Mean loss of each row alone, and of its MTP layer, which looks one token further."""
    main, mtp = [], []
    for start in range(0, len(ids) - length, length):
        row = ids[start : start + length + 1]
        positions, attend = torch.arange(length), DenseAttend([0, length])
        h = model(row[:-1], positions, attend)
        main.append(torch.nn.functional.cross_entropy(model.logits(h), row[1:], reduction="none"))
        following = torch.cat([row[1:-1], torch.zeros(1, dtype=torch.long)])
        m = model.mtp(0, following, h, positions, attend)
        scores = model.logits(m)[:-1]
        mtp.append(torch.nn.functional.cross_entropy(scores, row[2:], reduction="none"))
    return float(torch.cat(main).mean()), float(torch.cat(mtp).mean())


def test_loss_is_that_of_every_token_of_the_rows(model, ids, tmp_path):
    folder, module = model
    report = perplexity(folder, [str(tmp_path / "data")], seq_length=8)
    main, mtp = expected(module, ids, 8)
    assert report["tokens"] == 40
    assert report["loss"] == pytest.approx(main, abs=1e-5)
    assert report["mtp_loss"] == pytest.approx(mtp, abs=1e-5)
    assert report["perplexity"] == pytest.approx(math.exp(main), rel=1e-5)
    assert 0 <= report["mtp_agreement"] <= 1
    assert report["bits_per_byte"] is None, "without a tokenizer nobody knows the bytes"


def test_fewer_rows_are_the_first_ones(model, ids, tmp_path):
    folder, module = model
    report = perplexity(folder, [str(tmp_path / "data")], seq_length=8, rows=2)
    assert report["tokens"] == 16
    assert report["loss"] == pytest.approx(expected(module, ids[:17], 8)[0], abs=1e-5)


def test_texts_are_read_in_order_and_their_ends_are_not_scored(model, tmp_path):
    folder, module = model
    tok = train_tokenizer(TEXTS * 10, 300)
    own = tmp_path / "own"
    save_folder(module, tok, own)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    (tmp_path / "b.txt").write_text(TEXTS[1])
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")]
    rows = [i for text in TEXTS for i in [*tok.encode(text), tok.eod_token_id]]
    report = perplexity(own, files, seq_length=len(rows) - 1)
    # Where the input ends a document, the next token is anyone's guess.
    assert report["tokens"] == len(rows) - 1 - 1
    scored = [i for k, i in enumerate(rows) if k and rows[k - 1] != tok.eod_token_id]
    nbytes = sum(len(tok.token_bytes(i)) for i in scored if i != tok.eod_token_id)
    assert report["bytes"] == nbytes
    nats = report["loss"] * report["tokens"]
    assert report["bits_per_byte"] == pytest.approx(nats / math.log(2) / nbytes)
    with pytest.raises(DataError, match="text needs a model with a tokenizer"):
        perplexity(folder, files)


def test_tokens_of_another_tokenizer_have_no_bytes(model, ids, tmp_path):
    save_folder(model[1], train_tokenizer(TEXTS * 10, 300), tmp_path / "own")
    report = perplexity(tmp_path / "own", [str(tmp_path / "data")], seq_length=8)
    assert report["tokens"] == 40
    assert report["bits_per_byte"] is report["bytes"] is None


def save_folder(module, tok, folder):
    folder.mkdir()
    save_model(module, module.config, folder, dtype="float32")
    tok.save(folder)


def test_too_little_text_is_an_error(model, ids, tmp_path):
    with pytest.raises(DataError, match="41 tokens, fewer than a row of 41"):
        perplexity(model[0], [str(tmp_path / "data")], seq_length=41)
