"""SGLang's entry point: teaches it the configuration; its own classes run Ling 2.0 and its MTP.

Anything unexpected is logged in one line and leaves SGLang as it was.
"""

from __future__ import annotations

import logging

log = logging.getLogger("sglang.ling")


def register() -> None:
    """Register the configuration class unless SGLang has one."""
    try:
        from .hf_config import register as register_config
        from .sglang_config import SGLangConfig

        if not register_config(SGLangConfig):
            log.info("ling stands back: there is a configuration class for Ling 2.0")
    except Exception as err:
        log.warning("ling stands back, SGLang goes on without it: %s: %s", type(err).__name__, err)
