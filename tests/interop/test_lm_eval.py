"""lm-eval's built-in tasks on local data: our scorers beside its own `hf` model, and `ling eval`.

Skipped where lm-eval is not installed; `scripts/interop lm-eval` runs it.
"""

from __future__ import annotations

import json
import logging

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_ling import TEXTS, tiny

from ling import LLM
from ling.checkpoint.hf.save import save_model
from ling.cli.main import main
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.errors import DataError, UsageError
from ling.eval.scorers.engine import EngineScorer
from ling.eval.scorers.transformers import TransformersScorer
from ling.eval.tasks.harness import HarnessTask, task_index
from ling.eval.tasks.harness_data import leaves, write_tasks
from ling.eval.tasks.harness_model import HarnessModel
from ling.eval.tasks.task import TaskOptions

SUBJECTS = (
    *("math", "physics", "biology", "business", "chemistry", "computer science", "economics"),
    *("engineering", "health", "history", "law", "other", "philosophy", "psychology"),
)
CONTEXT = 512
WORDS = ["the", "sea", "is", "wide", "and", "for", "range", "of", "add", "a", "number", "print"]


def words(seed, count):
    return " ".join(WORDS[(seed * 7 + k * k) % len(WORDS)] for k in range(count))


def rows(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All its ids are tokens: our engine never chooses one that is none, transformers may."""
    folder = tmp_path_factory.mktemp("ling")
    tokenizer = train_tokenizer(TEXTS * 10, 300)
    model = tiny(vocab_size=tokenizer.vocab_size)
    save_model(model, model.config, folder)
    tokenizer.save(folder)
    (folder / "generation_config.json").unlink()  # no stop: continuations of a fixed length
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets of our own in the forms of the hub's, as `--data DIR` wants them."""
    data = tmp_path_factory.mktemp("data")
    arc = [
        {
            "id": str(i),
            "question": f"{words(i, 6)}?",
            "choices": {"text": [words(i + k, 1 + k) for k in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(12)
    ]
    for split in ("train", "validation", "test"):
        rows(data / "allenai/ai2_arc/ARC-Easy" / f"{split}.jsonl", arc)
    pages = [{"page": f" = {words(i, 2)} = \n\n {words(i, 30 + 40 * i)} .\n"} for i in range(4)]
    for split in ("train", "validation", "test"):
        folder = data / "EleutherAI/wikitext_document_level/wikitext-2-raw-v1"
        rows(folder / f"{split}.jsonl", pages)
    sums = [
        {"question": f"{words(i, 5)} {i} + 2?", "answer": f"so {i + 2}\n#### {i + 2}"}
        for i in range(6)
    ]
    for split in ("train", "test"):
        rows(data / "openai/gsm8k" / f"{split}.jsonl", sums)
    pro = [
        {
            "question_id": i,
            "question": f"{words(i, 5)}?",
            "options": [words(i + k, 2) for k in range(4)],
            "answer": "ABCD"[i % 4],
            "answer_index": i % 4,
            "cot_content": f"A: Let's think. The answer is ({'ABCD'[i % 4]}).",
            "category": SUBJECTS[i % len(SUBJECTS)],
            "src": "own",
        }
        for i in range(3 * len(SUBJECTS))
    ]
    for split in ("test", "validation"):
        rows(data / "TIGER-Lab/MMLU-Pro" / f"{split}.jsonl", pro)
    bbh = [{"input": f"{words(i, 4)}?", "target": ("Yes", "No")[i % 2]} for i in range(4)]
    rows(data / "SaylorTwift/bbh/navigate/test.jsonl", bbh)
    return data


def evaluated(model, name, data, folder, **options):
    """Samples of a task by their documents, and its results, by lm-eval alone."""
    folder.mkdir(exist_ok=True)
    write_tasks(name, task_index(), data, folder)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0, **options)
    samples = {s["doc_id"]: s for s in found["samples"][name]}
    return samples, found["results"][name]


@pytest.fixture(scope="module")
def theirs(folder):
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # It counts the tokens that are read, our scorers also the one after them; the engine adds one.
    length = {"max_length": CONTEXT - 2}
    # Its own choice is `bos_token`, which our training puts before no document.
    length["prefix_token_id"] = Tokenizer.from_folder(folder).eod_token_id
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4, **length)


@pytest.fixture(scope="module", params=["engine", "transformers"])
def ours(request, folder):
    if request.param == "engine":
        with LLM(folder, dtype="float32") as llm:
            assert llm.max_model_len == CONTEXT
            yield HarnessModel(EngineScorer(llm))
    else:
        scorer = TransformersScorer(folder, dtype="float32")
        scorer.max_length = CONTEXT - 1
        yield HarnessModel(scorer)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("arc_easy", {}),
        ("arc_easy", {"num_fewshot": 2}),
        ("arc_easy", {"apply_chat_template": True}),
        ("wikitext", {}),
        ("gsm8k", {"num_fewshot": 1, "gen_kwargs": {"max_gen_toks": 24}}),
        ("mmlu_pro_math", {"num_fewshot": 0, "gen_kwargs": {"max_gen_toks": 24}}),
        ("bbh_cot_zeroshot_navigate", {"gen_kwargs": {"max_gen_toks": 24}}),
    ],
    ids=str,
)
def test_choices_and_likelihoods_are_those_of_its_own_model(
    ours, theirs, data, tmp_path, task, options
):
    want, want_results = evaluated(theirs, task, data, tmp_path / "t", **options)
    got, got_results = evaluated(ours, task, data, tmp_path / "o", **options)
    assert got.keys() == want.keys()
    assert len(want) > 1
    worst = 0.0
    for i, sample in want.items():
        assert got[i]["arguments"] == sample["arguments"]
        for a, b in zip(got[i]["resps"], sample["resps"], strict=True):
            (a,), (b,) = a, b
            if isinstance(b, str):
                assert a == b
            elif isinstance(b, tuple):
                worst = max(worst, abs(a[0] - b[0]))
                assert a[1] == b[1]
            else:
                worst = max(worst, abs(a - b) / max(1, abs(b) / 100))
    assert worst < 1e-4, f"log-likelihoods differ by {worst}"
    for key, value in want_results.items():
        if isinstance(value, float):
            assert got_results[key] == pytest.approx(value, rel=1e-5), key


def test_ling_eval_runs_built_in_tasks_and_groups_and_continues(folder, data, tmp_path, capsys):
    args = ["eval", str(folder), "--tasks", "arc_easy,mmlu_pro", "--data", str(data)]
    args += ["--out", str(tmp_path), "--limit", "1", "--num-fewshot", "0", "--dtype", "float32"]
    assert main(args) == 0
    first = capsys.readouterr()
    assert [line.split()[:2] for line in first.out.splitlines()[1:]] == [
        ["arc_easy", "acc"],
        ["mmlu_pro", "exact_match,custom-extract"],
    ]
    assert main(args) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err.count("done before") == 2
    (found,) = [json.loads(p.read_text()) for p in tmp_path.glob("*/mmlu_pro.json")]
    assert found["count"] == 14
    assert sum(key.startswith("mmlu_pro_math/") for key in found["metrics"]) > 0


def test_missing_data_and_unsafe_tasks_are_one_line(data):
    options = TaskOptions(data=(str(data),))
    with pytest.raises(DataError, match=r"Rowan/hellaswag: no such folder.*validation\.jsonl"):
        HarnessTask("hellaswag", options).settings()
    with pytest.raises(UsageError, match="runs what the model writes"):
        HarnessTask("humaneval", options).settings()
    with pytest.raises(UsageError, match="did you mean `gsm8k`"):
        HarnessTask("gsm8kk", options).settings()


def test_the_named_benchmarks_are_found_and_read_data_sets_of_the_hub():
    for name in ("mmlu_pro", "aime24", "aime25", "gpqa", "ifeval", "gsm8k", "bbh", "wikitext"):
        assert leaves(name, task_index()), name
