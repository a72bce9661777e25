from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from ling.checkpoint.hf.names import SafetensorsFolder
from ling.config.model import ModelConfig
from ling.errors import UsageError
from ling.plugins import deploy as module
from ling.plugins import deploy_folder
from ling.plugins.deploy import deploy
from ling.plugins.engine_flags import Installed, installed_flags

CALLS = "{% for m in messages %}<tool_call>{{ m.content }}</tool_call>{% endfor %}"


@pytest.fixture
def no_engine(monkeypatch):
    monkeypatch.setattr(module, "installed_flags", lambda engine: None)


@pytest.fixture
def folder(fixtures, tmp_path, no_engine):
    """A copy of a small released-layout folder with one MTP layer."""
    return shutil.copytree(fixtures / "model" / "tiny_bf16", tmp_path / "model")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def value_of(report, flag):
    argv = report["argv"]
    return argv[argv.index(flag) + 1]


def test_mtp_flags_follow_the_weights(folder):
    draft = json.loads(value_of(deploy("vllm", str(folder)), "--speculative-config"))
    assert draft == {"method": "mtp", "num_speculative_tokens": 1}
    report = deploy("sglang", str(folder), draft_tokens=3)
    assert value_of(report, "--speculative-algorithm") == "NEXTN"
    assert value_of(report, "--speculative-num-steps") == "3"
    assert value_of(report, "--speculative-num-draft-tokens") == "4"
    off = deploy("vllm", str(folder), speculative="off")
    assert not off["mtp"]
    assert "--speculative-config" not in off["argv"]


def test_without_mtp_weights_there_is_no_speculation(fixtures, tmp_path, no_engine):
    source = fixtures / "model" / "tiny_nomtp_fp32"
    folder = shutil.copytree(source, tmp_path / "model")
    assert not deploy("vllm", str(folder))["mtp"]
    change_config(folder, num_nextn_predict_layers=1)
    report = deploy("vllm", str(folder))
    assert not report["mtp"]
    assert any("the weights lack" in note for note in report["notes"])


def test_long_context_asks_for_yarn(folder):
    change_config(folder, max_position_embeddings=32768, rope_theta=600000.0)
    expected = {
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 600000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    }
    vllm = deploy("vllm", str(folder), context=131072)
    assert json.loads(value_of(vllm, "--hf-overrides")) == expected
    assert value_of(vllm, "--max-model-len") == "131072"
    sglang = deploy("sglang", str(folder), context=131072)
    assert json.loads(value_of(sglang, "--json-model-override-args")) == expected
    assert value_of(sglang, "--context-length") == "131072"
    short = deploy("vllm", str(folder), context=32768)
    assert "--hf-overrides" not in short["argv"]
    assert value_of(short, "--max-model-len") == "32768"


def test_overrides_read_back_as_the_same_rotation(folder):
    """What is given to the engine means to our own reader what `rope_scaling` would."""
    change_config(folder, max_position_embeddings=512)
    overrides = json.loads(value_of(deploy("vllm", str(folder), context=2000), "--hf-overrides"))
    raw = json.loads((folder / "config.json").read_text())
    cfg = ModelConfig.from_dict({**raw, "rope_scaling": None, **overrides})
    assert cfg.rope_scaling["factor"] == 4.0
    assert cfg.rope_scaling["original_max_position_embeddings"] == 512
    assert cfg.max_position_embeddings == 2000


def test_tool_parser_needs_a_template_with_calls(folder, monkeypatch):
    assert "--tool-call-parser" not in deploy("vllm", str(folder))["argv"]

    class Tok:
        chat_template = CALLS

        @classmethod
        def from_folder(cls, path):
            return cls()

    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(deploy_folder, "Tokenizer", Tok)
    assert value_of(deploy("vllm", str(folder)), "--tool-call-parser") == "hermes"
    assert value_of(deploy("sglang", str(folder)), "--tool-call-parser") == "qwen25"


def test_integer_formats_are_refused(folder):
    change_config(folder, quantization_config={"quant_method": "ling", "format": "int4"})
    with pytest.raises(UsageError, match="--to fp8"):
        deploy("vllm", str(folder))


def test_gguf_files_are_refused(folder):
    file = folder / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(28))
    with pytest.raises(UsageError, match="GGUF files are for ling's own engine"):
        deploy("vllm", str(file))


@pytest.mark.parametrize("gpus", [None, 4])
@pytest.mark.parametrize("tensor", [0, -1])
def test_a_tensor_parallel_size_is_at_least_1(folder, gpus, tensor):
    with pytest.raises(UsageError, match="at least 1"):
        deploy("vllm", str(folder), gpus=gpus, tensor_parallel=tensor)


def test_splits_that_an_engine_would_refuse_later(folder):
    cfg = ModelConfig.from_file(folder / "config.json")
    with pytest.raises(UsageError, match="heads"):
        deploy("vllm", str(folder), tensor_parallel=cfg.num_attention_heads + 1)
    change_config(folder, quantization_config={"quant_method": "fp8"})
    with pytest.raises(UsageError, match="fp8 block"):
        deploy("vllm", str(folder), tensor_parallel=2)


def test_a_flag_the_installed_engine_lacks_is_an_error(folder, monkeypatch):
    have = frozenset({"--speculative-config"})
    monkeypatch.setattr(module, "installed_flags", lambda _: Installed(version="9", flags=have))
    assert deploy("vllm", str(folder))["checked_against"] == "9"
    with pytest.raises(UsageError, match="vllm 9 has no `--max-model-len`"):
        deploy("vllm", str(folder), context=100)


@pytest.fixture
def fake_sglang(tmp_path, monkeypatch):
    """A package of that name: a stand-in for the command line, not for the engine."""

    def make(parser_code: str):
        room = tmp_path / "site" / "sglang" / "srt"
        room.mkdir(parents=True)
        for package in (room, room.parent):
            (package / "__init__.py").write_text("print('noise')\n")
        (room / "server_args.py").write_text(parser_code)
        meta = tmp_path / "site" / "sglang-9.9.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 9.9\n")
        site = str(tmp_path / "site")
        monkeypatch.syspath_prepend(site)
        paths = [site, *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return make


def test_flags_are_read_from_the_engine_itself(fake_sglang):
    fake_sglang(
        "class ServerArgs:\n"
        "    @staticmethod\n"
        "    def add_cli_args(parser):\n"
        "        parser.add_argument('--model-path')\n"
    )
    installed = installed_flags("sglang")
    assert installed.version == "9.9"
    assert {"--model-path"} < installed.flags


def test_an_engine_that_does_not_import_is_told_once(fake_sglang, caplog):
    fake_sglang("raise RuntimeError('no GPU')\n")
    assert installed_flags("sglang") is None
    assert len(caplog.records) == 1
    assert "no GPU" in caplog.text


def test_command_line_prints_a_command_or_one_line_of_error(fixtures, tmp_path):
    folder = shutil.copytree(fixtures / "model" / "tiny_bf16", tmp_path / "a model")

    def run(*args):
        words = [sys.executable, "-m", "ling", "deploy", *map(str, args)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300)

    done = run("sglang", folder)
    assert done.returncode == 0, done.stderr
    assert f"--model-path '{folder}'" in done.stdout.splitlines()[-1]
    report = json.loads(run("vllm", folder, "--json").stdout)
    assert report["argv"][:3] == ["vllm", "serve", str(folder)]
    bad = run("vlm", folder)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


# ---- several GPUs ------------------------------------------------------------------------------


def test_gpus_are_split_as_each_engine_can(folder):
    change_config(folder, num_experts=256, n_group=8, topk_group=4, num_experts_per_tok=8)
    report = deploy("vllm", str(folder), gpus=4)
    assert report["split"] == {"tensor": 1, "data": 4, "expert_parallel": True}
    assert value_of(report, "--data-parallel-size") == "4"
    assert "--enable-expert-parallel" in report["argv"]
    copies = deploy("sglang", str(folder), gpus=4)  # its groups may be copies of a small model
    assert copies["split"] == {"tensor": 1, "data": 4, "expert_parallel": False}
    assert value_of(copies, "--dp-size") == "4"
    assert any("(assumed; `--gpu` says which)" in note for note in copies["notes"])
    forced = deploy("vllm", str(folder), gpus=4, tensor_parallel=2, gpu="l4-24g")
    assert forced["split"]["tensor"] == 2


def test_a_compose_file_has_the_command_the_gpus_and_no_key(folder):
    report = deploy("vllm", str(folder), gpus=2, gpu="h100-80g", output="compose", context=2000)
    service = yaml.safe_load(report["file"])["services"]["vllm"]
    words = service["entrypoint"]
    assert words[:3] == ["vllm", "serve", "/model"]
    assert words[-4:] == ["--host", "0.0.0.0", "--port", "8000"]
    assert json.loads(words[words.index("--hf-overrides") + 1])["max_position_embeddings"] == 2000
    assert service["volumes"] == [f"{folder}:/model:ro"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == 2
    assert service["environment"]["VLLM_API_KEY"].startswith("${API_KEY:?")
    other = yaml.safe_load(deploy("sglang", str(folder), gpus=2, output="compose")["file"])
    assert other["services"]["sglang"]["entrypoint"][-2] == "--api-key"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_kubernetes_file_has_probes_gpus_and_the_key_from_a_secret(folder, engine):
    report = deploy(engine, str(folder), gpus=2, output="k8s")
    deployment, service = yaml.safe_load_all(report["file"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert "/model" in container["command"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "ling-api-key"
    assert {container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness")} == {
        "/health"
    }
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert ("$(API_KEY)" in container["command"]) == (engine == "sglang")


def test_an_output_that_does_not_exist_is_refused(folder):
    with pytest.raises(UsageError, match="expected command, compose, k8s"):
        deploy("vllm", str(folder), output="helm")


def test_of_a_model_on_the_hub_only_small_files_are_read(folder, monkeypatch):
    """Weights of terabytes are for the machine with the GPUs."""
    (folder / "chat_template.jinja").write_text(CALLS)
    names = SafetensorsFolder(folder).weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    asked = []

    def resolve(model, *, only):
        asked.append(only)
        return folder

    monkeypatch.setattr(deploy_folder, "resolve_model", resolve)
    report = deploy("vllm", "inclusionAI/Ling-mini-2.0", gpus=1, output="compose")
    assert asked == ["config.json", "model.safetensors.index.json", "chat_template.jinja"]
    assert report["argv"][2] == "inclusionAI/Ling-mini-2.0"
    assert report["mtp"]
    assert value_of(report, "--tool-call-parser") == "hermes"
    compose = yaml.safe_load(report["file"])
    assert "inclusionAI/Ling-mini-2.0" in compose["services"]["vllm"]["entrypoint"]
    assert compose["services"]["vllm"]["volumes"] == ["huggingface:/root/.cache/huggingface"]
    assert "huggingface" in compose["volumes"]
