"""The reference runner: the module's own hidden states and scores, through pages."""

from __future__ import annotations

import pytest
import torch

from ling.config.engine import EngineConfig
from ling.errors import UsageError
from ling.infer.pages import PAGE, Segment
from ling.infer.torch_runner import TorchRunner
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.ops import limits
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

CFG = preset("ling-tiny").replace(num_nextn_predict_layers=2)


def model(dtype=torch.float32):
    made = from_config(CFG, seed=0, dtype=dtype)
    with torch.no_grad():  # larger weights than at the start of training: layers that matter
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return made


@torch.no_grad()
def dense(made, ids):
    """Hidden states of the main layers and of each MTP layer, without pages."""
    n, tokens = len(ids), torch.tensor(ids)
    positions, attend = torch.arange(n), DenseAttend([0, n])
    out = [made(tokens, positions, attend)]
    for j in range(2):
        out.append(made.mtp(j, tokens.roll(-1 - j), out[-1], positions, attend))
    return out


def test_hidden_states_through_pages_are_those_of_the_module():
    made = model()
    prompts = [torch.randint(384, (n,)).tolist() for n in (100, 30)]
    want = [dense(made, ids) for ids in prompts]
    runner = TorchRunner(made)
    runner.allocate(4)
    pages, got = ([2, 0], [3]), ([[], [], []], [[], [], []])
    for chunk in range(3):  # both requests in one pass, each in three pieces
        size = [34, 10]
        segments, start, tokens = [], 0, []
        for ids, where, n in zip(prompts, pages, size, strict=True):
            piece = ids[chunk * n : chunk * n + n]
            segments.append(Segment(where, chunk * n, start, start + len(piece)))
            tokens, start = tokens + piece, start + len(piece)
        hidden = runner.forward(tokens, segments)
        for j in range(-1, 2):
            if j >= 0:
                following = []
                for ids, s in zip(prompts, segments, strict=True):
                    rolled = torch.tensor(ids).roll(-1 - j).tolist()
                    following += rolled[s.first : s.first + s.stop - s.start]
                hidden = runner.mtp(j, following, hidden, segments)
            for r, s in enumerate(segments):
                got[r][j + 1].append(hidden[s.start : s.stop])
    for r in range(2):
        for have, exact in zip(got[r], want[r], strict=True):
            torch.testing.assert_close(torch.cat(have), exact, atol=1e-4, rtol=1e-4)


def test_scores_are_those_of_the_head_over_the_ids_asked_for():
    made = model()
    runner, hidden = TorchRunner(made), torch.randn(5, CFG.hidden_size)
    want = hidden @ made.lm_head.weight.detach().T
    torch.testing.assert_close(runner.logits(hidden), want)
    torch.testing.assert_close(runner.logits(hidden, 100), want[:, :100])


@pytest.mark.parametrize(
    ("dtype", "kv", "value_type", "bytes_per_head"),
    [
        (torch.float32, "bf16", torch.float32, 4 * 32),
        (torch.bfloat16, "bf16", torch.bfloat16, 2 * 32),
        (torch.bfloat16, "int8", torch.int8, 32 + 4),
        (torch.bfloat16, "int4", torch.uint8, 16 + 4),
    ],
)
def test_the_cache_has_the_type_of_the_module_unless_it_is_an_integer(
    dtype, kv, value_type, bytes_per_head
):
    runner = TorchRunner(model(dtype), EngineConfig(kv_cache_dtype=kv))
    layers = CFG.num_hidden_layers + 2
    assert runner.page_bytes() == 2 * layers * CFG.num_key_value_heads * PAGE * bytes_per_head
    runner.allocate(3)
    for tensor in runner.cache:
        assert tensor.values.dtype == value_type
        width = CFG.head_dim // (2 if kv == "int4" else 1)
        assert tensor.values.shape == (layers, 3, CFG.num_key_value_heads, PAGE, width)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    runner = TorchRunner(model())
    monkeypatch.setattr(limits, "memory_available", lambda: 2 * runner.page_bytes())
    with pytest.raises(UsageError, match="max_model_len=64` fits"):
        runner.allocate(3)
    assert not hasattr(runner, "cache")
