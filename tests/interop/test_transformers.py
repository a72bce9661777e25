"""The transformers class: parity with upstream, generation, folders, training, safety.

Skipped where transformers is not installed; `scripts/interop` runs it with releases of the range.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_ling import load, run, tiny

import ling
import ling.errors
from ling.checkpoint.hf.folder import INDEX
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.infer.engine import Engine
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams
from ling.model.names import in_module, tensor_specs

transformers = pytest.importorskip("transformers")
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from ling.plugins.hf_output import CACHE, CACHE_NAMES  # noqa: E402

FLOAT32 = ["tiny_fp32", "tiny_yarn_fp32", "tiny_nomtp_fp32"]


def edited_config(folder, target, **changes):
    """A copy of `folder` with a changed config.json (None removes a key)."""
    shutil.copytree(folder, target)
    raw = json.loads((folder / "config.json").read_text()) | changes
    raw = {k: v for k, v in raw.items() if v is not None}
    (target / "config.json").write_text(json.dumps(raw))
    return target


# ---- parity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOAT32)
def test_outputs_equal_upstream(fixtures, name):
    path = fixtures / "model" / name
    io = load_file(path / "io.safetensors")
    expected = json.loads((path / "expected.json").read_text()).get("case_single", {})
    model = load(path)
    with torch.no_grad():
        out = model(
            io["input_ids"],
            labels=io["labels"],
            output_hidden_states=True,
            output_router_logits=True,
        )
    assert torch.allclose(out.logits, io["logits"], atol=1e-4)
    mtp = model.config.num_nextn_predict_layers
    assert len(out.mtp_logits or ()) == mtp
    for j in range(mtp):
        assert torch.allclose(out.mtp_logits[j], io[f"mtp_logits.{j}"], atol=1e-4)
        assert abs(out.mtp_loss[j].item() - expected["mtp_loss"][j]) < 5e-5
    if mtp:
        assert abs(out.loss.item() - expected["total_loss"]) < 5e-5
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1 + mtp
    for n, hidden in enumerate(out.hidden_states):
        assert torch.allclose(hidden, io[f"hidden_states.{n}"], atol=1e-4)
    layers = sorted(int(k.split(".")[1]) for k in io if k.startswith("router.") and "logits" in k)
    assert len(out.router_logits) == len(layers)
    for layer, (logits, ids) in zip(layers, out.router_logits, strict=True):
        want, want_ids = io[f"router.{layer}.logits"], io[f"router.{layer}.topk_idx"]
        assert torch.allclose(logits.flatten(0, 1), want.flatten(0, -2), atol=1e-4)
        assert torch.equal(ids.flatten(0, 1).sort().values, want_ids.sort().values)


def test_bf16_folder_keeps_its_expert_bias_in_float32(fixtures):
    path = fixtures / "model" / "tiny_bf16"
    io, model = load_file(path / "io.safetensors"), load(path)
    gate = model.model.layers[1].mlp.gate
    want = load_file(path / "model.safetensors")["model.layers.1.mlp.gate.expert_bias"]
    assert model.dtype == torch.bfloat16
    assert torch.equal(gate.expert_bias, want)
    assert gate.expert_bias.dtype == torch.float32
    with torch.no_grad():
        logits = load(path, dtype=torch.float32)(io["input_ids"]).logits
    assert torch.allclose(logits, io["logits_fp32_upcast"], atol=1e-4)


def test_left_padded_batch_equals_upstream_where_the_mask_is_one(fixtures):
    path = fixtures / "model" / "tiny_fp32"
    io, model = load_file(path / "io.safetensors"), load(path)
    mask = io["leftpad.attention_mask"]
    with torch.no_grad():
        logits = model(io["leftpad.input_ids"], attention_mask=mask).logits
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits[mask == 1], io["leftpad.logits"][mask == 1], atol=1e-4)


def test_losses_of_a_batch_do_not_leak_between_rows(fixtures):
    path = fixtures / "model" / "tiny_fp32"
    expected = json.loads((path / "expected.json").read_text())
    case = expected["case_batch2_labels_are_input_ids"]
    io, model = load_file(path / "io.safetensors"), load(path)
    with torch.no_grad():
        out = model(io["batch2.input_ids"], labels=io["batch2.input_ids"])
    assert abs(out.mtp_loss[0].item() - case["mtp_loss_without_row_leak"]) < 5e-5
    assert abs(out.loss.item() - case["total_loss_without_row_leak"]) < 5e-5
    assert abs(out.mtp_loss[0].item() - case["mtp_loss"][0]) > 1e-3


def test_gradients_equal_upstream(fixtures):
    path = fixtures / "model" / "tiny_fp32"
    io, grads = load_file(path / "io.safetensors"), load_file(path / "grads.safetensors")
    model = load(path).train()
    model(io["input_ids"], labels=io["labels"]).loss.backward()
    for name, grad in grads.items():
        key, expert = in_module(name)
        got = model.get_parameter(key).grad
        assert torch.allclose(got if expert is None else got[expert], grad, atol=1e-4), name


def test_greedy_continuation_equals_upstream(fixtures):
    path = fixtures / "model" / "tiny_nomtp_fp32"
    greedy = json.loads((path / "expected.json").read_text())["greedy"]
    prompt = torch.tensor([greedy["prompt"]])
    new = len(greedy["output"]) - prompt.shape[1]
    out = load(path).generate(prompt, max_new_tokens=new, do_sample=False, eos_token_id=None)
    assert out[0].tolist() == greedy["output"]


# ---- generation --------------------------------------------------------------------------------


def test_generate_equals_our_engine_alone_and_left_padded(folder):
    tok = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model, engine = load(folder), Engine(open_runner(folder))
    prompts = ["def", "for i in range(10):\n    pr", "return a"]
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    requests = [engine.add(tok(p)["input_ids"], params) for p in prompts]
    while engine.has_work:
        engine.step()
    want = [list(r.output) for r in requests]
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    for prompt, ids in zip(prompts, want, strict=True):
        encoded = tok(prompt, return_tensors="pt")
        out = model.generate(**encoded, **options)
        assert out[0, encoded["input_ids"].shape[1] :].tolist() == ids
    batch = tok(prompts, return_tensors="pt", padding=True)
    assert int(batch["attention_mask"].sum()) < batch["attention_mask"].numel()
    out = model.generate(**batch, **options)
    assert out[:, batch["input_ids"].shape[1] :].tolist() == want


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_every_cache_gives_the_same_tokens(folder, options):
    model, common = load(folder), {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    ids = torch.tensor([[5, 9, 4, 7], [8, 3, 1, 2]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    want = model.generate(ids, attention_mask=mask, **common)
    assert torch.equal(model.generate(ids, attention_mask=mask, **common, **options), want)


def test_beam_search_and_sampling_run(folder):
    model, ids = load(folder), torch.tensor([[5, 9, 4, 7]])
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, max_new_tokens=8)
    sampled = [
        (torch.manual_seed(3), model.generate(ids, do_sample=True, top_p=0.9, max_new_tokens=8))[1]
        for _ in range(2)
    ]
    assert beams.shape[0] == 2
    assert torch.equal(*sampled)


def test_cached_steps_give_the_logits_of_one_pass_and_leave_mtp_out(folder):
    model, ids = load(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        whole = model(ids)
        first = model(ids[:, :7], use_cache=True)
        rest = model(ids[:, 7:], past_key_values=first.past_key_values)
        last = model(ids, logits_to_keep=1)
    assert torch.allclose(rest.logits, whole.logits[:, 7:], atol=1e-4)
    assert torch.allclose(last.logits, whole.logits[:, -1:], atol=1e-5)
    assert rest.mtp_logits is None
    assert len(whole.mtp_logits) == 1
    assert rest.past_key_values.get_seq_length() == 12


def test_embeddings_may_be_given_instead_of_ids(folder):
    model, ids = load(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        want = model(ids).logits
        got = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    assert torch.allclose(got, want, atol=1e-5)


def test_packed_documents_do_not_see_each_other(folder):
    model = load(folder)
    a, b = torch.arange(3, 10)[None], torch.arange(20, 31)[None]
    positions = torch.cat((torch.arange(7), torch.arange(11)))[None]
    packed = torch.cat((a, b), dim=1)
    with torch.no_grad():
        together = model(packed, position_ids=positions, labels=packed)
        alone = [model(x, labels=x) for x in (a, b)]
    assert torch.allclose(together.logits[:, 7:], alone[1].logits, atol=1e-4)
    for j, counts in ((0, (6, 10)), (1, (5, 9))):
        losses = [x.mtp_loss[0] if j else x.loss - 0.1 * x.mtp_loss[0] for x in alone]
        want = sum(n * x for n, x in zip(counts, losses, strict=True)) / sum(counts)
        got = together.mtp_loss[0] if j else together.loss - 0.1 * together.mtp_loss[0]
        assert torch.allclose(got, want, atol=1e-4)


@pytest.fixture
def masks(monkeypatch):
    """Sizes of all masks that are handed to attention."""
    plain, sizes = torch.nn.functional.scaled_dot_product_attention, []

    def attention(q, k, v, attn_mask=None, **options):
        sizes.extend([] if attn_mask is None else [attn_mask.numel()])
        return plain(q, k, v, attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return sizes


POSITIONS = torch.tensor([[*range(5), *range(7)], [*range(3), *range(3), *range(6)]])


@pytest.mark.parametrize("training", [False, True])
def test_packed_rows_are_attended_by_document_without_a_mask(folder, masks, training):
    model, ids = load(folder).train(training), torch.randint(0, 256, (2, 12))
    together = model(ids, position_ids=POSITIONS)
    assert masks == []
    for row, a, b in ((0, 0, 5), (0, 5, 12), (1, 0, 3), (1, 3, 6), (1, 6, 12)):
        alone = model(ids[row : row + 1, a:b]).logits[0]
        assert torch.allclose(together.logits[row, a:b], alone, atol=1e-4)
    if not training:
        assert together[CACHE].get_seq_length() == 12


def test_borders_for_flash_attention_are_documents_too(folder, masks):
    model, ids = load(folder), torch.randint(0, 256, (1, 12))
    borders = torch.tensor([0, 5, 12], dtype=torch.int32)
    with torch.no_grad():
        want = model(ids, position_ids=POSITIONS[:1], labels=ids)
        got = model(ids, cu_seq_lens_q=borders, labels=ids)
    assert torch.allclose(got.logits, want.logits, atol=1e-4)
    assert torch.allclose(got.loss, want.loss, atol=1e-5)
    assert masks == []
    with pytest.raises(ling.errors.UsageError, match="ends at 12, the batch has 8 tokens"):
        model(ids[:, :8], cu_seq_lens_q=borders)


def test_padding_at_the_right_end_needs_no_mask(folder, masks):
    model, ids = load(folder), torch.randint(0, 256, (2, 12))
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5])
    with torch.no_grad():
        got = model(ids, attention_mask=mask)
        assert masks == []
        assert torch.allclose(got.logits[1, :7], model(ids[1:, :7]).logits[0], atol=1e-4)
        cached = model(
            ids[:, :1], attention_mask=F.pad(mask, (0, 1), value=1), **{CACHE: got[CACHE]}
        )
    seen = torch.cat((ids[1:, :7], ids[1:, :1]), dim=1)
    positions = torch.tensor([[*range(7), 12]])  # padding counts where no positions are given
    mask = torch.ones_like(seen)
    with torch.no_grad():
        want = model(seen, position_ids=positions, attention_mask=mask).logits
    assert masks
    assert torch.allclose(cached.logits[1, -1], want[0, -1], atol=1e-4)


def test_the_cache_is_read_and_returned_under_the_name_of_the_release(folder):
    model, ids = load(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        want, first = model(ids).logits[:, 7:], model(ids[:, :7])
        assert set(CACHE_NAMES) & {f.name for f in dataclasses.fields(first)} == {CACHE}
        assert first[CACHE] is first.past_key_values  # the older name is kept by every release
        for name in CACHE_NAMES:
            cache = model(ids[:, :7])[CACHE]
            assert torch.allclose(model(ids[:, 7:], **{name: cache}).logits, want, atol=1e-4)
        with pytest.raises(ling.errors.UsageError, match="are the same argument"):
            model(ids[:, 7:], **dict.fromkeys(CACHE_NAMES, first[CACHE]))
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(again.logits, first.logits)
    assert again.to_tuple()[0] is again.logits


def test_the_body_gives_what_the_head_scores(folder):
    model, ids = load(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, output_router_logits=True)
        body = model.base_model(ids, output_hidden_states=True, output_router_logits=True)
    layers = model.config.num_hidden_layers
    assert torch.equal(body.last_hidden_state, out.hidden_states[layers])
    assert torch.equal(model.lm_head(body.last_hidden_state), out.logits)
    assert len(body.hidden_states) == layers + 1  # none of an MTP layer
    assert len(body.router_logits) < len(out.router_logits)
    names = dict(model.named_parameters())
    assert all(names[name] is p for name, p in model.base_model.named_parameters())


def test_the_snippet_of_the_guide_runs_as_written(folder, tmp_path):
    pytest.importorskip("accelerate")
    guide = Path(__file__).parents[2] / "docs" / "guides" / "transformers.md"
    code = guide.read_text().split("```python\n")[1].split("```")[0]
    here = tmp_path / "inclusionAI" / "Ling-mini-2.0"  # a folder of that name is taken as such
    shutil.copytree(folder, here)
    done = run(code, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<role>HUMAN</role>Why is the sky blue?" in done.stdout


def test_pipeline_and_chat_template_work(folder):
    tok = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "hello"}]
    text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "<role>HUMAN</role>hello" in text
    pipe = transformers.pipeline("text-generation", model=str(folder), tokenizer=tok)
    assert pipe("def", max_new_tokens=4, do_sample=False)[0]["generated_text"].startswith("def")


# ---- folders -----------------------------------------------------------------------------------


def test_saved_folder_holds_the_released_layout_and_loads_everywhere(folder, tmp_path):
    model = load(folder)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    want, got = load_model(folder).state_dict(), load_model(tmp_path).state_dict()
    assert all(torch.equal(got[k], v) for k, v in want.items())
    held = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert set(held) == set(tensor_specs(model.config.ling()))
    raw = json.loads((tmp_path / "config.json").read_text())
    for key in (
        *("use_rmsnorm", "score_function", "partial_rotary_factor", "norm_topk_prob"),
        *("router_dtype", "moe_shared_expert_intermediate_size", "n_group", "topk_group"),
        *("routed_scaling_factor", "moe_router_enable_expert_bias", "num_nextn_predict_layers"),
        *("tie_word_embeddings", "rope_theta", "rope_scaling", "torch_dtype", "auto_map"),
    ):
        assert key in raw, key
    assert raw["model_type"] == "bailing_moe"
    assert raw["architectures"] == ["BailingMoeV2ForCausalLM"]
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)


def test_a_model_can_be_saved_over_the_folder_it_came_from(folder, tmp_path):
    load(folder).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load(tmp_path)
    bias = model.model.layers[1].mlp.gate.expert_bias.clone()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.model.layers[1].mlp.gate.expert_bias, bias)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("changes", [{"model_type": "bailing_moe_v2"}, {"auto_map": None}])
def test_both_model_types_load_with_and_without_a_door(folder, tmp_path, changes):
    path, ids = edited_config(folder, tmp_path / "x", **changes), torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(load(path)(ids).logits, load(folder)(ids).logits)


def test_a_config_of_transformers_5_loads(folder, tmp_path):
    raw = json.loads((folder / "config.json").read_text())
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": raw["rope_theta"],
        "partial_rotary_factor": raw["partial_rotary_factor"],
    }
    new = edited_config(
        folder, tmp_path / "new", rope_parameters=rope, dtype="float32", torch_dtype=None,
        rope_theta=None, rope_scaling=None, partial_rotary_factor=None,
    )  # fmt: skip
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    old = edited_config(folder, tmp_path / "old", rope_scaling=scaling)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        a, b, plain = (load(p)(ids).logits for p in (new, old, folder))
    assert torch.equal(a, b)
    assert not torch.allclose(a, plain, atol=1e-2)
    load(new).save_pretrained(tmp_path / "saved")
    raw = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert raw["rope_scaling"]["factor"] == 4.0
    assert "rope_parameters" not in raw


def test_ling_1_is_refused_by_name(folder, tmp_path):
    path = edited_config(folder, tmp_path / "x", architectures=["BailingMoeForCausalLM"])
    with pytest.raises(ling.errors.ConfigError, match=r"Ling 1\.x"):
        load(path)


def test_mtp_layers_may_be_left_out(folder):
    model = load(folder, num_nextn_predict_layers=0)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        out = model(ids)
        assert torch.equal(out.logits, load(folder)(ids).logits)
    assert out.mtp_logits is None


def test_a_folder_with_a_tensor_too_few_is_refused(folder, tmp_path):
    path = edited_config(folder, tmp_path / "x", num_nextn_predict_layers=2)
    with pytest.raises(ling.errors.CheckpointError, match=r"`model\.layers\.\d+\..*` is missing"):
        load(path)


def test_fp8_folder_loads_as_bfloat16(folder, tmp_path):
    source = load_file(folder / "model-00001-of-00001.safetensors")
    stored, want = {}, {}
    for name, value in source.items():
        stored[name] = want[name] = value if value.dim() == 1 else value.to(torch.bfloat16)
        if not name.endswith("proj.weight") or "eh_proj" in name:
            continue
        scale = torch.rand([-(-n // 128) for n in value.shape]) + 0.5
        wide = scale.repeat_interleave(128, 0)[: value.shape[0]]
        wide = wide.repeat_interleave(128, 1)[:, : value.shape[1]]
        stored[name] = (value / wide).to(torch.float8_e4m3fn)
        stored[name.replace(".weight", ".weight_scale_inv")] = scale
        want[name] = (stored[name].float() * wide).bfloat16()
    fp8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    path = edited_config(folder, tmp_path / "x", quantization_config=fp8, torch_dtype="bfloat16")
    for name in (INDEX, "model-00001-of-00001.safetensors"):
        (path / name).unlink()
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    assert sum(t.dtype == torch.float8_e4m3fn for t in stored.values()) > 10
    model = load(path)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in want.items():
        key, expert = in_module(name)
        got = own[key] if expert is None else own[key][expert]
        assert torch.equal(got, value.to(got.dtype)), name
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_integer_folder_is_sent_to_our_engine(folder, tmp_path):
    quant = {"quant_method": "ling", "format": "int4", "group_size": 32}
    path = edited_config(folder, tmp_path / "x", quantization_config=quant)
    assert AutoConfig.from_pretrained(path).num_experts
    with pytest.raises(
        ling.errors.CheckpointError, match=r"int4 weights are for ling's own engine"
    ):
        load(path)


def test_device_map_places_layers(folder):
    pytest.importorskip("accelerate")
    model, ids = load(folder, device_map="cpu"), torch.arange(3, 15)[None]
    spread = load(folder, device_map={"model": "cpu", "lm_head": torch.device("cpu")})
    with torch.no_grad():
        want = load(folder)(ids).logits
        assert torch.equal(model(ids).logits, want)
        assert torch.equal(spread(ids).logits, want)
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(model.config)
    from accelerate import infer_auto_device_map

    size = sum(p.nbytes for p in shape.parameters())
    placed = infer_auto_device_map(
        shape,
        {0: int(size * 0.8), "cpu": 10 * size},
        no_split_module_classes=shape._no_split_modules,
    )
    assert set(placed.values()) == {0, "cpu"}
    assert all(name.count(".") <= 2 for name in placed)  # no layer is split


def test_offloaded_layers_compute_the_same(folder):
    accelerate = pytest.importorskip("accelerate")
    model, ids = load(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        want = model(ids).logits
        accelerate.cpu_offload(model, execution_device="cpu")
        assert next(model.parameters()).device.type == "meta"
        assert torch.equal(model(ids).logits, want)


# ---- training ----------------------------------------------------------------------------------


def test_loss_divides_by_num_items_in_batch(folder):
    model, ids = load(folder), torch.randint(0, 256, (2, 16))
    with torch.no_grad():
        mean = model(ids, labels=ids)
        summed = model(ids, labels=ids, num_items_in_batch=torch.tensor(60))
    main = [x.loss - 0.1 * x.mtp_loss[0] for x in (mean, summed)]
    assert torch.allclose(main[1], main[0] * 30 / 60, atol=1e-4)
    assert torch.allclose(summed.mtp_loss[0], mean.mtp_loss[0] * 28 / 60, atol=1e-4)


def test_labels_without_a_target_give_a_loss_of_zero(folder):
    ids = torch.randint(0, 256, (1, 8))
    out = load(folder).train()(ids, labels=torch.full_like(ids, -100))
    out.loss.backward()
    assert out.loss.item() == 0.0


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(folder, reentrant):
    ids, grads = torch.randint(0, 256, (2, 16)), []
    for enabled in (False, True):
        model = load(folder).train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        assert model.is_gradient_checkpointing == enabled
        model(ids, labels=ids).loss.backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters()})
    assert all(torch.allclose(grads[1][k], g, atol=1e-6) for k, g in grads[0].items())
    model.gradient_checkpointing_disable()
    assert model(ids).past_key_values is None
    assert model.eval()(ids).past_key_values is not None


def test_autocast_runs_products_in_bfloat16_and_the_router_in_float32(folder):
    model, ids = load(folder), torch.randint(0, 256, (1, 16))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(ids, output_hidden_states=True, output_router_logits=True)
    with torch.no_grad():
        want = model(ids)
    assert out.hidden_states[-1].dtype == torch.bfloat16
    assert out.router_logits[0][0].dtype == torch.float32
    assert not torch.equal(out.logits, want.logits)
    assert model.network.compute_dtype is None


def test_trainer_learns_saves_and_resumes(folder, tmp_path):
    pytest.importorskip("accelerate")
    rows = [{"input_ids": r, "labels": r} for r in torch.randint(0, 64, (1, 24)).repeat(16, 1)]

    def trainer(steps, model):
        args = transformers.TrainingArguments(
            tmp_path / "run", max_steps=steps, per_device_train_batch_size=2, learning_rate=3e-3,
            save_steps=4, logging_steps=1, report_to=[], use_cpu=True, bf16=True, seed=1,
            gradient_accumulation_steps=2,
        )  # fmt: skip
        return transformers.Trainer(
            model, args, train_dataset=rows, data_collator=transformers.default_data_collator
        )

    first = trainer(4, load(folder))
    first.train()
    losses = [x["loss"] for x in first.state.log_history if "loss" in x]
    assert losses[-1] < losses[0] * 0.9
    saved = tmp_path / "run" / "checkpoint-4"
    assert load_model(saved).config.num_experts
    second = trainer(6, load(folder))
    second.train(resume_from_checkpoint=str(saved))
    resumed = [x["loss"] for x in second.state.log_history if "loss" in x]
    assert resumed[:4] == losses  # the log is carried along
    assert resumed[4] < losses[0] * 0.9  # and so are the weights, experts included
    metrics = second.evaluate(rows[:4])
    assert metrics["eval_loss"] < losses[0]


def test_released_names_load_into_the_module_shard_by_shard(folder, tmp_path):
    source = load(folder)
    source.save_pretrained(tmp_path, max_shard_size="1MB")
    model = AutoModelForCausalLM.from_config(source.config)
    for shard in sorted(tmp_path.glob("model-*.safetensors")):
        model.load_state_dict(load_file(shard), strict=False)
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(), strict=True)
    )


def test_random_weights_follow_the_spec():
    values = tiny(num_experts=32).config.to_dict()
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(config)
    layer = model.model.layers[-1]
    assert abs(layer.mlp.experts.down_proj.std().item() - 0.02) < 2e-3
    assert abs(model.lm_head.weight.std().item() - 0.02) < 2e-3
    assert layer.mlp.gate.weight.abs().max() <= model.config.hidden_size**-0.5
    assert torch.equal(layer.input_layernorm.weight, torch.ones(model.config.hidden_size))
    assert torch.equal(layer.mlp.gate.expert_bias, torch.zeros(32))


def test_lora_trains_saves_and_merges(folder, tmp_path):
    peft = pytest.importorskip("peft")
    ids = torch.randint(0, 256, (2, 16))
    config = peft.LoraConfig(
        r=4,
        target_modules=["query_key_value", "dense", "gate_proj", "up_proj", "down_proj", "eh_proj"],
        target_parameters=["experts.gate_proj", "experts.up_proj", "experts.down_proj"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(load(folder), config)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any("experts" in n for n in names)
    assert any("shared_experts" in n for n in names)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    with torch.no_grad():
        want = model(input_ids=ids).logits
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path / "adapter")
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, want, atol=1e-3)
        assert torch.allclose(load(tmp_path / "merged")(ids).logits, want, atol=1e-3)


def test_tied_weights_stay_one_tensor(tmp_path):
    model = tiny(tie_word_embeddings=True)
    save_model(model, model.config, tmp_path)
    loaded = load(tmp_path)
    assert loaded.lm_head.weight is loaded.model.word_embeddings.weight
    loaded.save_pretrained(tmp_path / "again")
    assert (
        "lm_head.weight" not in json.loads((tmp_path / "again" / INDEX).read_text())["weight_map"]
    )
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "again")(ids).logits, loaded(ids).logits)


def test_resized_embeddings_work_and_can_be_saved(folder, tmp_path):
    model, ids = load(folder), torch.arange(3, 15)[None]
    size = model.config.vocab_size
    with torch.no_grad():
        want = model(ids).logits
        model.resize_token_embeddings(size + 64)
        got = model(ids).logits
        assert got.shape[-1] == size + 64
        assert torch.allclose(got[..., :size], want, atol=1e-5)
        model.save_pretrained(tmp_path)
        assert torch.equal(load(tmp_path)(ids).logits, got)
    assert load_model(tmp_path).config.vocab_size == size + 64


# ---- the hook, and code that must not run ------------------------------------------------------

LOADS = """
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({folder!r}{extra})
AutoTokenizer.from_pretrained({folder!r})
print(type(model).__module__)
"""


@pytest.mark.parametrize(
    "before",
    [
        "import ling",
        "import transformers, ling",
        "import transformers.models.auto.modeling_auto, ling",
        "from transformers import AutoConfig\nimport ling",
        "import ling\nimport transformers.modeling_layers",
        "import ling\nfrom transformers import LlamaForCausalLM",
    ],
)
def test_the_order_of_imports_does_not_matter(folder, tmp_path, before):
    done = run(before + LOADS.format(folder=str(folder), extra=""), tmp_path)
    assert done.stdout.strip() == "ling.plugins.hf_model", done.stderr


def test_import_ling_imports_neither_torch_nor_transformers(tmp_path):
    done = run("import sys, ling; print({'torch', 'transformers'} & set(sys.modules))", tmp_path)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_door_works_for_those_who_trust_it_and_names_ling_when_absent(folder, tmp_path):
    trusting = LOADS.format(folder=str(folder), extra=", trust_remote_code=True")
    done = run(trusting, tmp_path)
    assert done.stdout.strip() == "ling.plugins.hf_model", done.stderr
    absent = "import sys\nsys.modules['ling'] = None\n" + trusting
    done = run(absent, tmp_path)
    assert done.returncode
    assert "runs on the package `ling`" in done.stderr


def test_no_code_of_a_folder_is_run(folder, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "x"
    edited_config(folder, path, auto_map={
        "AutoConfig": "evil.BailingMoeV2Config",
        "AutoModelForCausalLM": "evil.BailingMoeV2ForCausalLM",
        "AutoTokenizer": ["evil.Tok", None],
    })  # fmt: skip
    evil = f"open({str(canary)!r}, 'w')\n"
    (path / "evil.py").write_text(evil)
    (path / "custom_generate").mkdir()
    (path / "custom_generate" / "generate.py").write_text(evil + "def generate(**k): pass\n")
    raw = json.loads((path / "tokenizer_config.json").read_text())
    raw = {**raw, "auto_map": {"AutoTokenizer": ["evil.Tok", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(raw))
    for trust in ("", ", trust_remote_code=False"):
        done = run("import ling" + LOADS.format(folder=str(path), extra=trust), tmp_path)
        assert done.stdout.strip() == "ling.plugins.hf_model", done.stderr
        assert not canary.exists()


def test_pickled_weights_are_refused(folder, tmp_path):
    path = edited_config(folder, tmp_path / "x")
    for name in (INDEX, "model-00001-of-00001.safetensors"):
        (path / name).unlink()
    torch.save({"model.norm.weight": torch.ones(4)}, path / "pytorch_model.bin")
    with pytest.raises(ling.errors.CheckpointError, match="pickles are not read"):
        load(path)


def test_the_folder_of_a_model_is_named_by_its_path(folder):
    assert Path(load(folder).config._name_or_path) == folder
