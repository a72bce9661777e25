"""Grammars are compiled once, bounded, and refused by name."""

from __future__ import annotations

import builtins
import time

import pytest

from ling.errors import RequestError
from ling.grammar import compile as compile_module
from ling.grammar.compile import GrammarCompiler
from ling.grammar.spec import StructuredOutputs
from ling.grammar.tools import tool_grammar


def spec(schema, **more):
    return StructuredOutputs(json=schema, **more)


def test_strict_schemas_name_what_cannot_be_enforced_and_lenient_ones_list_it(compiler):
    schema = {"type": "object", "not": {"required": ["a"]}, "minContains": 1, "title": "T"}
    with pytest.raises(RequestError, match=r"uses .*`not`, which cannot be enforced") as err:
        compiler.compile(spec(schema, strict=True))
    assert (err.value.status, err.value.param) == (400, "structured_outputs")
    assert "not" in compiler.compile(spec(schema)).ignored
    assert compiler.compile(spec({"type": "object", "title": "T"}, strict=True)).ignored == ()
    tool = {"name": "f", "parameters": schema, "strict": True}
    with pytest.raises(RequestError, match=r"uses .*`not`"):
        compiler.compile(tool_grammar([tool], "required"))
    assert "not" in compiler.compile(tool_grammar([tool | {"strict": False}], "required")).ignored


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"json": {"type": "zork"}}, "zork"),
        ({"json": {"$ref": "http://example.com/a"}}, "example.com"),
        ({"json": {"$ref": "#/$defs/a"}}, "/\\$defs/a"),
        ({"json": {"type": "integer", "minimum": 2, "maximum": 1}}, "minimum"),
        ({"json": {"type": "string", "pattern": "(?=a)b"}}, "look-around"),
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"grammar": "start: nothing"}, "nothing"),
        ({"grammar": "%%%"}, "lexer error"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_line(compiler, fields, named):
    for _ in range(2):  # a refusal is kept, too
        with pytest.raises(RequestError, match=named) as err:
            compiler.compile(StructuredOutputs(**fields))
        assert err.value.status == 400
        assert "\n" not in str(err.value)


def test_the_last_grammars_are_kept(compiler, monkeypatch):
    first = compiler.compile(spec({"const": -1}))
    assert compiler.compile(spec('{"const": -1}')) is first
    assert compiler.compile(spec({"const": -1}), "auto") is not first
    monkeypatch.setattr(compile_module, "CACHE_SIZE", 3)
    for i in range(3):
        compiler.compile(spec({"const": i}))
    assert len(compiler._cache) == 3
    assert compiler.compile(spec({"const": -1})) is not first


def test_each_answer_has_a_state_of_its_own(compiler, tokenizer):
    grammar = compiler.compile(StructuredOutputs(choice=["ab", "ac"]))
    one, other = grammar.matcher(), grammar.matcher()
    before = other.mask([]).copy()
    one.accept(tokenizer.encode("a")[0])
    assert (other.mask([]) == before).all()
    assert not (one.mask([]) == before).all()


HOSTILE = {
    "self reference": {"$ref": "#"},
    "loop": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "(a+)+": {"type": "string", "pattern": "^(a+)+$"},
    "repeated repetition": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
    "8 patterns": {"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in "abcdefgh"]},
    "1,000 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(1000)}},
    "5,000 values": {"enum": [f"value {i}" for i in range(5000)]},
    "10,000 items": {"type": "array", "minItems": 10000},
    "ambiguity": {"anyOf": [{"type": "string"}] * 200},
}  # fmt: skip


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_schemas_within_the_bounds_are_compiled_or_refused_in_time(compilers, schema):
    compiler = compilers["tags are text"]
    begin, refused = time.process_time(), []
    try:
        assert compiler.compile(spec(schema)).matcher().mask([]).any()
    except RequestError as err:
        refused.append(err.status)
    assert time.process_time() - begin < 1.5
    assert refused in ([], [400])


def test_a_model_without_an_end_of_text_is_refused(tokenizers):
    (tok, *_) = tokenizers.values()
    with pytest.raises(RequestError, match="end of text"):
        GrammarCompiler(tok, tok.vocab_size, [])


def test_without_the_library_the_error_says_what_to_install(tokenizers, monkeypatch):
    (tok, *_) = tokenizers.values()
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "llguidance":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=r"pip install 'ling\[serve\]'"):
        GrammarCompiler(tok, tok.vocab_size, tok.stop_token_ids)


def test_only_what_the_child_has_finished_is_compiled_here(compiler, monkeypatch):
    compiled = []
    plain = compile_module.library_matcher
    monkeypatch.setattr(
        compile_module, "library_matcher", lambda *a: compiled.append(a) or plain(*a)
    )

    def too_complex(source):
        raise RequestError("too complex", code=compile_module.TOO_COMPLEX)

    with monkeypatch.context() as patched:
        patched.setattr(compiler._probe, "check", too_complex)
        with pytest.raises(RequestError, match="too complex"):
            compiler.compile(spec({"const": "once"}))
    with pytest.raises(RequestError, match="unclosed"):
        compiler.compile(StructuredOutputs(regex="(once"))
    assert compiled == []
    compiler.compile(spec({"const": "once"}))  # it may be that the machine was busy
    assert len(compiled) == 1
