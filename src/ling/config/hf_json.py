"""The object in a `config.json`, read and checked as far as it needs no `ModelConfig`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files.guarded import loads
from ..text import as_json, shown

log = logging.getLogger("ling.config")

MAX_CONFIG_BYTES = 1 << 20


QUANT_METHODS = ("fp8", "ling")


# The FP8 scheme of the released models (docs/concepts/model.md#fp8); a key left out means this.
FP8_SCHEME: dict[str, Any] = {"fmt": "e4m3", "weight_block_size": [128, 128]}


def read_raw(path: Path) -> dict[str, Any]:
    """The object in a `config.json`; `ConfigError` says why there is none."""
    try:
        if not path.is_file():
            raise ConfigError("no such file")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"larger than {MAX_CONFIG_BYTES} bytes")
        raw = loads(path.read_bytes())
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(str(err)) from None
    except OSError as err:
        raise ConfigError(str(err.strerror)) from None
    if not isinstance(raw, dict):
        raise ConfigError("expected a JSON object")
    return raw


# Where tools that do not write `quantization_config` say that weights are quantised.
_OTHER_KEYS = {"compression_config": "compressed-tensors", "quantization": "mlx"}
_TOOLS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "auto-round": "AutoRound",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "hqq": "HQQ",
    "mlx": "MLX",
    "modelopt": "NVIDIA ModelOpt",
    "quanto": "Quanto",
    "torchao": "torchao",
}


def not_ours(method: str) -> str:
    """Why weights of another tool are refused, and what to do instead."""
    tool = _TOOLS.get(method.lower().replace("_", "-"), method)
    return (
        f"weights quantised by {shown(tool)} cannot be read; take the original model (bf16 or FP8) "
        "and make it small with `ling convert MODEL OUT --to int4`"
    )


def check_quantization(raw: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of a `config.json`, or None; `ConfigError` for what we cannot read."""
    for key, tool in _OTHER_KEYS.items():
        if isinstance(raw.get(key), dict) and raw[key]:
            raise ConfigError(f"`{key}`: {not_ours(tool)}")
    quantization = raw.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        raise ConfigError(f"`quantization_config` is {as_json(quantization)}, expected an object")
    method: Any = quantization.get("quant_method")
    if method is None and any(quantization.get(f"load_in_{bits}bit") for bits in (4, 8)):
        method = "bitsandbytes"
    if isinstance(method, str) and method not in QUANT_METHODS:
        raise ConfigError(f"`quantization_config.quant_method`: {not_ours(method)}")
    if method not in QUANT_METHODS:
        raise ConfigError(
            f"`quantization_config.quant_method` is {as_json(method)}, "
            f"expected {' or '.join(QUANT_METHODS)}"
        )
    for key, value in FP8_SCHEME.items() if method == "fp8" else ():
        if quantization.get(key, value) != value:
            raise ConfigError(
                f"`quantization_config.{key}` is {as_json(quantization[key])}, expected {value}"
            )
    return quantization


def read_rope_parameters(raw: dict[str, Any], values: dict[str, Any]) -> None:
    """Accept transformers 5's `rope_parameters` where the older fields are absent, and `{}` for no
    `rope_scaling`."""
    if values.get("rope_scaling") == {}:
        values["rope_scaling"] = None
    new = raw.get("rope_parameters")
    if not isinstance(new, dict):
        return
    for key in ("rope_theta", "partial_rotary_factor"):
        if new.get(key) is not None:
            values.setdefault(key, new[key])
    kind = new.get("rope_type", new.get("type", "default"))
    if kind != "default" and values.get("rope_scaling") is None:
        values["rope_scaling"] = {
            k: v for k, v in new.items() if k not in ("rope_theta", "partial_rotary_factor")
        }


def read_special_ids(values: dict[str, Any], vocab_size: int) -> None:
    """Take ids below 0 for none, and a list in `eos_token_id` apart: one id leads, all are kept."""
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
        if type(values.get(name)) is int and values[name] < 0:
            log.warning("`%s` is %d, which is no id of a token: ignored", name, values.pop(name))
    listed = values.get("eos_token_id")
    if not isinstance(listed, list):
        return
    if not all(type(i) is int for i in listed):
        raise ConfigError(f"`eos_token_id` is {as_json(listed)}, expected whole numbers")
    del values["eos_token_id"]
    usable = [i for i in listed if i >= 0]
    usable.sort(key=lambda i: i >= vocab_size)  # stable: ids of tokens first
    if usable:
        values |= {"eos_token_id": usable[0], "end_token_ids": tuple(dict.fromkeys(listed))}
