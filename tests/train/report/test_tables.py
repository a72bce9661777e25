"""Tables of a report."""

from __future__ import annotations

import html
import json
import re

from ling.train.report import tables
from ling.train.report.page import page
from ling.train.report.runs import read_runs

RECIPE = "model: ling-tiny\ntrain: {steps: 20, seed: 42}\noptim: {lr: %s}\n"


def cells(text):
    """Rows of a table by their label."""
    rows = re.findall(r"<tr><th scope=row>(.*?)</th>(.*?)</tr>", text)
    return {label: list(map(html.unescape, re.findall("<td>(.*?)</td>", r))) for label, r in rows}


def test_the_summary_says_what_came_of_each_run(run_folder):
    done, part = run_folder("a", recipe=RECIPE % 0.1), run_folder("b", 15, recipe=RECIPE % 0.1)
    found = cells(tables.summary(read_runs([done, part])))
    assert found["state"] == ["done, 20 steps", "stopped, step 15 of 20"]
    assert found["loss, last"] == ["0.2500", "0.3333"]
    assert found["tokens"] == ["2,000", "1,500"]
    assert found["memory of the largest rank"] == ["3.0 MB"] * 2
    assert found["communication"] == ["20.0%"] * 2
    assert found["slowest rank"] == ["rank 1 on b (100% of the time)"] * 2
    assert found["expert load at the end, max / mean"] == ["2.25"] * 2
    assert found["dead experts at the end"] == ["1 of 6"] * 2
    assert found["skipped steps"] == ["1 (3)"] * 2
    assert found["restarts"] == ["not noted"] * 2
    assert "GPU memory of the largest rank" not in found


def test_rewards_are_in_the_summary_and_charts_of_runs_that_have_them(run_folder):
    folder = run_folder()
    row = {"step": 21, "reward_margin": 0.5, "reward_accuracy": 0.75, "valid_reward_margin": 0.25}
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    runs = read_runs([folder])
    found = cells(tables.summary(runs))
    assert found["reward margin, last"] == ["0.5000"]
    assert found["held-out reward margin, last"] == ["0.2500"]
    assert found["reward accuracy, last"] == ["75.0%"]
    assert not [
        label for label in cells(tables.summary(read_runs([run_folder("b")]))) if "reward" in label
    ]
    assert 'over("reward_margin")' in page(runs)


def test_recipes_show_the_keys_that_differ(run_folder):
    runs = read_runs([run_folder(n, recipe=RECIPE % lr) for n, lr in (("a", 0.1), ("b", 0.2))])
    assert cells(tables.recipes(runs)) == {"optim.lr": ["0.1", "0.2"]}
    assert cells(tables.recipes(runs[:1])) == {
        "model": ["ling-tiny"], "train.steps": ["20"], "optim.lr": ["0.1"],
    }  # fmt: skip
    assert "equal" in tables.recipes([runs[0], runs[0]])
    bare = read_runs([run_folder("c")])
    assert "No recipe" in tables.recipes(bare)
    assert cells(tables.recipes([*runs, *bare]))["optim.lr"] == ["0.1", "0.2", "–"]


def test_machines_are_those_of_the_last_start(run_folder):
    folder = run_folder()
    starts = [
        {"after_step": 0, "torch": "1", "ranks": 2},
        {"after_step": 7, "torch": "2", "ranks": 4},
    ]
    (folder / "starts.jsonl").write_text("".join(json.dumps(s) + "\n" for s in starts))
    (run,) = read_runs([folder])
    found = cells(tables.machines([run]))
    assert found == {"ranks": ["4"], "torch": ["2"], "continued after step": ["7"]}
    assert cells(tables.summary([run]))["restarts"] == ["1"]
    assert "older version" in tables.machines(read_runs([run_folder("old")]))


def answered(step, said):
    messages = [{"role": "user", "content": "Who <b>?"}]
    row = {"step": step, "messages": messages, "expected": "I am.", "answer": said}
    return json.dumps(row) + "\n"


def test_the_first_and_the_last_answers_of_a_fine_tuning_are_shown(run_folder):
    folder = run_folder("a")
    assert tables.samples(read_runs([folder])) == ""
    (folder / "samples.jsonl").write_text(
        answered(5, "no") + answered(10, "maybe") + answered(20, "<i>yes")
    )
    text = tables.samples(read_runs([folder]))
    assert re.findall("<td>(.*?)</td>", text) == [
        "Who &lt;b&gt;?", "I am.", "no", "&lt;i&gt;yes",
    ]  # fmt: skip
    assert "step 5<" in text
    assert "step 20<" in text


def test_of_a_fine_tuning_the_lowest_held_out_loss_counts(run_folder):
    recipe = "model: m\nmethod: lora\ntrain: {steps: 30, early_stop: 1}\n"
    folder = run_folder("a", recipe=recipe, trained_tokens=10, trained_tokens_per_s=500.0)
    found = cells(tables.summary(read_runs([folder])))
    assert found["held-out loss, lowest"] == ["0.2750 (step 20)"]
    assert found["trained tokens/s, median"] == ["500"]
    assert found["state"] == ["stopped, step 20 of 30"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["valid_loss"] = 2.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = cells(tables.summary(read_runs([folder])))
    assert found["held-out loss, lowest"] == ["0.5500 (step 10)"]
    assert found["state"] == ["ended early (`train.early_stop`), step 20 of 30"]


def test_keys_of_a_fine_tuning_are_compared_with_its_own_defaults(run_folder):
    runs = read_runs([run_folder("a", recipe="model: m\nmethod: lora\ntrain: {seed: 1234}\n")])
    assert cells(tables.recipes(runs)) == {"model": ["m"], "method": ["lora"]}
