"""What keeps an answer to its structure and its thinking budget."""

from __future__ import annotations

import pytest

from ling.errors import RequestError
from ling.grammar.constraints import Constraints
from ling.grammar.matcher import GrammarMatcher
from ling.grammar.spec import StructuredOutputs
from ling.grammar.thinking import ThinkingBudget

SPEC = StructuredOutputs(choice=["a", "b"])


def test_nothing_is_made_where_nothing_is_asked_for(tokenizer):
    made = Constraints(tokenizer, 500, tokenizer.stop_token_ids)
    assert made.of(None, "auto", None) is None
    assert made._compiler is None


def test_structure_and_budget_alone_and_together(tokenizer):
    made = Constraints(tokenizer, 500, tokenizer.stop_token_ids)
    assert isinstance(made.of(None, "none", 5), ThinkingBudget)
    assert made._compiler is None
    assert isinstance(made.of(SPEC, "none", None), GrammarMatcher)
    both = made.of(SPEC, "open", 2)
    for token in tokenizer.encode("why"):
        both.accept(token)
    while both.forced():
        both.accept(both.forced()[0])
    assert not both.is_done
    for token in [*tokenizer.encode("b"), tokenizer.stop_token_ids[0]]:
        both.accept(token)
    assert both.is_done
    assert made.prepare() is made.prepare()
    made.prepare().close()


def test_a_model_without_a_tokenizer_says_so():
    made = Constraints(None, 500, (1,))
    for spec, budget, param in ((SPEC, None, "structured_outputs"), (None, 3, "thinking_budget")):
        with pytest.raises(RequestError, match="needs a model with a tokenizer") as err:
            made.of(spec, "none", budget)
        assert err.value.param == param
