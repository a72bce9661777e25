"""A real server that is stopped and started again continues with what it had cached."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from ling import from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer

TEXT = "a conversation that is long enough to fill some pages of the cache, word by word by word. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restart")
    model = from_config(preset("ling-tiny"), seed=1)
    save_model(model, model.config, folder)
    train_tokenizer([TEXT] * 10, 300).save(folder)
    return folder


def answered(folder, cache_dir):
    """One chat with a new server, which is then stopped: cached tokens, text, and the choice."""
    command = [sys.executable, "-m", "ling", "serve", str(folder), "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        [*command, "--cache-dir", str(cache_dir)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            url = server.stdout.readline().split()[-1]
            body = {
                "model": folder.name, "messages": [{"role": "user", "content": TEXT * 3}],
                "max_tokens": 8, "seed": 5, "temperature": 0.8, "ignore_eos": True,
            }  # fmt: skip
            request = urllib.request.Request(
                f"{url}/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            reply = json.load(urllib.request.urlopen(request, timeout=30))
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()
    usage = reply["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], reply["choices"][0]["message"]


def test_the_same_chat_after_a_restart_is_cached_and_the_same(folder, tmp_path):
    first, again = (answered(folder, tmp_path / "kv") for _ in range(2))
    assert first[0] == 0
    assert again[0] >= 64
    assert again[0] % 64 == 0
    assert first[1] == again[1]
