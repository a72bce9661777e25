"""Our exports in llama.cpp: same tokens, same logits, same tokenisation.

Skipped where `llama_cpp` is not installed. In an environment of its own:

    pip install 'ling[test]' llama-cpp-python && pytest tests/interop/test_llama_cpp.py

A random model has near-ties at every step, so one is trained here, for a minute of two idle cores;
`LING_INTEROP_MODEL=FOLDER` takes a trained one instead.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source, sink_for
from ling.checkpoint.sink import SinkOptions
from ling.checkpoint.source import Source
from ling.config.optim import OptimConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.data.prepare import prepare
from ling.data.tokenizer import Tokenizer
from ling.infer.request import SamplingParams
from ling.llm import LLM
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.loop import run

lib = pytest.importorskip("llama_cpp")

STEPS, TOKENS = 60, 48
PROMPTS = (
    "import os\n\n\ndef ",
    "class Node:\n    def __init__(self",
    "    def test_",
    "for i in range(",
    "if __name__ == ",
)
TEXTS = (
    "def add(first, second):\n    return first + second  # comment\n\n\n\n",
    "Hello, World's  123456\n\n\n  x=1\t\tñ é 中文字符 🚀🙂 don't WE'LL \r\n\r\n...!!!  end   ",
    "<role>HUMAN</role>hi<|role_end|><role>ASSISTANT</role>",
    " \n \n\n",
    "а́бв ١٢٣ ½ ⅷ a1b2 _x_ --==",
    "'s 'S 'll'LL it's\u00a0\u3000x\u200b",
)
# Difference to our logits in float32, the median over positions of the largest one. llama.cpp
# multiplies bfloat16 weights with bfloat16 activations, and 8-bit weights with 8-bit ones.
TOLERANCE = {"f32": 1e-4, "bf16": 0.03, "q8_0": 0.1}
# Where greedy continuations part, our two best logits are this close. Larger than the above: where
# two experts are nearly tied, rounding sends a token to the other one.
TIE = {"f32": 1e-4, "bf16": 0.3, "q8_0": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A trained model folder in float32, tokenizer included."""
    home = tmp_path_factory.mktemp("trained")
    if "LING_INTEROP_MODEL" in os.environ:
        given = Path(os.environ["LING_INTEROP_MODEL"])
        return as_float32(open_source(given), given, home / "model")
    data = prepare("stdlib", home / "data", vocab_size=2000, max_bytes=1_500_000)
    corpus = DataConfig(
        prefix=[str(data.train_prefix)], tokenizer=str(data.tokenizer_folder), seq_length=256
    )
    train = TrainConfig(steps=STEPS, global_batch_size=2, micro_batch_size=2)
    optim = OptimConfig(lr=3e-3, lr_min=1e-4, warmup_steps=10)
    recipe = PretrainConfig(model="ling-nano", data=corpus, train=train, optim=optim)
    assert run(recipe, home / "run") == 0
    return as_float32(open_source(home / "run"), Path(data.tokenizer_folder), home / "model")


def as_float32(source: Source, tokenizer: Path, target: Path) -> Path:
    """A float32 folder, so that every export starts from the same numbers."""
    target.mkdir()
    sink = sink_for("float32", target, source.config, SinkOptions())
    for name in sink.names:
        sink.put(name, source.tensor(name))
    sink.finish()
    Tokenizer.from_folder(tokenizer).save(target)
    return target


def export(folder: Path, kind: str) -> Path:
    source = open_source(folder)
    target = folder.with_name(f"gguf-{kind}")
    target.mkdir(exist_ok=True)
    path = target / "model.gguf"
    if not path.exists():
        options = SinkOptions(tokenizer=source.tokenizer_folder, gguf_type=kind)
        sink = sink_for("gguf", target, source.config, options)
        for name in sink.names:
            sink.put(name, source.tensor(name))
        sink.finish()
    return path


class Peer:
    """llama.cpp's plain kernels: repacked ones crash on machines that only claim to have AMX."""

    def __init__(self, path: Path) -> None:
        params = lib.llama_model_default_params()
        params.use_extra_bufts = False
        self.model = lib.llama_model_load_from_file(os.fsencode(path), params)
        assert self.model, f"llama.cpp cannot load {path}"
        self.vocab = lib.llama_model_get_vocab(self.model)
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = 2
        options.flash_attn_type = 0
        options.type_k = options.type_v = 0  # float32 keys and values, as ours
        self.context = lib.llama_init_from_model(self.model, options)

    def tokenize(self, text: str, special: bool) -> list[int]:
        data, ids = text.encode(), (lib.llama_token * 1024)()
        n = lib.llama_tokenize(self.vocab, data, len(data), ids, 1024, False, special)
        return list(ids[:n])

    def template(self) -> str:
        return lib.llama_model_chat_template(self.model, None).decode()

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits [T, V] of a sequence from an empty cache."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        return self._step(ids, 0)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The continuation by largest logit, through the cache."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        found = [int(self._step(ids, 0)[-1].argmax())]
        while len(found) < count:
            found.append(int(self._step(found[-1:], len(ids) + len(found) - 1)[-1].argmax()))
        return found

    def _step(self, ids: list[int], start: int) -> np.ndarray:
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        assert lib.llama_decode(self.context, batch) == 0
        size = lib.llama_vocab_n_tokens(self.vocab)
        pointer = ctypes.cast(lib.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        out = np.ctypeslib.as_array(pointer, (len(ids), size)).copy()
        lib.llama_batch_free(batch)
        return out

    def close(self) -> None:
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


@pytest.fixture(params=TOLERANCE)
def peer(request, folder) -> Iterator[tuple[str, Peer]]:
    opened = Peer(export(folder, request.param))
    yield request.param, opened
    opened.close()


def our_logits(folder: Path, ids: list[int]) -> np.ndarray:
    model = load_model(folder, "float32")
    with torch.no_grad():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), DenseAttend([0, len(ids)]))
        return model.logits(hidden).numpy()


def test_logits_are_ours_within_the_format(folder, peer):
    kind, llama = peer
    ids = Tokenizer.from_folder(folder).encode(Path(__file__).read_text()[:900])
    largest = np.abs(llama.logits(ids) - our_logits(folder, ids)).max(-1)
    print(f"{kind}: logits differ by {np.median(largest):.2g}, at most {largest.max():.2g}")
    assert np.median(largest) < TOLERANCE[kind]


def test_greedy_tokens_are_ours(folder, peer):
    """Equal to the end, or up to a step where our two best logits are closer than the format."""
    kind, llama = peer
    tokenizer = Tokenizer.from_folder(folder)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    outputs = LLM(folder, dtype="float32").generate(list(PROMPTS), params)
    whole = 0
    for text, output in zip(PROMPTS, outputs, strict=True):
        prompt = tokenizer.encode(text)
        ours, theirs = list(output.outputs[0].token_ids), llama.greedy(prompt, TOKENS)
        same = next((i for i in range(TOKENS) if ours[i] != theirs[i]), TOKENS)
        whole += same == TOKENS
        if same < TOKENS:
            best = np.sort(our_logits(folder, prompt + ours[:same])[-1])[-2:]
            assert best[1] - best[0] < TIE[kind], (text, same)
    print(f"{kind}: {whole} of {len(PROMPTS)} continuations equal to the end")
    assert whole >= (len(PROMPTS) if kind == "f32" else 1)


def test_text_is_cut_into_our_tokens(folder, peer):
    _, llama = peer
    tokenizer = Tokenizer.from_folder(folder)
    for text in (*TEXTS, *PROMPTS):
        for special in (False, True):
            want = tokenizer.encode(text, parse_special=special)
            assert llama.tokenize(text, special) == want, text


def test_template_and_special_ids_are_ours(folder, peer):
    _, llama = peer
    tokenizer = Tokenizer.from_folder(folder)
    assert llama.template() == tokenizer.chat_template
    assert lib.llama_vocab_eos(llama.vocab) == tokenizer.token_to_id("<|role_end|>")
    assert lib.llama_vocab_bos(llama.vocab) == tokenizer.token_to_id("<|startoftext|>")
    assert not lib.llama_vocab_get_add_bos(llama.vocab)
    for i in tokenizer.stop_token_ids:
        assert lib.llama_vocab_is_eog(llama.vocab, i)


@pytest.mark.parametrize("extra", [{}, {"beta_fast": 16.0, "attention_factor": 1.2}])
def test_yarn_is_computed_as_ours(tmp_path, extra):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128} | extra
    cfg = preset("ling-nano").replace(rope_scaling=scaling, dtype="float32")
    model = from_config(cfg, seed=0)
    with torch.no_grad():  # larger weights than at the start of training, so that positions count
        for name, p in model.named_parameters():
            if "attention" in name and p.ndim > 1:
                p.mul_(3)
    (tmp_path / "model").mkdir()
    save_model(model, cfg, tmp_path / "model")
    llama = Peer(export(tmp_path / "model", "f32"))
    ids = torch.randint(0, 4000, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    difference = np.abs(llama.logits(ids) - our_logits(tmp_path / "model", ids)).max()
    llama.close()
    assert difference < TOLERANCE["f32"]
    plain = from_config(cfg.replace(rope_scaling=None), seed=0)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        hidden = plain(torch.tensor(ids), torch.arange(400), DenseAttend([0, 400]))
    without = np.abs(plain.logits(hidden).detach().numpy() - our_logits(tmp_path / "model", ids))
    assert without.max() > 100 * TOLERANCE["f32"]  # else this test could not fail


def test_llama_cpp_quantises_our_export_to_our_mixture(tmp_path):
    """`Q4_K_M` made by llama.cpp from our file, against `mixed_kind`; and the file reads back."""
    from ling.checkpoint.gguf.names import gguf_specs
    from ling.checkpoint.raw.gguf_header import read_header
    from ling.convert.synth_gguf import mixed_kind

    cfg = preset("ling-nano").replace(
        moe_intermediate_size=256, num_hidden_layers=8, n_group=1, topk_group=1, vocab_size=512
    )
    (tmp_path / "model").mkdir()
    save_model(from_config(cfg, seed=0), cfg, tmp_path / "model")
    path, target = export(tmp_path / "model", "bf16"), tmp_path / "q4_k_m.gguf"
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = 15, 2
    assert lib.llama_model_quantize(os.fsencode(path), os.fsencode(target), params) == 0
    got = {n: t.kind.name for n, t in read_header(target).tensors.items()}
    want = {n: mixed_kind(n, s, "q4_k_m", 9).name for n, s in gguf_specs(cfg).items()}
    assert got == want
    pytest.importorskip("gguf")
    before, after = open_source(path), open_source(target)
    for name in ("model.layers.3.mlp.experts.5.down_proj.weight", "lm_head.weight"):
        exact, error = before.tensor(name).float(), after.tensor(name).float()
        assert float((error - exact).norm() / exact.norm()) < 0.12
