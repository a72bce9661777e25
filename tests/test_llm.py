"""`ling.LLM` by its public methods: texts, stop strings, streams and what it refuses."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from random_adapters import merge, random_adapter

from ling import LLM, SamplingParams, StructuredOutputs, from_config, preset
from ling.checkpoint.adapter.read import read_adapter
from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.errors import CheckpointError, RequestError, TemplateError

TEXTS = ["def f(x):", "import os", "class A:\n    pass"]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    model = from_config(preset("ling-tiny"), seed=1)
    save_model(model, model.config, folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder, tmp_path_factory):
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS * 10, 300).save(tokenizer)
    return LLM(folder, dtype="float32", tokenizer=tokenizer)


def with_(**changes) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **changes})


def test_text_is_that_of_the_tokens(llm):
    outputs = llm.generate(TEXTS, GREEDY)
    assert [o.prompt for o in outputs] == TEXTS
    for out in outputs:
        assert out.prompt_token_ids == llm.tokenizer.encode(out.prompt)
        (one,) = out.outputs
        assert len(one.token_ids) == 12
        assert one.text == llm.tokenizer.decode(one.token_ids)
        assert (one.finish_reason, one.stop_reason, one.logprobs) == ("length", None, None)


def test_adapters_are_chosen_by_name(folder, tmp_path):
    cfg = preset("ling-tiny")
    for seed in (1, 2):
        write_adapter(tmp_path / f"a{seed}", random_adapter(cfg, seed), cfg, alpha=2)
    several = LLM(folder, dtype="float32", lora={"x": tmp_path / "a1", "y": tmp_path / "a2"})
    ids = [[3, 4, 5]]

    def tokens(llm, **options):
        return llm.generate(ids, GREEDY, **options)[0].outputs[0].token_ids

    base, x, y = (tokens(several, lora=name) for name in (None, "x", "y"))
    assert len({tuple(t) for t in (base, x, y)}) == 3
    assert [i for c in several.stream(ids[0], GREEDY, lora="y") for i in c.token_ids] == y
    with pytest.raises(RequestError, match="there is no adapter `z`"):
        several.generate(ids, GREEDY, lora="z")
    assert tokens(LLM(folder, dtype="float32", lora=tmp_path / "a1")) == x
    (tmp_path / "merged").mkdir()
    merged = merge(from_config(cfg, seed=1), read_adapter(tmp_path / "a1", cfg))
    save_model(merged, cfg, tmp_path / "merged")
    assert tokens(LLM(tmp_path / "merged", dtype="float32")) == x


def test_an_adapter_that_is_none_is_refused_before_weights_are_read(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing: no such adapter folder"):
        LLM(folder, lora=tmp_path / "nothing")


CACHED = list(range(3, 150))
END = """
import sys
from ling import LLM, SamplingParams
llm = LLM(sys.argv[1], dtype="float32", cache_dir=sys.argv[2])
out = llm.generate([list(range(3, 150))], SamplingParams(temperature=0, max_tokens=5))
print(out[0].num_cached_tokens, out[0].outputs[0].token_ids)
"""


def test_a_cached_prefix_outlives_the_process(folder, tmp_path):
    """Nobody closes the first one: the end of Python does."""
    args = [sys.executable, "-c", END, str(folder), str(tmp_path / "kv")]
    out = subprocess.run(args, capture_output=True, text=True, check=True)
    assert out.stderr == ""
    with LLM(folder, dtype="float32", cache_dir=str(tmp_path / "kv")) as llm:
        (again,) = llm.generate([CACHED], SamplingParams(temperature=0, max_tokens=5))
        assert again.num_cached_tokens == 128
        assert out.stdout == f"0 {again.outputs[0].token_ids}\n"
        llm.generate([CACHED[1:]], GREEDY)
    assert len(list((tmp_path / "kv").glob("*/*.kv"))) == 4  # saved by `close`


def test_a_collected_model_saves_its_prefixes(folder, tmp_path):
    llm = LLM(folder, dtype="float32", cache_dir=str(tmp_path))
    llm.generate([CACHED], GREEDY)
    del llm
    gc.collect()
    assert len(list(tmp_path.glob("*/*.kv"))) == 2


def test_outputs_have_the_experts_of_their_tokens_if_asked(llm):
    options = {"n": 2, "temperature": 1.0, "seed": 3}
    prompts = [[5, 6, 7], list(range(9, 99))]
    plain = llm.generate(prompts, with_(**options))
    asked = llm.generate(prompts, with_(**options, return_routed_experts=True))
    for prompt, a, b in zip(prompts, plain, asked, strict=True):
        for without, out in zip(a.outputs, b.outputs, strict=True):
            assert without.routed_experts is without.routed_expert_weights is None
            assert without.token_ids == out.token_ids
            # Two layers have experts, and a token takes two of them.
            assert out.routed_experts.shape == (len(prompt) + 11, 2, 2)
            assert out.routed_expert_weights.shape == out.routed_experts.shape
    first, second = (o.routed_experts[:90] for o in asked[1].outputs)
    assert np.array_equal(first, second)  # one prompt


def test_a_stop_string_cuts_experts_with_the_text(llm, whole):
    """The engine may be further than the text."""
    stop = with_(max_tokens=24, stop=[whole[4:7]], return_routed_experts=True)
    prompt = llm.tokenizer.encode(TEXTS[0])
    (out,) = llm.generate([prompt], stop)[0].outputs
    assert len(out.routed_experts) == len(prompt) + len(out.token_ids) - 1
    chunks = list(llm.stream(prompt, stop))
    for name in ("routed_experts", "routed_expert_weights"):
        rows = np.concatenate([getattr(chunk, name) for chunk in chunks])
        assert np.array_equal(rows, getattr(out, name))


def test_a_stream_has_the_experts_of_each_token_as_it_comes(llm):
    prompt = llm.tokenizer.encode(TEXTS[0])
    whole = llm.generate([prompt], with_(return_routed_experts=True))[0].outputs[0]
    answer = with_(return_routed_experts=True, routed_experts_start_len=-1)
    chunks = [c for c in llm.stream(prompt, answer) if c.token_ids]
    assert [len(c.routed_experts) for c in chunks] == [len(c.token_ids) for c in chunks]
    rows = np.concatenate([c.routed_experts for c in chunks])
    assert np.array_equal(rows, whole.routed_experts[len(prompt) - 1 :])


def test_every_form_of_a_prompt_gives_the_same(llm):
    ids = llm.tokenizer.encode(TEXTS[0])
    forms = [TEXTS[0], [TEXTS[0]], ids, [ids], {"prompt": TEXTS[0]}, {"prompt_token_ids": ids}]
    tokens = [llm.generate(form, GREEDY)[0].outputs[0].token_ids for form in forms]
    assert all(t == tokens[0] for t in tokens)
    assert llm.generate([], GREEDY) == []


def test_params_may_differ_by_prompt_and_n_gives_so_many_answers(llm):
    few, many = llm.generate(TEXTS[:2], [with_(max_tokens=2), with_(n=3, temperature=1.0, seed=5)])
    assert [len(o.token_ids) for o in few.outputs] == [2]
    assert [o.index for o in many.outputs] == [0, 1, 2]
    assert len({tuple(o.token_ids) for o in many.outputs}) > 1
    with pytest.raises(RequestError, match="2 sampling params for 1 prompts"):
        llm.generate("x", [GREEDY, GREEDY])


@pytest.fixture(scope="module")
def whole(llm):
    text = llm.generate(TEXTS[0], with_(max_tokens=24))[0].outputs[0].text
    assert len(text) > 8
    return text


def test_stop_string_ends_the_text_before_its_first_occurrence(llm, whole):
    stop = whole[4:7]  # wherever tokens split it
    (out,) = llm.generate(TEXTS[0], with_(max_tokens=24, stop=["never there", stop]))[0].outputs
    assert (out.text, out.finish_reason, out.stop_reason) == (
        whole[: whole.find(stop)],
        "stop",
        stop,
    )
    included = with_(max_tokens=24, stop=stop, include_stop_str_in_output=True)
    assert llm.generate(TEXTS[0], included)[0].outputs[0].text == whole[: whole.find(stop) + 3]


def test_stop_token_is_not_in_the_text(llm):
    ids = llm.generate(TEXTS[0], GREEDY)[0].outputs[0].token_ids
    stop = ids[5]
    (out,) = llm.generate(TEXTS[0], with_(stop_token_ids=[stop]))[0].outputs
    assert (out.finish_reason, out.stop_reason) == ("stop", stop)
    first = ids.index(stop)
    assert out.token_ids == ids[: first + 1]
    assert out.text == llm.tokenizer.decode(ids[:first])


@pytest.mark.parametrize("stop", [None, "stop"])
def test_stream_gives_the_same_text_in_pieces(llm, whole, stop):
    params = with_(max_tokens=24, stop=[whole[4:7]] if stop else [], logprobs=0)
    want = llm.generate(TEXTS[0], params)[0].outputs[0]
    chunks = list(llm.stream(TEXTS[0], params))
    assert "".join(c.text for c in chunks) == want.text
    assert [t for c in chunks for t in c.token_ids] == want.token_ids
    assert [m for c in chunks for m in c.logprobs] == want.logprobs
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == (
        want.finish_reason,
        want.stop_reason,
    )


@pytest.mark.parametrize("has_begun", [True, False])
def test_stream_that_is_left_stops_the_request(llm, has_begun):
    stream = llm.stream(TEXTS[0], with_(max_tokens=400))
    if has_begun:
        next(stream)
    stream.close()
    before = llm.stats.generated
    assert llm.generate(TEXTS[1], GREEDY)[0].outputs[0].finish_reason == "length"
    # The step that runs while the stream is closed may still end.
    assert llm.stats.generated - before in (12, 13)


def test_logprobs_are_those_of_the_tokens_with_ranks_and_texts(llm):
    out = llm.generate(TEXTS[0], with_(logprobs=2, prompt_logprobs=1))[0]
    (one,) = out.outputs
    for token, scores in zip(one.token_ids, one.logprobs, strict=True):
        best = sorted(scores.values(), key=lambda s: -s.logprob)
        assert [s.rank for s in best[:2]] == [1, 2]
        assert len(best) <= 3  # ids without a token are scored, though never chosen
        assert scores[token].decoded_token == llm.tokenizer.decode([token])
    own = [s[t].logprob for s, t in zip(one.logprobs, one.token_ids, strict=True)]
    assert one.cumulative_logprob == pytest.approx(sum(own))
    assert out.prompt_logprobs[0] is None
    assert len(out.prompt_logprobs) == len(out.prompt_token_ids)
    for token, scores in zip(out.prompt_token_ids[1:], out.prompt_logprobs[1:], strict=True):
        assert token in scores


def test_log_probabilities_read_like_a_dict(llm):
    (one,) = llm.generate(TEXTS[0], with_(logprobs=3))[0].outputs
    scores = one.logprobs[0]
    plain = dict(scores)
    assert scores == plain == dict(scores.items())
    assert list(scores) == list(plain)
    assert next(iter(scores)) == one.token_ids[0]
    assert (len(scores), list(scores.values())) == (len(plain), list(plain.values()))
    assert repr(scores) == repr(plain)
    assert -1 not in scores
    with pytest.raises(KeyError):
        scores[-1]


def test_chat_answers_the_rendered_conversation(llm):
    messages = [{"role": "user", "content": "hi"}]
    text = llm.render(messages)
    assert "<role>HUMAN</role>hi" in text
    (out,) = llm.chat(messages, GREEDY)
    assert out.prompt == text
    assert out.prompt_token_ids == llm.tokenizer.encode(text, parse_special=True)
    assert len(llm.chat([messages, messages], GREEDY)) == 2
    streamed = "".join(c.text for c in llm.stream_chat(messages, GREEDY))
    assert streamed == out.outputs[0].text


def test_threads_get_the_answers_of_one(llm):
    want = [o.outputs[0].token_ids for o in llm.generate(TEXTS, GREEDY)]
    got: list = [None] * len(TEXTS)

    def ask(i):
        got[i] = llm.generate(TEXTS[i], GREEDY)[0].outputs[0].token_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == want


@pytest.mark.parametrize("prompt", [3.5, {"prompt": None}, [1, "x"], [True], {}])
def test_what_is_no_prompt_is_refused(llm, prompt):
    with pytest.raises(RequestError, match="a prompt is text or a list of token ids"):
        llm.generate([prompt], GREEDY)


def test_one_unusable_prompt_stops_all_before_they_run(llm):
    with pytest.raises(RequestError):
        llm.generate(["fine", [10**6]], GREEDY)
    with pytest.raises(RequestError):
        llm.stream([10**6], GREEDY)
    assert llm.generate("fine", GREEDY)[0].finished


def test_model_without_a_tokenizer_takes_ids_alone(folder):
    llm = LLM(folder, dtype="float32")
    (out,) = llm.generate([1, 2, 3], GREEDY)
    assert (out.prompt, out.outputs[0].text, len(out.outputs[0].token_ids)) == (None, "", 12)
    for ask, words in (
        (lambda: llm.generate("text", GREEDY), "no tokenizer: give token ids"),
        (lambda: llm.generate([1], with_(stop=["x"])), "stop strings need a tokenizer"),
        (lambda: llm.chat([{"role": "user", "content": "x"}]), "it takes token ids, not messages"),
    ):
        with pytest.raises(RequestError, match=words):
            ask()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_arrays_of_whole_numbers_are_prompts(llm, dtype):
    want = llm.generate([65, 66, 67], GREEDY)[0].outputs[0].token_ids
    array = np.array([65, 66, 67], dtype)
    tensor = torch.tensor([65, 66, 67], dtype=getattr(torch, dtype))
    for ids in (array, tensor, list(array), list(tensor), tuple(array)):
        for form in (ids, [ids], {"prompt_token_ids": ids}, {"prompt": ids}):
            (out,) = llm.generate(form, GREEDY)
            assert out.outputs[0].token_ids == want
            assert all(type(i) is int for i in out.prompt_token_ids)
    rows = llm.generate(np.array([[65, 66, 67]] * 2, dtype), GREEDY)
    assert [r.outputs[0].token_ids for r in rows] == [want, want]
    assert llm.generate(np.array([], dtype), GREEDY) == []


@pytest.mark.parametrize(
    "prompt",
    [
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.array(3),
        torch.tensor([1.0]),
        [np.float32(1)],
        [[np.int64(1)], 2],
    ],
)
def test_arrays_of_other_things_are_refused(llm, prompt):
    with pytest.raises(RequestError, match="a prompt is text or a list of token ids"):
        llm.generate({"prompt_token_ids": prompt}, GREEDY)


def test_minus_one_and_none_fill_the_context(llm):
    for most in (-1, None, 2**63, np.int64(-1), -1.0):
        (out,) = llm.generate([65] * 500, with_(max_tokens=most))
        assert (len(out.outputs[0].token_ids), out.outputs[0].finish_reason) == (12, "length")


def test_min_tokens_above_the_room_is_refused(llm):
    with pytest.raises(RequestError, match="has room for 12") as caught:
        llm.generate([65] * 500, with_(max_tokens=None, min_tokens=13))
    assert caught.value.param == "min_tokens"
    with pytest.raises(RequestError, match="above `max_tokens`"):
        with_(max_tokens=3, min_tokens=5)


def test_min_tokens_holds_stop_strings_back(llm):
    text = llm.generate(TEXTS[0], with_(max_tokens=40))[0].outputs[0].text
    stop = text[:2]
    assert llm.generate(TEXTS[0], with_(max_tokens=40, stop=stop))[0].outputs[0].text == ""
    (one,) = llm.generate(TEXTS[0], with_(max_tokens=40, min_tokens=20, stop=stop))[0].outputs
    assert len(one.token_ids) >= 20
    # Without the end token in its first 20, as here.
    (whole,) = llm.generate(TEXTS[0], with_(max_tokens=40, min_tokens=20))[0].outputs
    assert whole.text.startswith(one.text)


@pytest.fixture(scope="module")
def poisoned(folder, tmp_path_factory):
    """A model whose token 7 has no finite embedding, without a tokenizer."""
    model = from_config(preset("ling-tiny"), seed=1)
    with torch.no_grad():
        model.model.word_embeddings.weight[7] = float("nan")
    bad = tmp_path_factory.mktemp("poisoned")
    save_model(model, model.config, bad)
    return bad


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {}, {"speculative": "mtp"}], ids=str)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_request_without_finite_scores_fails_alone(poisoned, options, temperature):
    llm = LLM(poisoned, **options)
    params = with_(temperature=temperature, seed=3, max_tokens=30)
    want = llm.generate([1, 2, 3], params)[0].outputs[0]
    if want.finish_reason == "error":  # it chose the poisoned token itself
        pytest.skip("the healthy prompt meets token 7")
    good, bad, other = llm.generate([[1, 2, 3], [4, 7, 5], [1, 2, 3]], params)
    assert good.outputs[0] == want
    assert other.outputs[0].token_ids == want.token_ids
    (failed,) = bad.outputs
    assert (failed.finish_reason, failed.token_ids) == ("error", [])
    assert "not finite" in failed.error
    for ask in (
        lambda: llm.generate([4, 7, 5], params),
        lambda: list(llm.stream([4, 7, 5], params)),
        lambda: llm.generate([4, 7, 5], with_(max_tokens=1, prompt_logprobs=1)),
    ):
        with pytest.raises(RequestError, match="not finite") as caught:
            ask()
        assert caught.value.status == 500
    assert llm.generate([1, 2, 3], params)[0].outputs[0] == want
    assert not llm.engine.has_work


def test_request_without_an_id_left_fails_alone(llm):
    every = with_(min_tokens=2, stop_token_ids=list(range(llm.config.vocab_size)))
    for params in (every, with_(temperature=1.0, repetition_penalty=1e-300)):
        good, bad = llm.generate(TEXTS[:2], [GREEDY, params])
        assert (good.outputs[0].finish_reason, bad.outputs[0].finish_reason) == ("length", "error")
        assert "token" in bad.outputs[0].error or "penalties" in bad.outputs[0].error


def test_chat_continues_the_last_message_of_the_assistant(llm):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " so, "}]
    (out,) = llm.chat(messages, GREEDY, continue_final_message=True)
    assert out.prompt == llm.render(messages[:1]) + " so, "
    assert out.prompt_token_ids == llm.tokenizer.encode(out.prompt, parse_special=True)
    for bad, options in (
        (messages[:1], {}),
        (messages, {"add_generation_prompt": True}),
    ):
        with pytest.raises(RequestError, match="continue_final_message"):
            llm.chat(bad, GREEDY, continue_final_message=True, **options)


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_thinking_is_asked_for_in_the_system_turn(llm, name):
    messages = [{"role": "user", "content": "hi"}]
    plain = llm.render(messages)
    assert plain == llm.render(messages, **{name: False})
    assert llm.render(messages, **{name: True}) == plain.replace("thinking off", "thinking on")
    (out,) = llm.chat(messages, GREEDY, chat_template_kwargs={name: True})
    assert "detailed thinking on<|role_end|>" in out.prompt


@pytest.fixture
def own_folder(folder, llm, tmp_path):
    """A folder of its own, with the tokenizer in it, whose files a test may change."""
    own = shutil.copytree(folder, tmp_path / "own")
    llm.tokenizer.save(own)
    return own


def _change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_ends_of_turn_are_those_of_all_files(own_folder, llm, caplog):
    tok = llm.tokenizer
    eod, own = tok.token_to_id("<|endoftext|>"), tok.token_to_id("<|role_end|>")
    _change(own_folder / "config.json", eos_token_id=[eod, 7, 99999])
    _change(own_folder / "generation_config.json", eos_token_id=9)
    with caplog.at_level("WARNING"):
        loaded = LLM(own_folder)
    assert loaded.engine.stop_token_ids == {eod, own, 7, 9}
    assert "`eos_token_id` lists 99999, outside the vocabulary" in caplog.text
    (own_folder / "generation_config.json").unlink()
    _change(own_folder / "tokenizer_config.json", eos_token="[CLS]")
    _change(own_folder / "config.json", eos_token_id=7)
    assert {7, tok.token_to_id("[CLS]")} <= LLM(own_folder).engine.stop_token_ids


@pytest.mark.parametrize("template", [b"{% if %}", b"\xff", b"{% nothing %}"])
def test_template_that_cannot_be_used_stops_chat_only(own_folder, template, caplog):
    (own_folder / "chat_template.jinja").write_bytes(template)
    with caplog.at_level("INFO"):
        loaded = LLM(own_folder)
    assert "this model can continue texts, but not chat" in caplog.text
    assert loaded.generate(TEXTS[0], GREEDY)[0].outputs[0].token_ids
    message = [{"role": "user", "content": "hi"}]
    for call in (loaded.chat, loaded.render, loaded.stream_chat):
        with pytest.raises(TemplateError, match=r"^chat template: "):
            call(message)


def test_special_tokens_reach_the_template(own_folder):
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"
    (own_folder / "chat_template.jinja").write_text(source)
    text = LLM(own_folder).render([{"role": "user", "content": "hi"}])
    assert text == "<|startoftext|>hi<|role_end|><|endoftext|>"


def test_bytes_and_offsets_of_tokens_make_the_text(llm):
    params = with_(max_tokens=40, temperature=1.0, seed=3, logprobs=2, skip_special_tokens=False)
    (out,) = llm.generate(TEXTS[0], params)[0].outputs
    data = [m[t].token_bytes for t, m in zip(out.token_ids, out.logprobs, strict=True)]
    assert b"".join(data).decode("utf-8", "replace") == out.text
    chunks = list(llm.stream(TEXTS[0], params))
    assert [i for c in chunks for i in c.text_offsets] == out.text_offsets
    for start, end, piece in zip(
        out.text_offsets, [*out.text_offsets[1:], None], data, strict=True
    ):
        if piece.isascii():
            assert out.text[start:end].startswith(piece.decode())


def test_hidden_tokens_take_no_place_in_the_text(llm):
    params = with_(max_tokens=40, temperature=5.0, seed=1, logprobs=0)
    (out,) = llm.generate(TEXTS[0], params)[0].outputs
    shown = [t for t in out.token_ids if llm.tokenizer.decode([t])]
    assert len(shown) < len(out.token_ids)  # the seed draws a special token
    for k, start in enumerate(out.text_offsets):
        before = llm.tokenizer.decode(out.token_ids[:k])
        assert len(before.rstrip("\ufffd")) <= start <= len(before)


# ---- structure of answers ----------------------------------------------------------------------

CHOICE = StructuredOutputs(choice=["import os", "def f", "import sys"])


def structured(**changes) -> SamplingParams:
    changes = {"temperature": 1.0, "max_tokens": 60, "structured_outputs": CHOICE, **changes}
    return SamplingParams(**changes)


def test_every_choice_of_every_prompt_is_kept_to_its_structure(llm):
    llm.prepare_grammars()
    params = [structured(n=6, seed=3), SamplingParams(max_tokens=5, seed=1)]
    bound, free = llm.generate(TEXTS[:2], params)
    texts = {one.text for one in bound.outputs}
    assert len(texts) > 1
    assert texts <= set(CHOICE.choice)
    assert {one.finish_reason for one in bound.outputs} == {"stop"}
    assert free.outputs[0].token_ids == llm.generate(TEXTS[1], params[1])[0].outputs[0].token_ids


def test_streams_and_chats_are_kept_to_their_structure(llm):
    chunks = list(llm.stream(TEXTS[0], structured(seed=2)))
    assert "".join(c.text for c in chunks) in CHOICE.choice
    (out,) = llm.chat([{"role": "user", "content": "x"}], structured(seed=4))
    assert out.outputs[0].text in CHOICE.choice


def test_a_chat_that_asks_for_reasoning_has_its_structure_behind_it(llm):
    messages = [{"role": "user", "content": "x"}]
    params, seen = structured(seed=5, thinking_budget=4), set()
    for seed in range(12):
        params.seed = seed
        (out,) = llm.chat(messages, params, chat_template_kwargs={"enable_thinking": True})
        head, tag, answer = out.outputs[0].text.rpartition("</think>\n\n")
        assert answer.strip() in CHOICE.choice
        assert head.lstrip().startswith("<think>") is bool(tag)
        seen.add(bool(tag))
    assert True in seen


def test_a_compiled_structure_says_what_it_ignores_and_is_kept(llm):
    spec = StructuredOutputs(json={"type": "object", "not": {}})
    assert llm.compile(spec).ignored == ("not",)
    assert llm.compile(spec) is llm.compile(spec)
    assert llm.constraint(SamplingParams()) is None
    with pytest.raises(RequestError, match="uses `not`"):
        llm.compile(StructuredOutputs(json={"type": "object", "not": {}}, strict=True))


def test_structures_that_cannot_be_are_refused_before_anything_runs(llm, folder):
    bad = SamplingParams(structured_outputs=StructuredOutputs(regex="(a"))
    with pytest.raises(RequestError, match="unclosed group"):
        llm.generate([TEXTS[0]] * 2, [GREEDY, bad])
    with pytest.raises(RequestError, match=r"must be a `ling.StructuredOutputs`"):
        SamplingParams(structured_outputs={"regex": "a"})
    with pytest.raises(RequestError, match="`reasoning` is `yes`"):
        SamplingParams(reasoning="yes")
    with pytest.raises(RequestError, match="`thinking_budget`"):
        SamplingParams(thinking_budget=-1)
    with pytest.raises(RequestError, match="needs a model with a tokenizer"):
        LLM(folder, dtype="float32").generate([[1]], structured())
