from __future__ import annotations

import dataclasses
import inspect

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
