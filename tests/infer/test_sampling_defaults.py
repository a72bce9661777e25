"""What a folder's `generation_config.json` recommends, and what of it is taken."""

from __future__ import annotations

import json

import pytest

from ling.errors import CheckpointError
from ling.infer.sampling_defaults import FILE, sampling_defaults


def defaults(folder, **given):
    (folder / FILE).write_text(json.dumps(given))
    return sampling_defaults(folder)


def test_only_sampling_is_taken_and_said(tmp_path, caplog):
    caplog.set_level("INFO", "ling")
    given = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": [1], "min_p": None}
    assert defaults(tmp_path, **given, do_sample=True) == {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
    }
    assert "temperature 0.6, top_p 0.9, top_k 20" in caplog.text


def test_without_sampling_the_model_is_greedy(tmp_path):
    given = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "do_sample": False}
    assert defaults(tmp_path, **given) == {"temperature": 0.0, "repetition_penalty": 1.1}


@pytest.mark.parametrize("value", [-1, "hot", True, [0.5]])
def test_an_impossible_value_is_left_out_with_a_warning(tmp_path, caplog, value):
    assert defaults(tmp_path, temperature=value, top_k=5) == {"top_k": 5}
    assert "`temperature`" in caplog.text


def test_no_file_recommends_nothing(tmp_path):
    assert sampling_defaults(tmp_path) == sampling_defaults(None) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}'])
def test_a_file_that_is_no_object_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=FILE):
        sampling_defaults(tmp_path)
