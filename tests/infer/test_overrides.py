"""`hf_overrides`: other positions than the folder says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ling import LLM, SamplingParams
from ling.checkpoint.hf.config import read_config
from ling.config.long_context import stretched
from ling.convert.synth import synth
from ling.ops import native
from ling.presets import preset


@pytest.mark.parametrize("to", ["bf16", pytest.param("int4", marks=pytest.mark.skipif(
    native.library() is None, reason="no kernel library"))])  # fmt: skip
def test_a_folder_opened_with_yarn_answers_as_one_that_says_so(tmp_path, to):
    plain, edited = tmp_path / "plain", tmp_path / "edited"
    cfg = preset("ling-nano").replace(num_hidden_layers=2, max_position_embeddings=64)
    synth(cfg, plain, to=to, log=str)
    fields = stretched(cfg, 256, 4)
    _copy_with(plain, edited, fields)
    prompt, params = list(range(4, 200)), SamplingParams(temperature=0, max_tokens=8)
    with LLM(plain, hf_overrides=fields) as llm:
        ours = llm.generate([prompt], params)[0].outputs[0].token_ids
        assert llm.config.rope_scaling == fields["rope_scaling"]
    with LLM(edited) as llm:
        assert llm.generate([prompt], params)[0].outputs[0].token_ids == ours
    assert read_config(plain).rope_scaling is None


def _copy_with(source: Path, target: Path, fields: dict) -> None:
    import json
    import shutil

    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | fields))
