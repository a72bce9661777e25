"""Random modules, the same with the values that packed weights stand for, and how far rows are."""

from __future__ import annotations

from functools import partial

import torch

from ling.checkpoint.packed.load import PackedAtLoad
from ling.checkpoint.packed.matrices import unpack_matrix
from ling.checkpoint.packed.names import packed_specs
from ling.model.ling import from_config
from ling.model.names import module_tensor
from ling.ops.formats import FORMATS

# Norm of a row's difference over its norm, after three layers. bfloat16 rounds every activation to
# 8 bits of mantissa; integer formats quantise activations to 8 bits a group; weights are the same.
BOUND = {"bf16": 0.02, "fp8": 0.02} | dict.fromkeys(("int8", "int4", "int4_g32", "int3"), 0.04)


def random_model(cfg, scale=4.0):
    """Larger than at the start of training, with norms, biases and choices that matter."""
    model = from_config(cfg, seed=0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.mul_(scale)
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.1)
            else:
                p.copy_(0.5 + torch.rand(p.shape, generator=g))
        for name, b in model.named_buffers():
            if name.endswith("expert_bias"):
                b.copy_(torch.randn(b.shape, generator=g) * 0.05)
        model.model.word_embeddings.weight.copy_(
            model.model.word_embeddings.weight.bfloat16().float()
        )
        for name, p in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                p.copy_(p.bfloat16().float())
    return model


def unpacked(cfg, model, fmt):
    """The same model with the values that the packed weights stand for."""
    source = PackedAtLoad(cfg, FORMATS[fmt], partial(module_tensor, model.state_dict()))
    twin = from_config(cfg, seed=0)
    twin.load_state_dict(model.state_dict())
    tensor = partial(module_tensor, twin.state_dict())
    with torch.no_grad():
        for spec in packed_specs(cfg).values():
            if cfg.tie_word_embeddings and spec.name == "lm_head":
                continue  # the head is packed, the embedding is not
            packed = source.matrix(spec)
            for e in range(max(spec.experts, 1)):
                for name, value in zip(spec.parts(e), unpack_matrix(spec, packed, e), strict=True):
                    tensor(name).copy_(value)
    return twin


def distances(got, want):
    return (got - want).norm(dim=1) / want.norm(dim=1)
