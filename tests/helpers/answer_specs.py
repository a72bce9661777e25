"""What answers may be, one of each kind, for the tests of grammars and of the engine."""

from __future__ import annotations

from ling.grammar.spec import StructuredOutputs
from ling.grammar.tools import tool_grammar

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {"name": "get_weather", "parameters": WEATHER, "strict": True},
    {"name": 'get "it"', "parameters": {"type": "object", "properties": {}}},
]
SPECS = {
    "json": StructuredOutputs(json=WEATHER),
    "regex": StructuredOutputs(regex=r"(ab|a/b|\n){1,4}é?"),
    "choice": StructuredOutputs(choice=['yes "really"', "no", "not\nat all", "nö"]),
    "grammar": StructuredOutputs(grammar='start: "a" pair+\npair: "bc" | "de"'),
    "required": tool_grammar(TOOLS, "required"),
    "named": tool_grammar(TOOLS, "get_weather"),
    "auto": tool_grammar(TOOLS, "auto"),
    "one": tool_grammar(TOOLS, "auto", parallel=False),
}
