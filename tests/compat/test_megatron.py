"""Launch scripts of Megatron-LM become the recipes that the package has; bad ones are one error."""

from __future__ import annotations

import pytest
import yaml
from published_arguments import ROWS, SCRIPTS, launch_script

from ling.cli.main import main
from ling.cli.train import _recipe_at
from ling.compat.megatron import translate
from ling.config.recipe import recipe_yaml
from ling.config.recipe_file import packaged_recipes
from ling.errors import UsageError
from ling.train.schedule import learning_rate

SMALL = """
ARGS=(
  --num-layers 3 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 2
  --group-query-attention --num-query-groups 1 --kv-channels 32 --qk-layernorm
  --max-position-embeddings 512 --vocab-size 384 --rotary-base 10000 --rotary-percent 0.5
  --swiglu --untie-embeddings-and-output-weights --disable-bias-linear --normalization RMSNorm
  --num-experts 8 --moe-router-topk 2 --moe-router-num-groups 4 --moe-router-group-topk 2
  --moe-ffn-hidden-size 32 --moe-shared-expert-intermediate-size 32 --moe-layer-freq [0]*1+[1]*2
  --moe-router-enable-expert-bias --moe-router-topk-scaling-factor 2.5 --mtp-num-layers 1
  --seq-length 64 --micro-batch-size 2 --lr 1e-3 --bf16
)
"""


def script(tmp_path, text, name="run.sh"):
    path = tmp_path / name
    path.write_text(text)
    return path


def small(tmp_path, more, name="run.sh"):
    launch = f"torchrun --nproc_per_node=1 --nnodes=1 pretrain_gpt.py ${{ARGS[@]}} {more}\n"
    return script(tmp_path, SMALL + launch, name)


def recipe_of(translation, tmp_path):
    path = tmp_path / "translated.yaml"
    path.write_text(yaml.safe_dump(translation.tree))
    return _recipe_at(str(path))


# ---- the original's scripts --------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_originals_scripts_are_the_published_recipes(tmp_path, name):
    want = yaml.safe_load(recipe_yaml(_recipe_at(str(packaged_recipes()[f"ling-mini-{name}"]))))
    text = launch_script(name, LOAD=want["model"], DATA_PATH="data/train")
    found = translate([script(tmp_path, text, f"pretrain_{name}.sh")])
    assert yaml.safe_load(recipe_yaml(recipe_of(found, tmp_path))) == want
    assert not found.sft
    # Each argument that is not in the recipe is named, with its own line.
    notes = [(n.where, n.text.split("`")[1]) for n in found.notes if "--" in n.text]
    lines = text.splitlines()
    for where, argument in notes:
        assert argument in lines[int(where.rpartition(":")[2]) - 1], (where, argument)
    unused = {row.argument for row in ROWS if row.their_value(name) is not None and not row.key}
    parts = {"--data-path", "--finetune", "--group-query-attention", "--fp8-format"}
    parts |= {"--make-vocab-size-divisible-by", "--expert-tensor-parallel-size"}
    parts |= {"--recompute-modules"}
    assert unused - parts <= {argument for _, argument in notes}


def test_fine_tuning_is_a_model_file_and_a_launcher_whose_arguments_win(tmp_path):
    model = script(tmp_path, SMALL + "ARGS+=(--rotary-base 5000 --clip-grad 2.0)\n", "model.sh")
    launcher = script(
        tmp_path,
        """
torchrun --nproc_per_node 8 --nnodes 1 $DIR/finetune.py "${ARGS[@]}" \\
  --lr 1e-6 --lr-decay-style constant --lr-warmup-iters 0 --train-samples 664 \\
  --global-batch-size 8 --micro-batch-size 1 --moe-router-bias-update-rate 0 --seed 1234 \\
  --expert-model-parallel-size 8 --rotary-base 600000 --clip-grad 1.0 --data-path chat.jsonl \\
  --reset-position-ids --reset-attention-mask --recompute-granularity full
""",
        "launch.sh",
    )
    found = translate([model, launcher])
    recipe = recipe_of(found, tmp_path)
    assert found.sft
    assert (recipe.train.steps, recipe.train.bias_update_rate) == (83, 0)
    assert (recipe.optim.lr, recipe.optim.schedule) == (1e-6, "constant")
    assert (recipe.data.corpus, recipe.data.isolate_documents) == ("chat.jsonl", True)
    assert (recipe.parallel.dp_shard, recipe.parallel.ep) == (8, 8)
    assert recipe.model_overrides["rope_theta"] == 600000
    twice = [n.text for n in found.notes if "twice" in n.text]
    assert len(twice) == 5  # --rotary-base two times, --clip-grad, --lr, --micro-batch-size


# ---- Megatron-LM's rules -----------------------------------------------------------------------


def test_what_a_script_leaves_out_is_megatrons_default(tmp_path):
    found = recipe_of(translate([small(tmp_path, "--train-iters 10 --data-path d")]), tmp_path)
    assert found.model == "ling-tiny"
    train, optim = found.train, found.optim
    assert (train.z_loss_coef, train.bias_zero_mean, train.seed) == (0, False, 1234)
    assert (optim.weight_decay, optim.beta2, optim.schedule) == (0.01, 0.999, "linear")
    assert found.data.split == [969, 30, 1]
    assert not found.data.eod_mask_loss
    assert train.global_batch_size == 2


def test_a_ramp_with_warm_up_and_decay_in_samples(tmp_path):
    more = (
        "--train-samples 100 --rampup-batch-size 2 2 24 --global-batch-size 8 "
        "--lr-warmup-samples 8 --lr-decay-style WSD --lr-wsd-decay-style linear "
        "--lr-wsd-decay-samples 16 --data-path 0.3 a 0.7 b"
    )
    recipe = recipe_of(translate([small(tmp_path, more)]), tmp_path)
    # Rows after each step: 2 4 6 8 | 12 16 | 22 28 | 36 44 52 60 68 76 84 92 100.
    assert recipe.train.steps == 17
    assert recipe.train.rows(17) == 100
    rates = [learning_rate(recipe.optim, recipe.train, n) for n in (4, 15, 16, 17)]
    assert rates[:2] == [1e-3, 1e-3]
    assert rates[-1] == 0
    assert (recipe.data.prefix, recipe.data.weights) == (["a", "b"], [0.3, 0.7])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--train-iters", "`--train-iters` has no value"),
        ("--train-iters --bf16", "`--train-iters` has no value"),
        ("--train-iters ten", "`--train-iters` is `ten`, expected a whole number"),
        ("--train-iters 9 --clip-grad x", "`--clip-grad` is `x`, expected a number"),
        ("--train-iters 9 --train-samples 9", "`--train-samples` contradicts `--train-iters`"),
        ("", "gives no `--train-iters`"),
        ("--train-iters 9 --fp16", "`--fp16` is not possible here"),
        ("--train-iters 9 --normalization LayerNorm", "`--normalization` is LayerNorm; Ling"),
        ("--train-iters 9 --optimizer sgd", "`--optimizer` is sgd; there are adam"),
        ("--train-iters 9 --lr-decay-style x", "`--lr-decay-style` is x; there are constant"),
        ("--train-iters 9 --lr-decay-style WSD", "gives no `--lr-wsd-decay-iters`"),
        ("--train-iters 9 --fp8-format hybrid", "`--fp8-format` is hybrid; Ling is trained with"),
        ("--train-iters 9 --global-batch-size 3", "make no recipe: `train.global_batch_size` = 3"),
        ("--train-iters 9 --moe-layer-freq [0,1", "`--moe-layer-freq` is `.0,1`, expected another"),
        ("--train-iters 9 --num-experts 9", "describes no Ling 2.0 model: `n_group` = 4"),
        (
            "--train-iters 9 --lr-warmup-iters 2 --lr-warmup-fraction 0.1",
            "`--lr-warmup-fraction` contradicts `--lr-warmup-iters`",
        ),
        ("--train-samples 9 --global-batch-size 0", "`--global-batch-size` is 0"),
        ("--train-iters 9 --pipeline-model-parallel-size 0", "parallelism below 1"),
        ("--train-iters 9 --pipeline-model-parallel-size 3", r"1 ranks, which 3 .* does not div"),
        ("--train-iters 9 --lr-warmup-fraction nan", "`nan`, expected a number"),
        ("--train-iters 9 --lr-warmup-fraction inf", "`inf`, expected a number"),
        ("--train-iters 9 --lr-warmup-fraction 1.5", "is 1.5, expected 0 to 1"),
        ("--train-iters 9 --init-method-std nan", "`nan`, expected a number"),
        ("--train-iters 9 --rotary-base inf", "`inf`, expected a number"),
        ("--train-iters 9 --split 1,nan", "`1,nan`, expected another form"),
        (f"--train-iters {'9' * 400} --lr-warmup-fraction 0.1", "expected a whole number"),
        (f"--train-iters 9 --moe-layer-freq {'[0]*9999+' * 9}[0]", "expected another form"),
    ],
)
def test_arguments_that_make_no_recipe_are_one_error(tmp_path, more, said):
    with pytest.raises(UsageError, match=said):
        translate([small(tmp_path, more)])


def test_what_cannot_be_known_is_named(tmp_path):
    more = "--train-iters 9 --data-path $(find .) --save `pwd` --made-up 3 4 --bf16 x ${MORE[@]}"
    notes = [n.text for n in translate([small(tmp_path, more)]).notes]
    text = "\n".join(notes)
    assert "`--data-path` is left out: `$(find .)` is a command, and none is run" in text
    assert "`--save` is left out: `$(pwd)` is a command, and none is run" in text
    assert "`--made-up` is not known here: left out" in text
    assert "`x` is left out: `--bf16` takes no such value" in text
    assert "`MORE` is not set in the script" in text
    assert "no data path is known: `data/train` stands for it" in text


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("--valid-data-path v", "without effect beside the other arguments"),
        ("--lr-wsd-decay-iters 3", "without effect beside the other arguments"),
        ("--train-data-path t --split 9,1", "without effect beside the other arguments"),
        ("--recompute-activations", "experts alone can be"),
        ("--recompute-granularity selective", "experts alone can be"),
        ("--finetune", "training begins at step 0"),
        ("--load m --use-rope-scaling", "the model is that of `--load`"),
        ("--load m --num-experts 7", "the model is that of `--load`"),
        ("--bf16 --fp8-format e4m3", "blockwise is taken"),
    ],
)
def test_each_argument_that_becomes_nothing_is_a_line(tmp_path, argument, why):
    launch = "torchrun --nproc_per_node=1 --nnodes=1 pretrain_gpt.py --load x --lr 1 --seq-length 8"
    text = f"{launch} --micro-batch-size 1 --train-iters 9 --data-path d {argument}\n"
    name = [word for word in argument.split() if word.startswith("--")][-1]
    notes = [n.text for n in translate([script(tmp_path, text)]).notes]
    (note,) = [text for text in notes if text.startswith(f"`{name}`")]
    assert why in note


def test_no_evaluation_and_fewer_arguments_of_other_launches(tmp_path):
    path = small(tmp_path, "--train-iters 9 --data-path d --eval-iters 0")
    path.write_text(path.read_text() + "python tools/convert.py --load /m --save /x\n")
    found = translate([path])
    recipe = recipe_of(found, tmp_path)
    assert (recipe.model, recipe.train.steps) == ("ling-tiny", 9)
    assert recipe.train.eval_interval_steps == 0
    assert any("another launch is left out" in n.text for n in found.notes)


def test_a_file_of_arrays_alone_is_enough_and_other_files_are_not(tmp_path):
    found = translate([script(tmp_path, SMALL + "B=(--train-iters 3)\n")])
    assert found.tree["train"]["steps"] == 3
    assert any("starts nothing" in n.text for n in found.notes)
    with pytest.raises(UsageError, match=r"no arguments of Megatron-LM's pretrain_gpt.py"):
        translate([script(tmp_path, "echo hello\n")])


# ---- the command -------------------------------------------------------------------------------


def test_the_command_writes_a_recipe_that_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(tmp_path, "--train-iters 9 --data-path d --log-throughput")
    assert main(["compat", "megatron", "run.sh", "-o", "r.yaml"]) == 0
    out, err = capsys.readouterr()
    assert "next: ling pretrain r.yaml" in out
    assert "run.sh:12: `--log-throughput` is left out: always so here" in err.splitlines()
    assert (tmp_path / "r.yaml").read_text().startswith("# From run.sh, by `ling compat megatron`.")
    assert main(["pretrain", "r.yaml", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["steps"] == 9
    assert main(["compat", "megatron", "run.sh"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["optim"]["lr"] == 1e-3
    script(tmp_path, "torchrun pretrain_gpt.py --lr $LR --seq-length 8 --bf16\n", "unknown.sh")
    assert main(["compat", "megatron", "unknown.sh"]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note == "unknown.sh:1: `--lr` is left out: `LR` is not set in the script"
    assert "gives no `--micro-batch-size`" in error
    for wrong, said in [
        (["megatron", "run.sh", "-o", "r.yaml"], "r.yaml exists"),
        (["megatron", "no.sh"], "no.sh: No such file"),
        (["megatron"], "required"),
        (["nemo", "run.sh"], "expected `ling compat megatron"),
        ([], "expected `ling compat megatron"),
    ]:
        assert main(["compat", *wrong]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
