"""Loads an adapter into vLLM and writes the buffers that it fills; a process of its own.

python vllm_adapter.py MODEL ADAPTER OUT.safetensors
"""

from __future__ import annotations

import os
import sys


def buffers(model: str, adapter: str) -> dict:
    """A and B (with its scale) of each matrix, padded to the largest rank."""
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    llm = LLM(
        model, enforce_eager=True, block_size=32, max_num_seqs=4, max_model_len=256,
        dtype="float32", trust_remote_code=True, enable_lora=True, max_loras=1, max_lora_rank=8,
    )  # fmt: skip
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    assert runner.add_lora(LoRARequest("adapter", 1, adapter))
    found = {}
    for name, module in runner.lora_manager._adapter_manager.modules.items():
        for part, a, b in parts(name, module):
            found |= {f"{part}.a": a[0].contiguous(), f"{part}.b": b[0].contiguous()}
    return found


def parts(name: str, module) -> list:
    """The released names of what a module of vLLM stands for, with the buffers of each."""
    if name.endswith(".experts"):
        buffers = (
            *zip(module.w13_lora_a_stacked, module.w13_lora_b_stacked, strict=True),
            (module.w2_lora_a_stacked[0], module.w2_lora_b_stacked[0]),
        )
        matrices = ("gate_proj", "up_proj", "down_proj")
        return [(f"{name}.{m}", *pair) for m, pair in zip(matrices, buffers, strict=True)]
    names = [name]
    if name.endswith(".gate_up_proj"):
        names = [name.replace("gate_up_proj", matrix) for matrix in ("gate_proj", "up_proj")]
    pairs = zip(names, module.lora_a_stacked, module.lora_b_stacked, strict=True)
    return [(part, a[:, 0], b[:, 0]) for part, a, b in pairs]


if __name__ == "__main__":
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from safetensors.torch import save_file

    save_file(buffers(sys.argv[1], sys.argv[2]), sys.argv[3])
