"""Training files of LLaMA-Factory as recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ling.compat.llama_factory import is_llama_factory, read_llama_factory
from ling.compat.llama_factory_keys import IGNORED, REFUSED
from ling.errors import UsageError

# The file that the original project gives for full fine-tuning, key by key.
ORIGINAL = {
    "model_name_or_path": "inclusionAI/Ling-mini-2.0",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "deepspeed": "examples/deepspeed/ds_z3_config.json",
    "dataset": "glaive_toolcall_en_demo",
    "template": "bailing_v2",
    "cutoff_len": 8192,
    "max_samples": 10000000000,
    "overwrite_cache": True,
    "preprocessing_num_workers": 16,
    "output_dir": "saves/ling-moe-lite/full/sft",
    "logging_steps": 1,
    "save_steps": 500,
    "plot_loss": True,
    "overwrite_output_dir": True,
    "report_to": "tensorboard",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-6,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
    "bf16": True,
    "ddp_timeout": 180000000,
    "resume_from_checkpoint": None,
}
LEAST = {"model_name_or_path": "m", "dataset": "a"}


@pytest.fixture
def read(tmp_path):
    def read(**keys):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(LEAST | keys))
        return read_llama_factory(tmp_path / "x.yaml")

    return read


@pytest.fixture
def ten_records(tmp_path):
    """A folder with `dataset_info.json` and a set `a` of ten records."""
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "q", "output": "a"}] * 10))
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}}')
    return str(tmp_path)


def test_the_original_file_loads(read):
    recipe, out, notes = read(**ORIGINAL)
    assert (recipe.model, recipe.method, recipe.objective) == (
        "inclusionAI/Ling-mini-2.0",
        "full",
        "sft",
    )
    data, train, optim = recipe.data, recipe.train, recipe.optim
    assert (data.files, data.dataset_info) == (
        ["glaive_toolcall_en_demo"],
        str(Path("data") / "dataset_info.json"),
    )
    assert (data.seq_length, data.max_samples, data.packing) == (8192, 10000000000, "off")
    assert (train.epochs, train.steps, train.global_batch_size, train.seed) == (1, 0, 1, 42)
    assert (optim.lr, optim.schedule, optim.weight_decay, optim.beta2) == (
        1e-6,
        "constant",
        0,
        0.999,
    )
    assert (train.loggers, recipe.checkpoint.interval_steps) == (["tensorboard"], 500)
    assert out == "saves/ling-moe-lite/full/sft"
    ignored = [note for note in notes if note.startswith("ignored")]
    assert len(ignored) == 1
    assert "`deepspeed`" in ignored[0]
    assert "`ddp_timeout`" in ignored[0]


def test_what_a_file_leaves_out_is_as_there(read):
    recipe, out, _ = read()
    assert (recipe.method, out) == ("lora", None)
    assert (recipe.lora.rank, recipe.lora.expert_rank, recipe.lora.alpha) == (8, 8, 16)
    assert (recipe.train.epochs, recipe.train.micro_batch_size) == (3.0, 8)
    assert (recipe.optim.lr, recipe.optim.schedule, recipe.data.seq_length) == (
        5e-5,
        "linear",
        2048,
    )


def test_values_are_taken(read):
    recipe, _, _ = read(
        dataset="a, b",
        eval_dataset=["c"],
        dataset_dir="sets",
        learning_rate="1e-4",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        max_steps=40,
        warmup_ratio=0.1,
        lr_scheduler_type="cosine",
        lora_target="query_key_value,dense",
        lora_rank=32,
        lora_alpha=8,
        use_rslora=True,
        mask_history=True,
        neat_packing=True,
        mix_strategy="interleave_under",
        interleave_probs="0.25,0.75",
        eval_strategy="steps",
        eval_steps=20,
        save_strategy="no",
        save_total_limit=3,
        optim="adamw_8bit",
        early_stopping_steps=4,
        report_to="none",
    )
    data = recipe.data
    assert (data.files, data.valid_files, data.weights) == (["a", "b"], ["c"], [0.25, 0.75])
    assert (data.mask_history, data.packing) == (True, "best_fit")
    assert data.dataset_info == str(Path("sets") / "dataset_info.json")
    assert (recipe.train.global_batch_size, recipe.train.steps) == (16, 40)
    assert (recipe.optim.lr, recipe.optim.warmup_steps, recipe.optim.name) == (1e-4, 4, "adamw8bit")
    lora = recipe.lora
    assert (lora.targets, lora.rank, lora.alpha, lora.rslora) == (["attention"], 32, 8, True)
    assert (recipe.train.eval_interval_steps, recipe.train.early_stop) == (20, 4)
    assert recipe.checkpoint.interval_steps > 10**8
    assert (recipe.checkpoint.keep_last, recipe.train.loggers) == (3, [])


def test_preferences_and_integers(read):
    recipe, _, notes = read(stage="dpo", pref_beta=0.2, pref_ftx=0.5, quantization_bit=4)
    assert (recipe.objective, recipe.dpo.beta, recipe.dpo.sft_weight) == ("dpo", 0.2, 0.5)
    assert recipe.method == "qlora"
    assert any("ling convert" in note for note in notes)


def test_shares_of_the_records_are_counted(read, ten_records):
    recipe, _, _ = read(dataset_dir=ten_records, val_size=2, warmup_ratio=0.5, num_train_epochs=2.0)
    assert recipe.data.valid_share == 0.2
    assert recipe.optim.warmup_samples == 8


def test_names_of_the_hub_are_online(read):
    data = read(dataset="o/a", dataset_dir="ONLINE").recipe.data
    assert (data.files, data.dataset_info) == (["hf://datasets/o/a"], None)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"stage": "kto"}, "`stage: kto`"),
        ({"finetuning_type": "freeze"}, "`finetuning_type: freeze`"),
        ({"template": "qwen"}, "`template: qwen`"),
        ({"learning_rat": 1}, "did you mean `learning_rate`?"),
        ({"use_dora": True}, "`use_dora` is not supported"),
        ({"neftune_noise_alpha": 5}, "`neftune_noise_alpha`"),
        ({"moe_aux_loss_coef": 0.01}, "`moe_aux_loss_coef` is not supported"),
        ({"model_revision": "v2"}, "`model_revision: v2` is not supported, only main"),
        ({"lora_target": "q_proj"}, "`q_proj`"),
        ({"learning_rate": "fast"}, "expected a number"),
        ({"cutoff_len": 10.5}, "expected a whole number"),
        ({"mask_history": 1}, "expected true or false"),
        ({"lr_scheduler_type": "polynomial"}, "`lr_scheduler_type: polynomial`"),
        ({"pref_loss": "orpo"}, "`pref_loss: orpo`"),
        ({"optim": "lion"}, "`optim: lion`"),
        ({"dataset": None}, "no `dataset`"),
        ({"dataset_dir": "REMOTE:x"}, "on a hub"),
        ({"mix_strategy": "interleave_over", "interleave_probs": "x"}, "expected numbers"),
    ],
)
def test_what_cannot_be_is_refused_by_name(read, keys, reason):
    with pytest.raises(UsageError) as caught:
        read(**keys)
    assert reason in str(caught.value)
    assert "x.yaml: " in str(caught.value)


def test_a_hold_out_of_all_records_is_refused(read, ten_records):
    with pytest.raises(UsageError, match="`val_size` is 10"):
        read(dataset_dir=ten_records, val_size=10)


def test_methods_that_are_off_are_no_fault(read):
    read(**dict.fromkeys(REFUSED, None))
    read(use_dora=False, pissa_init=False)


def test_no_key_is_in_two_lists():
    assert not REFUSED & IGNORED


def test_only_such_files_are_taken_for_one(tmp_path):
    assert is_llama_factory(LEAST)
    assert not is_llama_factory({"model": "m", "data": {}})
    assert not is_llama_factory([1])
    (tmp_path / "x.yaml").write_text("model: m\n")
    with pytest.raises(UsageError, match="expected LLaMA-Factory's keys"):
        read_llama_factory(tmp_path / "x.yaml")
