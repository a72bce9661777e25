"""A command line as a compose file, or as a Deployment and a Service of Kubernetes.

In Kubernetes the model is on the volume claim `ling-model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

OUTPUTS = ("command", "compose", "k8s")
PORT = 8000
_MODEL = "/model"
# The variable by which each engine's container gets its key.
_KEY = "API_KEY"


def compose_file(engine: str, argv: list[str], folder: str, num_gpus: int) -> str:
    """One service; the key comes from the variable `API_KEY` of who starts it."""
    service: dict[str, Any] = {
        "image": f"ling-{engine}",
        # A `$` of ours would be a variable of compose.
        "entrypoint": [word.replace("$", "$$") for word in _inside(argv, folder)],
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "volumes": [f"{Path(folder).resolve()}:{_MODEL}:ro"],
        "ipc": "host",
        "restart": "unless-stopped",
        "stop_grace_period": "60s",
        "deploy": {"resources": {"reservations": {"devices": [_devices(num_gpus)]}}},
    }
    given = "${" + _KEY + ":?key that clients send}"
    if engine == "vllm":
        service["environment"] = {"VLLM_API_KEY": given}
    else:
        service["entrypoint"] += ["--api-key", given]
    return _yaml({"name": f"ling-{engine}", "services": {engine: service}})


def _devices(num_gpus: int) -> dict[str, Any]:
    return {"driver": "nvidia", "count": num_gpus, "capabilities": ["gpu"]}


def kubernetes_file(engine: str, argv: list[str], folder: str, num_gpus: int) -> str:
    """A Deployment with one replica and its Service; the key comes from the secret
    `ling-api-key`, entry `key`."""
    name = f"ling-{engine}"
    labels = {"app.kubernetes.io/name": name}
    secret = {"secretKeyRef": {"name": "ling-api-key", "key": "key"}}
    command = _inside(argv, folder)
    if engine == "sglang":
        command += ["--api-key", f"$({_KEY})"]  # Kubernetes puts the variable's value there
    container: dict[str, Any] = {
        "name": engine,
        "image": name,
        "command": command,
        "env": [{"name": "VLLM_API_KEY" if engine == "vllm" else _KEY, "valueFrom": secret}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": num_gpus}},
        "startupProbe": _probe(period=10, failures=180),
        "livenessProbe": _probe(period=10, failures=6),
        "readinessProbe": _probe(period=5, failures=2),
        "volumeMounts": [
            {"name": "model", "mountPath": _MODEL, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    claim = {"claimName": "ling-model", "readOnly": True}
    volumes: list[dict[str, Any]] = [
        {"name": "model", "persistentVolumeClaim": claim},
        # The engines' processes exchange tensors in shared memory.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    pod = {"terminationGracePeriodSeconds": 60, "containers": [container], "volumes": volumes}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": labels, "ports": ports},
    }
    return _yaml(deployment, service)


def _probe(*, period: int, failures: int) -> dict[str, Any]:
    get = {"path": "/health", "port": "http"}
    return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures}


def _inside(argv: list[str], folder: str) -> list[str]:
    """The command within a container: the folder is mounted, all addresses are listened to."""
    words = [_MODEL if word == folder else word for word in argv]
    return [*words, "--host", "0.0.0.0", "--port", str(PORT)]


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are for those who write by hand."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=1000).rstrip("\n")
