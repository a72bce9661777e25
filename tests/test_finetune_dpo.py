"""What `objective: dpo` leaves is served: answers have the scores that the run measured."""

from __future__ import annotations

import json

import pytest
from small_sft import WORDS, recipe, write_model

from ling.config.sft import DPOConfig
from ling.data.conversations.records import read_records
from ling.data.conversations.supervise import supervise
from ling.data.conversations.template import open_template
from ling.data.tokenizer import Tokenizer
from ling.finetune import finetune
from ling.infer.request import SamplingParams
from ling.llm import LLM
from ling.train.log import read_metrics

BETA = 0.3
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("dpo")
    write_model(made)
    for name, numbers in (("train", range(12)), ("valid", range(100, 103))):
        pairs = [
            {"prompt": f"{WORDS[n % 5]} {n}", "chosen": "def", "rejected": f"range {WORDS[n % 5]}"}
            for n in numbers
        ]
        (made / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return made


def scores(llm, given, tokenizer, lora=None):
    """Log-probabilities of the held-out answers as the engine has them: chosen, then rejected."""
    template, found = open_template(None, tokenizer), [[], []]
    for pair in read_records(given.data, given.data.valid_files):
        for side, record in enumerate((pair.chosen, pair.rejected)):
            (sample,) = supervise(record, template, tokenizer)
            params = SamplingParams(max_tokens=1, prompt_logprobs=1)
            (out,) = llm.generate({"prompt_token_ids": sample.ids}, params, lora=lora)
            rows = zip(out.prompt_logprobs, sample.labels, strict=True)
            found[side].append(sum(row[i].logprob for row, i in rows if i >= 0))
    return [sum(side) / len(side) for side in found]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_result_is_served_with_the_margin_that_was_measured(folder, tmp_path, method):
    given = recipe(folder, method=method, objective="dpo", lr=3e-3, dpo=DPOConfig(beta=BETA))
    out, said, tokenizer = tmp_path / "run", [], Tokenizer.from_folder(folder / "base")
    assert finetune(given, out, said.append) == 0
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "valid_loss" in row]
    best = min(rows, key=lambda row: row["valid_loss"])
    adapters = {"lora": [f"tuned={out / 'adapter'}"]} if method == "lora" else {}
    with LLM(folder / "base", dtype="float32", **adapters) as llm:
        base = scores(llm, given, tokenizer)
        tuned = scores(llm, given, tokenizer, "tuned") if adapters else None
    if tuned is None:
        with LLM(out / "model", dtype="float32") as llm:
            tuned = scores(llm, given, tokenizer)
    # All weights are written in bfloat16, an adapter in float32.
    near = 5e-2 if method == "full" else 1e-3
    measured = [best["valid_chosen_logp"], best["valid_rejected_logp"]]
    assert tuned == pytest.approx(measured, abs=near)
    margin = BETA * ((tuned[0] - base[0]) - (tuned[1] - base[1]))
    assert margin == pytest.approx(best["valid_reward_margin"], abs=near)
    assert margin > 0.1
    (line,) = [row for row in said if row.startswith("next: ling serve ")]
    assert str(out / ("adapter" if adapters else "model")) in line
