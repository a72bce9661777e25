from __future__ import annotations

import dataclasses
import inspect

import pytest

import ling
from ling.cli import options
from ling.config.engine import EngineConfig, SamplingFlags, ServeConfig, flags
from ling.errors import UsageError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "float16"),
        ("kv_cache_dtype", "fp8"),
        ("speculative", "eagle"),
        ("num_pages", 0),
        ("max_memory", "much"),
    ],
)
def test_a_bad_option_is_named_as_python_spells_it(field, value):
    with pytest.raises(UsageError, match=f"`{field}` is `?{value}"):
        EngineConfig(**{field: value})


def test_a_port_outside_the_range_is_refused():
    with pytest.raises(UsageError, match="ports go from 0 to 65535"):
        ServeConfig(port=65536)


def test_the_key_is_not_printed():
    assert "secret" not in repr(ServeConfig(api_key="secret"))


def test_every_field_is_a_keyword_of_llm():
    shown = inspect.signature(ling.LLM.__init__).parameters
    for field in dataclasses.fields(EngineConfig):
        assert shown[field.name].default == field.default
    with pytest.raises(TypeError, match="threads"):
        ling.LLM("nowhere", threads=3)


@pytest.mark.parametrize("config", [EngineConfig, ServeConfig, SamplingFlags])
def test_flags_are_parsed_to_their_fields(config):
    parser = options.make_parser("generate")
    options.add_flags(parser, flags(config))
    assert options.config_from(parser.parse_args([]), config) == config()
    words = {"int": "3", "float": "0.5", "str": "int8", "list[str]": "int8"}
    values = {"int": 3, "float": 0.5, "str": "int8", "list[str]": ["int8"]}
    for field in flags(config):
        if field.name in ("dtype", "speculative", "max_memory"):
            continue
        kind = field.type.removesuffix(" | None")
        flag = f"--{field.name.replace('_', '-')}"
        parsed = options.config_from(parser.parse_args([flag, words[kind]]), config)
        assert getattr(parsed, field.name) == values[kind]


def test_advice_to_python_callers_becomes_flags():
    with pytest.raises(UsageError) as err, options.naming_flags():
        raise UsageError('`max_memory="6GB"` or `max_model_len=64`, not `other=1` or `format`')
    assert str(err.value) == "`--max-memory 6GB` or `--max-model-len 64`, not `other=1` or `format`"


def test_names_that_stand_alone_are_flags_where_the_command_says_so():
    with pytest.raises(UsageError) as err, options.naming_flags("pairs"):
        raise UsageError("`pairs` is `0`, not `tokens`")
    assert str(err.value) == "`--pairs` is `0`, not `tokens`"
