"""The models that are measured: Ling-mini, and dense models of eight billion parameters beside it.

In tiny runs they are models of the same kinds that take moments on a CPU.
"""

from __future__ import annotations

from ling.config.model import ModelConfig
from ling.presets import preset

LING, QWEN3, LLAMA = "ling-mini-2.0", "qwen3-8b", "llama-3.1-8b"
LAYERS = {LING: 20, QWEN3: 36, LLAMA: 32}
"""Of the whole models; what is measured has few layers."""
CLAIMS = {"tokens_per_s": 300, "ratio": 2.0, "ratio_most": 7.0}
"""Published of Ling-mini: on H20 GPUs, and of long outputs."""
_DENSE = {"num_experts": 0, "num_shared_experts": 0, "num_experts_per_tok": 0}
_TINY = {"n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, **_DENSE}


def shape(name: str, layers: int, *, tiny: bool, mtp: bool = False) -> ModelConfig:
    """A model with `layers` layers, of Ling the first one dense."""
    if name == LING:
        base = preset("ling-tiny" if tiny else name)
        return base.replace(
            num_hidden_layers=layers, first_k_dense_replace=1, num_nextn_predict_layers=int(mtp)
        )
    base = preset("ling-tiny").replace(**_TINY, first_k_dense_replace=3) if tiny else _dense(name)
    return base.replace(num_hidden_layers=layers, first_k_dense_replace=layers)


def _dense(name: str) -> ModelConfig:
    """Shapes as in the models' published config.json."""
    qwen3 = preset("dense-8b").replace(vocab_size=151936, partial_rotary_factor=1.0)
    if name == QWEN3:
        return qwen3
    return qwen3.replace(vocab_size=128256, intermediate_size=14336, use_qk_norm=False)


def rank_of_ep8(layers: int, *, tiny: bool, mtp: bool) -> ModelConfig:
    """Ling with an eighth of the experts: what a rank of EP 8 keeps and computes in a layer, since
    as many rows reach its experts as its tokens send to all."""
    cfg = shape(LING, layers, tiny=tiny, mtp=mtp)
    return cfg if tiny else cfg.replace(num_experts=cfg.num_experts // 8)
