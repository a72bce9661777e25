from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

import ling
from ling.config.engine import EngineConfig, ServeConfig
from ling.errors import UsageError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "float16"),
        ("kv_cache_dtype", "fp8"),
        ("speculative", "eagle"),
        ("num_pages", 0),
        ("max_num_seqs", 0),
        ("max_step_ms", 0),
        ("max_step_ms", float("inf")),
        ("kv_cache_memory", "some"),
        ("max_memory", "much"),
    ],
)
def test_a_bad_option_is_named_as_python_spells_it(field, value):
    with pytest.raises(UsageError, match=f"`{field}` is `?{value}"):
        EngineConfig(**{field: value})


@pytest.mark.parametrize(
    ("given", "folders", "default"),
    [
        (None, {}, None),
        ("runs/poet", {"poet": "runs/poet"}, "poet"),
        (Path("runs/poet"), {"poet": "runs/poet"}, "poet"),
        ("a=runs/poet", {"a": "runs/poet"}, None),
        ("runs/r=16", {"r=16": "runs/r=16"}, "r=16"),
        (["a=x", "b=y=z"], {"a": "x", "b": "y=z"}, None),
        ({"a": "x", "b": Path("y")}, {"a": "x", "b": "y"}, None),
    ],
)
def test_adapters_have_names(given, folders, default):
    config = EngineConfig(lora=given)
    assert (config.adapter_folders, config.default_adapter) == (folders, default)
    assert EngineConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=x", "a=y"], "has the name `a` twice"),
        (["a=x", "y"], "has `y`, expected NAME=FOLDER for each of several"),
        ("", "is empty, expected NAME=FOLDER"),
        ("=x", "has the name ``: names have up to 128 letters"),
        ("a b=x", "has the name `a b`: names have"),
        ("a\x1b[2J=x", r"has the name `a\?\[2J`: names have"),
        ({"a\n": "x"}, "names have"),
        ({"a/b": "x"}, "has the name `a/b`: names have"),
        ({"a=b": "x"}, "has the name `a=b`: names have"),
        ("a=", "is `a=`, expected NAME=FOLDER"),
        ({"a": ""}, "is `a=`, expected NAME=FOLDER"),
        ({"a": None}, "has `null`, expected NAME=FOLDER, or folders by name"),
        ([("a", "x")], r'has `\["a", "x"\]`, expected NAME=FOLDER, or folders by name'),
        (5, "has `5`, expected NAME=FOLDER, or folders by name"),
    ],
)
def test_adapters_without_a_sound_name_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        EngineConfig(lora=given)


def test_the_cache_has_one_size():
    with pytest.raises(UsageError, match="`num_pages` or `kv_cache_memory`, not both"):
        EngineConfig(num_pages=3, kv_cache_memory="1GB")


def test_a_port_outside_the_range_is_refused():
    with pytest.raises(UsageError, match="ports go from 0 to 65535"):
        ServeConfig(port=65536)


@pytest.mark.parametrize("origin", ["https://a.example/", "a.example", "https://A.example", "x y"])
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(UsageError, match="expected what browsers send"):
        ServeConfig(allowed_origins=["*", "http://localhost:3000", origin])


def test_the_key_is_not_printed():
    assert "secret" not in repr(ServeConfig(api_key="secret"))


def test_every_field_is_a_keyword_of_llm():
    shown = inspect.signature(ling.LLM.__init__).parameters
    for field in dataclasses.fields(EngineConfig):
        assert shown[field.name].default == field.default
    with pytest.raises(TypeError, match="threads"):
        ling.LLM("nowhere", threads=3)


def test_only_positions_of_a_model_are_overridden():
    assert EngineConfig(hf_overrides={"rope_theta": 1e6}).hf_overrides == {"rope_theta": 1e6}
    with pytest.raises(UsageError, match=r"`hf_overrides` has .*hidden_size.*; there are max_pos"):
        EngineConfig(hf_overrides={"hidden_size": 1})
