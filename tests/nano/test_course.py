"""The course in copying: what its rows are, and that a tiny model gets better by it."""

from __future__ import annotations

import random

import pytest
import torch

from ling.errors import UsageError
from ling.model.copying import copying_model
from ling.nano import course
from ling.presets import preset

TINY = preset("ling-tiny")


def test_what_can_be_known_follows_the_same_two_tokens_earlier():
    given, known = course.rows(random.Random(0), 4096)
    assert given.tokens_BS.shape == known.shape == (course.ROWS, course.LENGTH)
    assert 0.2 < known.float().mean() < 0.5
    for row, labels, can in zip(given.tokens_BS, given.labels_BS, known, strict=True):
        tokens = [*row.tolist(), int(labels[-1])]
        assert tokens[1:] == labels.tolist()
        pairs = set()
        for i in range(course.LENGTH):
            if can[i]:
                assert (tokens[i], tokens[i + 1]) in pairs
            pairs.add((tokens[i], tokens[i + 1]))


def test_the_loss_of_what_can_be_known_falls(tmp_path):
    said = []
    before = course.known_loss(copying_model(TINY, 0), 0)
    after = course.write_start(TINY, tmp_path / "start", 30, 0, said.append)
    assert after < before - 0.3
    assert len(said) == 3
    assert (tmp_path / "start" / "model.safetensors.index.json").is_file()
    with pytest.raises(UsageError, match="start"):
        course.write_start(TINY, tmp_path / "start", 1, 0, said.append)


def test_the_same_seed_gives_the_same_weights():
    models = [copying_model(TINY, 0) for _ in range(2)]
    for model in models:
        course.train_to_copy(model, 2, 0, lambda _: None)
    a, b = (model.state_dict() for model in models)
    assert all(torch.equal(a[name], b[name]) for name in a)
