"""`ling bench serve` as users run it, against stand-ins and against `ling serve`."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from openai_stand_in import NAME, OpenAIStandIn
from tiny_ling import TEXTS

from ling.cli.main import main
from ling.convert.synth import synth
from ling.data.tokenizer import train_tokenizer
from ling.ops import native
from ling.presets import preset

HELPER = Path(__file__).parents[2] / "helpers" / "openai_stand_in.py"
STAND_IN = f"{shlex.quote(sys.executable)} {shlex.quote(str(HELPER))} {{port}}"
SMALL = ["--num-prompts", "4", "--random-input-len", "20", "--random-output-len", "4"]


def bench(*args: str) -> int:
    return main(["bench", "serve", *args])


@pytest.fixture
def report(capsys):
    """The report of a run that succeeds."""

    def run(*args: str) -> dict:
        assert bench(*args, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_sweep_is_reported_point_by_point(report):
    with OpenAIStandIn() as server:
        found = report(
            server.url, *SMALL, "--max-concurrency", "1", "4", "--request-rate", "inf", "90"
        )
    assert [p["name"] for p in found["points"]] == [
        "1 stream", "4 streams", "1 stream, 90 requests/s", "4 streams, 90 requests/s",
    ]  # fmt: skip
    for point in found["points"]:
        assert point["ours"]["completed"] == point["ours"]["requests"] == 4
        assert point["ours"]["mean_output_tokens"] == 4
        assert point["ours"]["output_tokens_per_s"] > 0
        assert point["ours"]["faults"] == {}
    assert found["model"] == NAME
    assert found["request_rate"] == ["inf", 90.0]
    assert "other programs" in found["load"]


def test_two_servers_take_turns_with_the_same_requests(report, capsys):
    with OpenAIStandIn(token_s=0.01) as server:
        found = report(server.url, *SMALL, "--against", STAND_IN, "--pairs", "3")
        prompts = [b["prompt"] for b in server.bodies]
    assert len(prompts) == len(set(prompts)) == 2 + 1 + 3 * 4  # calibration, warm-up, pairs
    (point,) = found["points"]
    assert point["ours"]["requests"] == point["theirs"]["requests"] == 12
    assert len(point["ours"]["samples"]) == 3
    assert 0 < point["ratio"]["output_tokens_per_s"] < 1
    assert point["ratio"]["ttft_ms_p50"] > 1
    assert found["servers"][0] == f"{NAME}:{server.port}" != found["servers"][1]


def test_people_get_a_table_with_the_load_and_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    with OpenAIStandIn() as server:
        assert bench(server.url, *SMALL, "--png", str(tmp_path / "p.png")) == 0
    out, err = capsys.readouterr()
    title, row, load = out.splitlines()
    assert title.split()[0] == "tokens/s"
    assert row.startswith(f"all at once, {NAME}")
    assert row.endswith("4/4")
    assert "of" in load
    assert "cores" in load
    assert err.startswith("all at once: ")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_answers_are_counted_and_named(capsys):
    with OpenAIStandIn("flaky") as server:
        assert bench(server.url, *SMALL, "--max-concurrency", "1") == 0
    _, row, fault, _ = capsys.readouterr().out.splitlines()
    assert row.endswith("2/4")
    assert fault == f"1 stream, {NAME}: 2 × error event (scores are not finite)"


@pytest.mark.parametrize(
    ("mode", "args", "code", "words"),
    [
        ("unauthorized", [], 2, "the key is refused; give `--api-key KEY` or OPENAI_API_KEY"),
        ("not-openai", [], 2, "is it the URL of an OpenAI-compatible server?"),
        ("busy", ["--random-vocab-size", "9"], 1, "HTTP 429: too many requests"),
        ("short", [], 1, "of 4 requests was answered as asked: fewer tokens than asked: 2 of 4"),
        ("cut", ["--random-vocab-size", "9"], 1, "connection lost"),
        ("ok", ["--num-prompts", "0"], 2, "`--num-prompts` is 0, expected at least 1"),
        ("ok", ["--request-rate", "fast"], 2, "`--request-rate` is `fast`"),
        ("ok", ["--extra-body", "[1]"], 2, "expected a JSON object"),
        ("ok", ["--against", "sleep 1"], 2, "`--against` needs `{port}`"),
        ("ok", ["--against", "false {port}"], 1, "ended with exit code 1"),
        ("ok", ["--backend", "grpc"], 2, "expected openai or openai-chat"),
    ],
)
def test_errors_are_one_line(mode, args, code, words, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with OpenAIStandIn(mode) as server:
        assert bench(server.url, *SMALL, *args) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]


def test_the_key_is_sent(report, monkeypatch):
    with OpenAIStandIn("unauthorized") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert report(server.url, *SMALL)["points"][0]["ours"]["completed"] == 4
        monkeypatch.delenv("OPENAI_API_KEY")
        found = report(server.url, *SMALL, "--api-key", "secret")
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_server_that_is_not_there_is_one_line(url, capsys):
    assert bench(url, *SMALL) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_as_many_files_may_be_open_as_there_are_requests():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        with OpenAIStandIn() as server:
            assert bench(server.url, *SMALL, "--max-concurrency", "1", "500") == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (756, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of `ling serve` on a tiny model."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-int8"
    synth(preset("ling-tiny"), folder, to="int8", log=str)
    train_tokenizer(TEXTS * 10, 300).save(folder)
    command = [sys.executable, "-m", "ling", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        line = process.stdout.readline()
        assert "serving tiny-int8 on" in line, line
        yield line.split()[-1]
        process.terminate()


@pytest.mark.skipif(native.library() is None, reason="no kernel library")
@pytest.mark.parametrize(
    "args",
    [
        ["--random-vocab-size", "300", "--temperature", "0.7", "--top-p", "0.8"],
        ["--backend", "openai-chat", "--dataset-name", "multi-turn", "--num-turns", "2"],
    ],
)
def test_our_own_server_answers_what_is_asked(served, report, args):
    found = report(served, *SMALL, *args, "--max-concurrency", "2", "--num-prompts", "3", "--probe")
    row = found["points"][0]["ours"]
    turns = 2 if "multi-turn" in args else 1
    assert row["completed"] == row["requests"] == 3 * turns
    assert row["tokens_counted_by"] == "usage"
    assert row["mean_output_tokens"] == 4
    if turns == 1:
        assert row["mean_input_tokens"] == 20
    assert 0 < row["server_cpu_ms_per_token"] < 1e4
    assert row["server_rss_gb"] > 0.01
    assert row["health_failed"] == row["tokenize_failed"] == 0
