"""Random schemas × random weights: an answer that ends with "stop" is what its schema says."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
import torch

from ling.config.engine import EngineConfig
from ling.grammar.compile import GrammarCompiler
from ling.grammar.spec import StructuredOutputs
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

VOCAB = 512
WORDS = ["id", "name", "städte", "a b", 'quo"te', "x/y", "$ref", "новый", "", "items"]


class Schemas:
    """Schemas of the kind that is enforced in full, in a random order of a seed.

    Most texts and lists are bounded: random weights know no end of a text, so what has no bound
    often runs into `max_tokens`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def schema(self, depth: int = 3) -> dict:
        leaves = [self.text, self.number, self.integer, self.constant, self.choice, self.plain]
        nodes = [self.object, self.object, self.array, self.tuple, self.any_of, self.reference]
        return self.rng.choice(leaves if not depth else leaves + nodes)(depth - 1)

    def text(self, depth):
        rng, low = self.rng, self.rng.randrange(4)
        return rng.choice(
            [
                {"type": "string", "maxLength": rng.randrange(12)},
                {"type": "string", "minLength": low, "maxLength": low + rng.randrange(9)},
                {"type": "string", "pattern": rng.choice(["^[a-f]{2,6}$", "^(ab|cd)+$", "^é?/x$"])},
                {"type": "string", "format": rng.choice(["date", "uuid", "ipv4", "time"])},
            ]
        )

    def number(self, depth):
        low = round(self.rng.uniform(-9, 9), 2)
        return {"type": "number", "minimum": low, "maximum": low + self.rng.randrange(1, 99)}

    def integer(self, depth):
        low = self.rng.randrange(-50, 50)
        more = self.rng.choice([{}, {"multipleOf": self.rng.randrange(2, 6)}])
        return {"type": "integer", "exclusiveMinimum": low, "maximum": low + 60, **more}

    def constant(self, depth):
        return {"const": self.rng.choice([None, True, 3, "é\n", [1, "a"], {"a": 1.5}])}

    def choice(self, depth):
        return {"enum": self.rng.sample([*WORDS, 1, 2.5, None, False, [0]], 4)}

    def plain(self, depth):
        return {"type": self.rng.choice(["boolean", "null", ["boolean", "integer"], "number"])}

    def object(self, depth):
        names = self.rng.sample(WORDS, self.rng.randrange(1, 5))
        made = {
            "type": "object",
            "properties": {name: self.schema(max(depth, 0)) for name in names},
            "required": [name for name in names if self.rng.random() < 0.7],
            "additionalProperties": False,
        }
        return made | ({"description": "told to people only"} if self.rng.random() < 0.3 else {})

    def array(self, depth):
        low = self.rng.randrange(3)
        items = self.schema(max(depth, 0))
        return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}

    def tuple(self, depth):
        items = [self.schema(max(depth, 0)) for _ in range(self.rng.randrange(1, 4))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def any_of(self, depth):
        return {"anyOf": [self.schema(max(depth, 0)) for _ in range(3)]}

    def reference(self, depth):
        """Refers to what `complete` puts under `$defs`."""
        return {"$ref": f"#/$defs/{self.rng.choice('ab')}"}

    def complete(self) -> dict:
        defs = {"a": self.schema(0), "b": self.object(0)}
        return {**self.object(2), "$defs": defs}


@pytest.fixture(scope="module")
def made(tokenizers):
    tok = tokenizers["tags are text"]
    cfg = preset("ling-tiny").replace(vocab_size=VOCAB, num_nextn_predict_layers=1)
    model = from_config(cfg, seed=0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    config = EngineConfig(format="int8" if native.library() else None, speculative="auto")
    engine = Engine(
        runner_for(model, config), config, stop_token_ids=tok.stop_token_ids, has_id=tok.has_id
    )
    compiler = GrammarCompiler(tok, VOCAB, tok.stop_token_ids)
    yield engine, compiler, tok
    compiler.close()


def answers(made, seeds):
    """The schema, request and text of each seed, run together."""
    engine, compiler, tok = made
    schemas = [Schemas(seed).complete() for seed in seeds]
    requests = []
    for seed, schema in zip(seeds, schemas, strict=True):
        grammar = compiler.compile(StructuredOutputs(json=schema, strict=True))
        params = SamplingParams(max_tokens=1500, seed=seed, temperature=(0.7, 1.0)[seed % 2])
        requests.append(engine.add([1 + seed % 200, 7], params, constraint=grammar.matcher()))
    while engine.has_work:
        engine.step()
    return [(s, r, tok.decode(r.output)) for s, r in zip(schemas, requests, strict=True)]


def check(made, seeds) -> None:
    unfinished = []
    for schema, request, text in answers(made, seeds):
        if request.finish_reason == "stop":
            validator = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            )
            validator.validate(json.loads(text))
        else:
            assert request.finish_reason == "length", (request.error, schema)
            unfinished.append(text)
    assert len(unfinished) <= 0.05 * len(seeds), unfinished


def test_answers_of_random_schemas_are_valid(made):
    check(made, range(100))


@pytest.mark.slow
def test_answers_of_500_random_schemas_are_valid(made):
    check(made, range(1000, 1500))
