"""A grammar's masks depend on the tokens alone, and lead to answers of the kind that was asked."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from answer_specs import SPECS, WEATHER

from ling.errors import RequestError
from ling.grammar.matcher import GrammarMatcher
from ling.grammar.spec import StructuredOutputs
from ling.infer.constraint import Constraint


def ids_of(mask) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def walk(matcher, rng, most=400, ahead=2) -> list[int]:
    """A random answer, with drafts before every token; each mask is asked for in several ways."""
    output = []
    while not matcher.is_done and len(output) < most:
        drafts = []
        for _ in range(rng.randrange(ahead + 1)):
            allowed = ids_of(matcher.mask(drafts))
            if not allowed:
                break
            drafts.append(rng.choice(allowed))
        allowed = ids_of(matcher.mask([]))
        token = drafts[0] if drafts and rng.random() < 0.7 else rng.choice(allowed)
        assert token in allowed
        matcher.accept(token)
        output.append(token)
    return output


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode([i for i in ids if i not in tokenizer.stop_token_ids],
                            skip_special_tokens=False)  # fmt: skip


def masks_along(matcher, output):
    found = []
    for token in output:
        found.append(matcher.mask([]).copy())
        matcher.accept(token)
    return found


@pytest.mark.parametrize("kind", SPECS)
def test_masks_are_the_same_however_the_tokens_came(compiler, tokenizer, kind):
    grammar, rng = compiler.compile(SPECS[kind]), random.Random(kind)
    for _ in range(12):
        output = walk(grammar.matcher(), rng, most=60)
        plain = masks_along(grammar.matcher(), output)
        # In drafts of every length, in one go, and after other drafts were taken back.
        matcher = grammar.matcher()
        for k in range(0, len(output), 3):
            part = output[k : k + 3]
            other = rng.choice(ids_of(matcher.mask([])))
            matcher.mask([other])
            for i in range(len(part)):
                assert np.array_equal(matcher.mask(part[:i]), plain[k + i])
            for token in part:
                matcher.accept(token)
        for mask, token in zip(plain, output, strict=True):
            assert mask[token >> 5] >> (token & 31) & 1


@pytest.mark.parametrize("kind", SPECS)
def test_what_is_forced_is_all_that_its_masks_leave(compiler, tokenizer, kind):
    grammar, rng, count = compiler.compile(SPECS[kind]), random.Random(kind), 0
    for _ in range(12):
        matcher = grammar.matcher()
        if kind in ("auto", "one"):
            follow(matcher, tokenizer, "<tool_call>")
        while not matcher.is_done and count < 400:
            forced = matcher.forced()
            for i, token in enumerate(forced):
                assert ids_of(matcher.mask(forced[:i])) == [token]
                count += 1
            for token in forced or [rng.choice(ids_of(matcher.mask([])))]:
                matcher.accept(token)
            if len(forced) == 0 and rng.random() < 0.02:
                break
    assert count or kind == "regex"


@pytest.mark.parametrize("kind", ["json", "regex", "choice", "grammar"])
def test_random_answers_are_what_was_asked_for(compiler, tokenizer, kind):
    grammar, rng = compiler.compile(SPECS[kind]), random.Random(5)
    for _ in range(20):
        matcher = grammar.matcher()
        text = text_of(tokenizer, walk(matcher, rng))
        assert matcher.is_done
        if kind == "json":
            jsonschema.validate(json.loads(text), WEATHER)
            assert not re.search(r"\s{9}", text)
        elif kind == "choice":
            assert text in SPECS[kind].choice
        elif kind == "regex":
            assert re.fullmatch(SPECS[kind].regex, text)
        else:
            assert re.fullmatch("a(bc|de)+", text)


CALL = r'<tool_call>\n\{"name": (".*?"), "arguments": (\{.*?\})\}\n</tool_call>'


@pytest.mark.parametrize("kind", ["required", "named"])
def test_random_calls_are_written_as_the_template_writes_them(compiler, tokenizer, kind):
    grammar, rng, names = compiler.compile(SPECS[kind]), random.Random(6), set()
    for _ in range(20):
        matcher = grammar.matcher()
        output = walk(matcher, rng)
        text = text_of(tokenizer, output)
        if not matcher.is_done:
            continue
        assert re.fullmatch(f"{CALL}(\n{CALL})*", text, re.S)
        for name, arguments in re.findall(CALL, text, re.S):
            names.add(json.loads(name))
            if json.loads(name) == "get_weather":
                jsonschema.validate(json.loads(arguments), WEATHER)
                assert arguments == json.dumps(json.loads(arguments), ensure_ascii=False)
    assert names == ({"get_weather"} if kind == "named" else {"get_weather", 'get "it"'})
    tag = tokenizer.token_to_id("<tool_call>")
    assert tag is None or tag in output


def follow(matcher, tokenizer, text) -> list[int]:
    """Continue with a text; returns the ids that may come then."""
    for piece in re.split(r"(</?tool_call>|</?think>)", text):
        tag = tokenizer.token_to_id(piece)
        for token in [tag] if tag is not None else tokenizer.encode(piece):
            assert token in ids_of(matcher.mask([])), (piece, tokenizer.token_bytes(token))
            matcher.accept(token)
    return ids_of(matcher.mask([]))


def test_under_auto_a_call_may_come_and_is_kept_to_its_schema(compiler, tokenizer):
    arguments = '{"city": "x", "unit": "C"}'
    call = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'
    stops = set(tokenizer.stop_token_ids)
    for kind, more in (("auto", True), ("one", False)):
        grammar = compiler.compile(SPECS[kind])
        assert stops <= set(follow(grammar.matcher(), tokenizer, "I <b> do not"))
        matcher = grammar.matcher()
        after = follow(matcher, tokenizer, f"Let us see.\n{call}")
        assert (set(after) == stops) is not more
        matcher = grammar.matcher()
        (newline,) = follow(matcher, tokenizer, "So <tool_call>")
        assert tokenizer.token_bytes(newline) == b"\n"
        follow(matcher, tokenizer, '\n{"name": "get_weather", "arguments": {"city": "')
    follow(compiler.compile(SPECS["auto"]).matcher(), tokenizer, f"{call}\nand\n{call} so")


def test_reasoning_comes_before_the_answer_and_never_ends_it(compiler, tokenizer):
    stops, spec = set(tokenizer.stop_token_ids), SPECS["choice"]
    opened = compiler.compile(spec, "open")
    inside = follow(opened.matcher(), tokenizer, "why </b> not\n")
    assert not stops & set(inside)
    assert len(inside) > 200
    for text in ("why\n</think>\n\nnö", "</think>nö"):
        assert set(follow(opened.matcher(), tokenizer, text)) == stops
    auto = compiler.compile(spec, "auto")
    for text in ("nö", "<think>\nwhy</think>\n\nnö", "\n<think></think>nö"):
        assert set(follow(auto.matcher(), tokenizer, text)) == stops
    assert not stops & set(follow(auto.matcher(), tokenizer, "\n<think>no"))


def test_ids_without_a_token_and_control_tokens_are_never_allowed(compiler, tokenizer):
    matcher = compiler.compile(StructuredOutputs(regex=r"(?s:.)*")).matcher()
    allowed = ids_of(matcher.mask([]))
    assert max(allowed) < tokenizer.vocab_size
    control = set(tokenizer.control_tokens.values()) - set(tokenizer.stop_token_ids)
    assert not control & set(allowed)
    assert set(tokenizer.stop_token_ids) <= set(allowed)


def test_nothing_follows_the_end_or_a_token_that_may_not_come(compiler, tokenizer):
    matcher = compiler.compile(SPECS["choice"]).matcher()
    no, (stop, *_) = tokenizer.encode("nö"), tokenizer.stop_token_ids
    assert ids_of(matcher.mask([*no, stop])) == []
    assert ids_of(matcher.mask([tokenizer.encode("z")[0]])) == []
    with pytest.raises(RequestError, match="cannot be kept to its grammar") as err:
        matcher.accept(tokenizer.encode("z")[0])
    assert err.value.code == "grammar_failed"
    for token in no:
        matcher.accept(token)
    assert set(ids_of(matcher.mask([]))) == set(tokenizer.stop_token_ids)
    matcher.accept(stop)
    assert matcher.is_done
    assert (ids_of(matcher.mask([])), matcher.forced()) == ([], [])


class Failing:
    """A matcher of the library that fails at a mask."""

    def __init__(self, own):
        self.own, self.has_failed = own, False

    def __getattr__(self, name):
        return getattr(self.own, name)

    def unsafe_compute_mask_ptr(self, *_):
        self.has_failed = True

    def is_error(self):
        return self.has_failed

    def get_error(self):
        return "Parser Error: too many items\n<state>\nsecret"


def test_a_library_that_fails_is_an_error_in_one_line(compiler):
    grammar = compiler.compile(SPECS["choice"])
    matcher: Constraint = GrammarMatcher(Failing(grammar.matcher()._matcher), 500, frozenset([1]))
    with pytest.raises(RequestError, match=r"any further: Parser Error: too many items$"):
        matcher.mask([])
