"""The library's messages, in one line of ours."""

from __future__ import annotations

from ling.grammar.library import (
    Vocabulary,
    error_text,
    ignored,
    library_matcher,
    library_tokenizer,
    problem,
)


def test_its_errors_are_told_in_one_line_without_its_state():
    assert error_text('Unimplemented keys: ["a", "b"]') == (
        "the schema uses `a`, `b`, which cannot be enforced"
    )
    regex = "regex parse error:\n    (?=a)b\n    ^^^\nerror: look-around is not supported"
    assert error_text(regex) == "regex parse error: error: look-around is not supported"
    assert error_text("Parser Error: x\n<state>\nsecret") == "Parser Error: x"
    place = "at 2(9): failed to compile JSON schema: "
    assert error_text(f"{place}schema too large") == "schema too large"
    many = "Unable to determine if regex is empty: (And (And"
    assert error_text(place + many) == "its patterns are too complex together"
    assert error_text("NoExtensionBias") == "no text can match it"
    assert error_text("1(37): lexer error") == "1(37): lexer error"
    assert error_text("") == "no reason given"
    assert len(error_text("x" * 9999)) == 500


def test_ignored_keywords_are_listed_once():
    warnings = ['Unimplemented keys: ["not", "if"]', 'Unimplemented keys: ["not"]', "oneOf is hard"]
    assert ignored(warnings) == ("not", "if", "oneOf is hard")
    assert ignored([]) == ()


def test_a_vocabulary_of_bytes_is_enough():
    tokens = [bytes([i]) for i in range(256)] + [b"<end>", b""]
    tokenizer = library_tokenizer(
        Vocabulary(tokens, [256], [256]), lambda text: list(text.encode())
    )
    matcher = library_matcher(tokenizer, '{"grammars": [{"lark_grammar": "start: \\"ab\\""}]}')
    assert problem(matcher) is None
    assert matcher.compute_ff_tokens() == [97, 98]
    matcher.consume_token(99)
    assert problem(matcher).startswith("Parser Error")
    assert "\n" not in problem(matcher)
