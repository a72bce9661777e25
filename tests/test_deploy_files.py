"""`deploy/`: every file is read by what will read it, as far as that is here and needs no network;
and names that two of them, or the server and one of them, must agree on."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from deploy_files import DEPLOY, nginx_conf, text
from fake_llm import NAME, FakeLLM

from ling.cli.commands import COMMANDS
from ling.cli.options import ASK_FOR_PARSER, ParserAsked
from ling.cli.serve import serve
from ling.plugins.deploy_command import Choice, vllm
from ling.plugins.deploy_folder import Folder
from ling.plugins.deploy_split import Split
from ling.presets import preset
from ling.serve.app import create_app

FILES = sorted(p.relative_to(DEPLOY).as_posix() for p in DEPLOY.rglob("*") if p.is_file())


def needs(program: str):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*words) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith((".yaml", ".yml", ".json"))])
def test_files_are_yaml_and_json_without_a_key_given_twice(name):
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), keys
        loader.flatten_mapping(node)  # what `<<` brings may be overwritten
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    documents = list(yaml.load_all((DEPLOY / name).read_text(), Strict))  # JSON is YAML
    assert documents
    assert all(documents)


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith("Containerfile")])
def test_container_files_have_known_instructions_and_leave_secrets_out(name):
    known = "ARG FROM RUN WORKDIR COPY ENV USER EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    lines = re.sub(r"\\\n", " ", text(name)).splitlines()
    words = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert set(words) <= set(known.split())
    assert words.index("FROM") <= 1
    ignored = text(f"{name}.dockerignore").splitlines()
    assert {"deploy/api_keys.txt", ".git"} <= set(ignored)


# ---- one set of names --------------------------------------------------------------------------


def commands() -> dict[str, list[str]]:
    """The arguments of `ling serve` in each file that starts it."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    kubernetes = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    container = json.loads(re.search(r"^CMD (\[.*)$", text("Containerfile"), re.M)[1])
    unit = re.search(r"^ExecStart=\S+ ((?:.*\\\n)*.*)$", text("ling.service"), re.M)[1]
    return {
        "compose.yaml": compose["services"]["ling-1"]["command"],
        "kubernetes.yaml": pod(kubernetes[0])["containers"][0]["args"],
        "Containerfile": container,
        "ling.service": unit.replace("\\\n", " ").split(),
    }


def pod(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", commands())
def test_every_command_line_is_one_that_ling_takes(name):
    command, *arguments = commands()[name]
    assert command in COMMANDS
    with pytest.raises(ParserAsked) as asked:
        serve([ASK_FOR_PARSER])
    flags = asked.value.parser.parse_args(arguments)
    assert flags.api_key_file
    assert flags.api_key is None  # which process lists would show
    if name in ("compose.yaml", "kubernetes.yaml", "ling.service"):
        assert flags.metrics_port == 9100


def test_cached_prefixes_have_a_folder_that_the_server_makes():
    """A mounted volume is root's, may have `lost+found` in it, and systemd's folder of a dynamic
    user is a link: the server keeps no pages in any of these (`infer/page_folder.py`)."""
    folders = {
        name: re.search(r"--cache-dir[= ](\S+)", text(name))[1]
        for name in ("compose.yaml", "kubernetes.yaml", "ling.service")
    }
    compose = yaml.safe_load(text("compose.yaml"))["services"]["ling-1"]
    stateful, *_ = yaml.safe_load_all(text("kubernetes.yaml"))
    mounts = [volume["mountPath"] for volume in pod(stateful)["containers"][0]["volumeMounts"]]
    systemd = re.search(r"CacheDirectory=(\S+)", text("ling.service"))[1]
    for folder, of_others in (
        (folders["compose.yaml"], [v.split(":")[1] for v in compose["volumes"]]),
        (folders["kubernetes.yaml"], mounts),
        (folders["ling.service"], [f"%C/{systemd}"]),
    ):
        assert folder.rpartition("/")[0] in of_others


def test_what_stops_a_server_waits_longer_than_it_drains():
    drains = {
        name: float(re.search(r"--drain-s[= ](\d+)", text(name))[1])
        for name in ("compose.yaml", "kubernetes.yaml", "ling.service")
    }
    compose = yaml.safe_load(text("compose.yaml"))["services"]["ling-1"]
    assert int(compose["stop_grace_period"].rstrip("s")) > drains["compose.yaml"] + 5
    stateful, *_ = yaml.safe_load_all(text("kubernetes.yaml"))
    pause = int(pod(stateful)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = pod(stateful)["terminationGracePeriodSeconds"]
    assert grace > pause + drains["kubernetes.yaml"] + 5
    assert int(re.search(r"TimeoutStopSec=(\d+)", text("ling.service"))[1]) > (
        drains["ling.service"] + 5
    )


def test_kubernetes_asks_what_the_server_answers():
    app = create_app(FakeLLM(), served_model_name=NAME)
    paths = set(app.openapi()["paths"])
    stateful, *others = yaml.safe_load_all(text("kubernetes.yaml"))
    container = pod(stateful)["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startup", "liveness", "readiness"):
        get = container[f"{probe}Probe"]["httpGet"]
        assert get["path"] in paths
        assert get["port"] in ports
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    for service in (d for d in others if d["kind"] == "Service"):
        assert service["spec"]["selector"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert stateful["spec"]["serviceName"] in {d["metadata"]["name"] for d in others}


def test_replicas_have_one_name_in_compose_nginx_and_prometheus():
    services = set(yaml.safe_load(text("compose.yaml"))["services"])
    upstreams = set(re.findall(r"^\s*server (\S+):8000 ", text("nginx.conf"), re.M))
    (scrape,) = yaml.safe_load(text("prometheus.yml"))["scrape_configs"]
    targets = {t.partition(":")[0] for t in scrape["static_configs"][0]["targets"]}
    assert upstreams == targets == {name for name in services if name.startswith("ling-")}


def test_ray_serve_has_the_arguments_that_ling_deploy_prints():
    (app,) = yaml.safe_load(text("gpu/ray-serve.yaml"))["applications"]
    (config,) = app["args"]["llm_configs"]
    mini = Folder(
        path="folder",
        config=preset("ling-mini-2.0"),
        quantization=None,
        holds_mtp=True,
        calls_tools=True,
    )
    command = vllm(mini, Choice(split=Split(), draft_tokens=1, length=32768))[3:]
    given = config["engine_kwargs"]
    for flag, value in zip(command, [*command[1:], "--"], strict=True):
        if flag.startswith("--"):
            found = given[flag[2:].replace("-", "_")]
            assert found == (True if value.startswith("--") else read(value))


def read(value: str):
    """A number or an object of a command line; other words are texts."""
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(value)
    return value


# ---- metric names ------------------------------------------------------------------------------

METRIC = re.compile(r"\b(?:ling:\w+|http_\w+|process_\w+)")


def used_metrics() -> dict[str, set[str]]:
    dashboard = json.loads(text("grafana/dashboards/ling.json"))
    targets = [t for panel in dashboard["panels"] for t in panel.get("targets", ())]
    rules = yaml.safe_load(text("ling-alerts.yml"))["groups"][0]["rules"]
    return {
        "dashboard": set(METRIC.findall(" ".join(t["expr"] for t in targets))),
        "alerts": set(METRIC.findall(" ".join(rule["expr"] for rule in rules))),
    }


def test_dashboard_and_alerts_use_metrics_that_there_are():
    from fastapi.testclient import TestClient

    client = TestClient(create_app(FakeLLM(), served_model_name=NAME))
    client.get("/health")
    shown = set(re.findall(r"^([\w:]+)", client.get("/metrics").text, re.M))
    for name, used in used_metrics().items():
        assert used, name
        assert used <= shown, name
    # ... and the dashboard leaves out nothing of the engine but what it was started with.
    engine = {
        re.sub(r"_(bucket|sum|count)$", "_bucket", n) if "_bucket" in n else n
        for n in shown
        if n.startswith("ling:") and not n.endswith(("_created", "_sum", "_count", "_info"))
    }
    assert engine <= used_metrics()["dashboard"]


def test_the_dashboard_has_its_own_data_source_and_panels_with_titles():
    dashboard = json.loads(text("grafana/dashboards/ling.json"))
    source = yaml.safe_load(text("grafana/provisioning/datasources/prometheus.yaml"))
    uid = source["datasources"][0]["uid"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == uid
            assert all(target["expr"] and target["refId"] for target in panel["targets"])


# ---- the programs that read them ---------------------------------------------------------------


@needs("nginx")
def test_nginx_takes_its_configuration(tmp_path):
    run("nginx", "-t", "-q", "-p", tmp_path, "-c", nginx_conf(tmp_path, [1, 2], 3))


@needs("promtool")
def test_prometheus_takes_its_configuration_and_rules():
    run("promtool", "check", "config", DEPLOY / "prometheus.yml")


@needs("kubectl")
def test_kubectl_reads_the_objects(tmp_path):
    """Without a cluster it knows what every object must have, not what is in it."""
    shutil.copy(DEPLOY / "kubernetes.yaml", tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [kubernetes.yaml]")
    run("kubectl", "kustomize", tmp_path)


@needs("systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path):
    unit = tmp_path / "ling.service"
    unit.write_text(text("ling.service").replace("/opt/ling/bin/ling", sys.executable))
    run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
