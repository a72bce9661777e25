"""vLLM on CPU gives our greedy tokens, with and without MTP speculation.

Run with `scripts/interop vllm`. This package is installed there, not only on the path: vLLM finds
the plugin through its entry point.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("vllm")

import ling
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.data.tokenizer import Tokenizer
from ling.infer.engine import Engine
from ling.infer.open import open_runner

pytestmark = pytest.mark.skipif(
    "ling" not in entry_points(group="vllm.general_plugins").names,
    reason="ling is not installed: vLLM sees no entry point",
)
RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain" / "tiny.yaml"
PROMPTS = ["def ", "import os\n", "class Foo(", "for i in range("]
MAX_TOKENS = 64


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Trains `ling-tiny` briefly, with or without an MTP layer, and converts it once."""
    room, done = tmp_path_factory.mktemp("vllm"), {}

    def folder(mtp: int, to: str) -> Path:
        run = room / f"run-{mtp}"
        if mtp not in done:
            layers = json.dumps({"num_nextn_predict_layers": mtp})
            words = ["pretrain", RECIPE, "--out", run, "--model_overrides", layers]
            words += ["--train.steps", 100, "--train.threads", 1]
            command = [sys.executable, "-m", "ling", *map(str, words)]
            subprocess.run(command, check=True, timeout=1200, capture_output=True)
            done[mtp] = run
        out = room / f"{mtp}-{to}"
        if not out.exists():
            convert(run, out, to=to)
        return out

    return folder


def ours(folder, dtype):
    llm = ling.LLM(str(folder), dtype=dtype)
    params = ling.SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    outputs = llm.generate(PROMPTS, params)
    prompts = [list(o.prompt_token_ids) for o in outputs]
    return prompts, [list(o.outputs[0].token_ids) for o in outputs]


def our_acceptance(folder):
    """Share of drafts that our engine keeps: one token drafted every step, as vLLM with k = 1."""
    tokenizer = Tokenizer.from_folder(folder)
    engine = Engine(
        open_runner(folder, EngineConfig(dtype="float32")),
        EngineConfig(speculative="mtp"),
        adaptive=False,  # `ling.LLM` drafts only while that pays, and so other positions
        has_id=tokenizer.has_id,
    )
    params = ling.SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    for prompt in PROMPTS:
        engine.add(tokenizer.encode(prompt), params)
    while engine.has_work:
        engine.step()
    return engine.stats.acceptance


def theirs(folder, prompts, env=None, **engine):
    engine = {"dtype": "float32", "max_model_len": 256, **engine}
    job = {"prompts": prompts, "max_tokens": MAX_TOKENS, "engine": engine}
    script = Path(__file__).with_name("vllm_tokens.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("draft_tokens", [0, 1, 3])
def test_mtp_checkpoint_gives_our_tokens(make, draft_tokens):
    folder = make(1, "float32")
    prompts, tokens = ours(folder, "float32")
    speculation = {"method": "mtp", "num_speculative_tokens": draft_tokens}
    engine = {"speculative_config": speculation} if draft_tokens else {}
    result = theirs(folder, prompts, **engine)
    assert result["class"] == "ling.plugins.vllm_models"
    assert result["tokens"] == tokens
    if draft_tokens == 1:
        # A wrong embedding, head, norm or position would change no token, but what is kept.
        share = result["accepted"] / result["drafts"]
        assert share == pytest.approx(our_acceptance(folder), abs=0.05)
        assert share > 0.3
    else:
        assert (result["drafts"] > 0) == (draft_tokens > 0)


def test_speculation_survives_another_process(make):
    """The engine in a process of its own: vLLM sends it the draft's configuration by pickle."""
    folder = make(1, "float32")
    prompts, tokens = ours(folder, "float32")
    code = (
        "import json, sys\n"
        "from vllm import LLM, SamplingParams\n"
        "if __name__ == '__main__':\n"
        "    llm = LLM(sys.argv[1], dtype='float32', enforce_eager=True, block_size=32,\n"
        "        max_model_len=256, max_num_seqs=4,\n"
        "        speculative_config={'method': 'mtp', 'num_speculative_tokens': 1})\n"
        "    out = llm.generate([{'prompt_token_ids': p} for p in json.loads(sys.argv[2])],\n"
        f"        SamplingParams(temperature=0, max_tokens={MAX_TOKENS}, ignore_eos=True))\n"
        "    print('\\n' + json.dumps([list(o.outputs[0].token_ids) for o in out]))\n"
    )
    script = folder.parent / "other_process.py"
    script.write_text(code)
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps(prompts)],
        capture_output=True,
        text=True,
        timeout=1200,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert tokens == next(
        json.loads(x) for x in reversed(done.stdout.splitlines()) if x.startswith("[[")
    )


def test_yarn_flags_of_deploy_give_our_tokens(make, tmp_path):
    """The overrides reach target and draft alike: the acceptance stays."""
    from ling.plugins.deploy import deploy

    folder = make(1, "float32")
    argv = deploy("vllm", str(folder), context=2048)["argv"]
    overrides = json.loads(argv[argv.index("--hf-overrides") + 1])
    rope = overrides["rope_parameters"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    prompts, tokens = ours(tmp_path, "float32")
    result = theirs(
        folder,
        prompts,
        max_model_len=2048,
        hf_overrides=overrides,
        speculative_config={"method": "mtp", "num_speculative_tokens": 1},
    )
    assert result["tokens"] == tokens
    assert result["accepted"] / result["drafts"] == pytest.approx(
        our_acceptance(tmp_path), abs=0.05
    )


def test_bf16_speculation_changes_no_token_and_routes_in_float32(make):
    folder = make(1, "bf16")
    prompts, _ = ours(folder, "bfloat16")
    plain = theirs(folder, prompts, dtype="bfloat16")
    assert plain["router_logits"] == ["torch.float32"]
    speculation = {"method": "mtp", "num_speculative_tokens": 1}
    drafted = theirs(folder, prompts, dtype="bfloat16", speculative_config=speculation)
    assert drafted["tokens"] == plain["tokens"]


@pytest.mark.parametrize("to", ["float32", "bf16"])
def test_folder_without_mtp_loads_in_vllm_as_released(make, to, tmp_path):
    """No `ling` in that process: only the files that the folder brings along."""
    folder = make(0, to)
    dtype = "float32" if to == "float32" else "bfloat16"
    prompts, tokens = ours(folder, dtype)
    (tmp_path / "ling.py").write_text("raise ImportError('not installed')\n")
    env = {"VLLM_PLUGINS": "", "PYTHONPATH": str(tmp_path)}
    result = theirs(folder, prompts, env=env, dtype=dtype, trust_remote_code=True)
    assert result["class"] == "vllm.model_executor.models.bailing_moe"
    if to == "float32":
        assert result["tokens"] == tokens
