"""The demonstration of fine-tuning at a tiny size: data, a run, its result, before and after."""

from __future__ import annotations

import json

import pytest
from tiny_ling import tiny

from ling.checkpoint.hf.save import save_model
from ling.data.conversations.home import NAME, training_and_held_out
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.eval.tool_talk import measure
from ling.llm import LLM
from ling.quickstart_sft import Size, quickstart_sft
from ling.train.log import read_metrics

SIZE = Size(requests=8, held_out=6, steps=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder as `ling quickstart` leaves it, of a model that can say nothing."""
    out = tmp_path_factory.mktemp("quickstart")
    model = tiny(max_position_embeddings=2048, dtype="bfloat16")
    (out / "model").mkdir()
    save_model(model, model.config, out / "model")
    texts = [json.dumps(record) for record in training_and_held_out(requests=8)[0]]
    train_tokenizer(texts, 380).save(out / "model")
    return out


def test_the_whole_demonstration_and_again(base, capsys):
    assert quickstart_sft(base, SIZE) == 0
    said = capsys.readouterr().out
    assert "before   after" in said
    assert f"ling serve {base / 'sft' / 'run' / 'model'}" in said
    rows = read_metrics(base / "sft" / "run" / "metrics.jsonl")
    assert rows[-1]["step"] == 3
    assert rows[-1]["valid_loss"] < rows[0]["loss"]
    model = base / "sft" / "run" / "model"
    assert Tokenizer.from_folder(model).chat_template
    with LLM(model) as llm:
        lines = (base / "sft" / "valid.jsonl").read_text().splitlines()
        score = measure(llm, [json.loads(line) for line in lines], NAME)
    assert [t.free for t in score.talks].count(False) == SIZE.held_out
    assert len(score.introductions) > 10
    assert quickstart_sft(base, SIZE) == 0
    assert "already done" in capsys.readouterr().out
