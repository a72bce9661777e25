"""Runs vLLM on a folder and prints what a test compares, as the last line; a process of its own.

python vllm_tokens.py MODEL '{"prompts": [[1, 2]], "max_tokens": 16, "engine": {"dtype": ...}}'
"""

from __future__ import annotations

import json
import os
import sys


def main(model: str, job: dict) -> dict:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        enforce_eager=True,
        block_size=32,
        max_num_seqs=4,
        disable_log_stats=False,
        **job["engine"],
    )
    net = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    moe = net.model.layers[-1].mlp
    logits_dtypes = set()
    run = moe.experts.forward

    def spy(hidden_states, router_logits, *args, **kwargs):
        logits_dtypes.add(str(router_logits.dtype))
        return run(hidden_states, router_logits, *args, **kwargs)

    moe.experts.forward = spy
    params = SamplingParams(temperature=0, max_tokens=job["max_tokens"], ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    metrics = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
    return {
        "class": type(net).__module__,
        "tokens": [list(o.outputs[0].token_ids) for o in outputs],
        "router_logits": sorted(logits_dtypes),
        "drafted": metrics.get("vllm:spec_decode_num_draft_tokens", 0),
        "accepted": metrics.get("vllm:spec_decode_num_accepted_tokens", 0),
    }


if __name__ == "__main__":
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print("\n" + json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
