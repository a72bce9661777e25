"""What a text makes of each matrix's inputs: the weights of the errors in `ling convert
--calibrate`.

A column that carries large activations is worth more of a group's precision. The mean square of
every input is measured by running the model in PyTorch over the text (as AWQ and llama.cpp's
importance matrix do, arXiv 2306.00978).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint.load import load_module
from ..checkpoint.source import Source
from ..data.tokenizer import Tokenizer
from ..errors import DataError
from ..files.guarded import open_regular
from ..model.attention import DenseAttend
from ..model.layers import Linear
from ..model.ling import Ling
from ..model.moe import Experts
from ..model.swap import swap
from ..ops import products

MAX_TOKENS = 16384
MAX_TEXT_BYTES = 16 * MAX_TOKENS
ROW = 512
# Below this many rows an expert's own measurement is noise: its layer's is used.
ENOUGH_ROWS = 64


class _Meter:
    """Sums of squares of the columns that went into each matrix."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}

    def add(self, key: str, x: Tensor) -> None:
        if not len(x):
            return
        total = x.float().square().sum(0)
        self.squares[key] = self.squares[key] + total if key in self.squares else total
        self.rows[key] = self.rows.get(key, 0) + len(x)

    def mean(self, key: str) -> Tensor:
        return self.squares[key] / self.rows[key]


class _MeteredLinear(nn.Module):
    def __init__(self, base: Linear, key: str, meter: _Meter) -> None:
        super().__init__()
        self.weight, self.bias, self.key, self.meter = base.weight, base.bias, key, meter

    def forward(self, x: Tensor) -> Tensor:
        self.meter.add(self.key, x)
        return products.linear(x, self.weight, self.bias)


class _MeteredExperts(nn.Module):
    def __init__(self, base: Experts, key: str, meter: _Meter) -> None:
        super().__init__()
        self.base, self.key, self.meter = base, key, meter

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        base = self.base
        out_TD = torch.zeros_like(x_TD, dtype=torch.float32)
        for e in ids_TA.unique().tolist():
            t, a = (ids_TA == e).nonzero(as_tuple=True)
            x = x_TD[t]
            h = nn.functional.silu(x @ base.gate_proj[e].t()) * (x @ base.up_proj[e].t())
            for name, value in (("gate_up_proj", x), ("down_proj", h)):
                self.meter.add(f"{self.key}.{name}.{e}", value)
                self.meter.add(f"{self.key}.{name}", value)
            out_TD[t] += (h @ base.down_proj[e].t()).float() * weights_TA[t, a, None]
        return out_TD.to(x_TD.dtype)


def _packed_key(name: str) -> str:
    """The packed matrix that a Linear's weights go into."""
    return name.replace(".gate_proj", ".gate_up_proj").replace(".up_proj", ".gate_up_proj")


@torch.no_grad()
def importance(
    source: Source, text: Path, tokenizer_folder: Path, log: Callable[[str], None]
) -> dict[str, Tensor]:
    """Mean square per input column, by packed matrix name (with `.e` for an expert of a stack).

    Raises `DataError` for a text that cannot be read or is shorter than a row. The whole model is
    held in bfloat16 meanwhile.
    """
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    ids = tokenizer.encode(_beginning(text))[:MAX_TOKENS]
    if len(ids) < ROW:
        raise DataError(f"{len(ids)} tokens are less than the {ROW} needed to calibrate", path=text)
    if max(ids) >= source.config.vocab_size:
        raise DataError(
            f"holds token {max(ids)}, but the model has {source.config.vocab_size}", path=text
        )
    model = load_module(source, "bfloat16")
    meter = _Meter()
    _meter(model, meter)
    for at in range(0, len(ids) - ROW + 1, ROW):
        rows = torch.tensor(ids[at : at + ROW])
        _forward(model, rows)
    log(f"calibrated on {len(ids) // ROW * ROW} tokens of {text}")
    return _collected(source, meter)


def _beginning(text: Path) -> str:
    """As much of the file as could be needed, without a character that is cut off at the end."""
    try:
        with open_regular(text) as fd, open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_TEXT_BYTES)
        decoder = codecs.getincrementaldecoder("utf-8")()
        return decoder.decode(data, final=len(data) < MAX_TEXT_BYTES)
    except (OSError, UnicodeDecodeError) as err:
        why = getattr(err, "strerror", None) or err
        raise DataError(f"cannot be read as text ({why})", path=text) from None


def _meter(model: Ling, meter: _Meter) -> None:
    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Linear):
            return _MeteredLinear(module, _packed_key(name), meter)
        if isinstance(module, Experts):
            return _MeteredExperts(module, name, meter)
        return None

    swap(model, rule)


def _forward(model: Ling, tokens_T: Tensor) -> None:
    positions, attend = torch.arange(len(tokens_T)), DenseAttend([0, len(tokens_T)])
    hidden = model(tokens_T, positions, attend)
    head = model.lm_head
    assert isinstance(head, _MeteredLinear)
    head.meter.add("lm_head", hidden)  # its scores are not needed
    for j in range(model.config.num_nextn_predict_layers):
        tokens_T = torch.cat((tokens_T[1:], tokens_T[:1]))
        hidden = model.mtp(j, tokens_T, hidden, positions, attend)


def _collected(source: Source, meter: _Meter) -> dict[str, Tensor]:
    found = {key: meter.mean(key) for key in meter.squares}
    for n in range(source.config.num_cache_layers):
        for matrix in ("gate_up_proj", "down_proj"):
            key = f"model.layers.{n}.mlp.experts.{matrix}"
            if key not in found:
                continue
            for e in range(source.config.num_experts):
                one = f"{key}.{e}"
                if meter.rows.get(one, 0) < ENOUGH_ROWS:
                    found[one] = found[key]
    return found
