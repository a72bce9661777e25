"""The configuration class as SGLang needs it."""

from __future__ import annotations

from typing import Any

from .hf_config import BailingMoeV2Config


class SGLangConfig(BailingMoeV2Config):
    """Names the matrix that an FP8 checkpoint's MTP layer stores in bfloat16.

    SGLang's draft would otherwise read `eh_proj` as FP8, with a scale that the file lacks.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        quantization = getattr(self, "quantization_config", None)
        if isinstance(quantization, dict) and quantization.get("quant_method") == "fp8":
            first, count = self.num_hidden_layers, self.num_nextn_predict_layers
            names = [f"model.layers.{n}.eh_proj" for n in range(first, first + count)]
            self.quantization_config = {"modules_to_not_convert": names, **quantization}
