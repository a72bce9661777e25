"""What a `config.json` may say, as far as no field of the model is needed to judge it."""

from __future__ import annotations

import json

import pytest

from ling.config.hf_json import (
    MAX_CONFIG_BYTES,
    check_quantization,
    read_raw,
    read_rope_parameters,
)
from ling.errors import ConfigError


def test_the_object_is_read_as_it_is(tmp_path):
    raw = {"hidden_size": 64, "rope_scaling": None, "name": "Grüße", "nested": {"a": [1, 2.5]}}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    assert read_raw(tmp_path / "config.json") == raw


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"[1]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"{", "JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b" " * (MAX_CONFIG_BYTES + 1), "larger than 1048576 bytes"),
    ],
    ids=["list", "null", "cut", "encoding", "depth", "size"],
)
def test_what_is_no_object_is_refused_with_the_reason(tmp_path, data, word):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=word):
        read_raw(path)


def test_a_file_at_the_limit_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": 1}'.ljust(MAX_CONFIG_BYTES))
    assert read_raw(path) == {"a": 1}


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "config.json", tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            read_raw(path)


def test_the_scheme_of_the_released_models_is_what_a_key_left_out_means():
    whole = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    for quantization in ({"quant_method": "fp8"}, whole, {"quant_method": "ling", "fmt": "any"}):
        assert check_quantization({"quantization_config": quantization}) == quantization
    assert check_quantization({}) is None
    assert check_quantization({"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ("fp8", '`quantization_config` is `"fp8"`, expected an object'),
        ({}, "`quantization_config.quant_method` is `null`, expected fp8 or ling"),
        ({"quant_method": "gptq"}, "quantised by `GPTQ` cannot be read; take the original"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, '`quantization_config.fmt` is `"e5m2"`'),
        (
            {"quant_method": "fp8", "weight_block_size": [64, 64]},
            r"`quantization_config.weight_block_size` is `\[64, 64\]`, expected \[128, 128\]",
        ),
    ],
    ids=["text", "no method", "method", "fmt", "block"],
)
def test_another_quantization_is_named(quantization, words):
    with pytest.raises(ConfigError, match=words):
        check_quantization({"quantization_config": quantization})


@pytest.mark.parametrize(
    ("raw", "values", "want"),
    [
        ({}, {}, {}),
        ({"rope_parameters": "default"}, {}, {}),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        ({"rope_parameters": {"rope_theta": 1e4}}, {"rope_theta": 6e5}, {"rope_theta": 6e5}),
        ({"rope_parameters": {"rope_theta": None, "rope_type": "default"}}, {}, {}),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
            {},
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        ),
        ({}, {"rope_scaling": {}}, {"rope_scaling": None}),
        (
            {"rope_parameters": {"type": "yarn", "factor": 4.0}},
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
        ),
    ],
)
def test_older_rope_fields_come_before_the_newer_object(raw, values, want):
    read_rope_parameters(raw, values)
    assert values == want
