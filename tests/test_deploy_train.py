"""`deploy/train/`: what each file starts is a command that torchrun and `ling` take, with the ranks
of its recipe; and what a scheduler does to a run. The programs of the schedulers are stand-ins."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from deploy_files import DEPLOY, text
from torch.distributed.run import get_args_parser

from ling.cli.main import main
from ling.data.prepared import Prepared

TRAIN = DEPLOY / "train"
SCRIPTS = sorted(p.name for p in TRAIN.glob("*.sh"))
# What torchrun gives its ranks to save in, in all files.
GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"

NOTE = 'printf "%s\\n" "$@" > "$SEEN/$(basename "$0").$$"\n'
# Ends with an error when it is asked to, as torchrun does.
UNTIL_TERM = """import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""
STAND_INS = {
    "torchrun": NOTE
    + "env > $SEEN/env\necho $$ > $SEEN/pid\n"
    + f'[ -z "${{WAIT:-}}" ] || exec python3 -c {shlex.quote(UNTIL_TERM)} "$SEEN/ready"\n',
    # Its own options go; what is left is the program.
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
    "scontrol": '[ "$1" = show ] && printf "first\\nsecond\\n" || ' + NOTE,
    "scancel": NOTE + "kill -TERM $(cat $SEEN/pid)\n",
    "sbatch": NOTE + "echo 4711\n",
    "ling": NOTE,
}


@pytest.fixture
def shell(tmp_path):
    """Runs a command line with stand-ins for programs; `seen` finds what these were given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"

    def start(*words, **env):
        return subprocess.Popen(
            [*map(str, words)],
            env={"PATH": path, "SEEN": str(tmp_path), "HOME": str(tmp_path), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(*words, **env):
        process = start(*words, **env)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said

    def seen(name):
        return [p.read_text().splitlines() for p in sorted(tmp_path.glob(f"{name}.*"))]

    run.start, run.seen, run.folder = start, seen, tmp_path
    return run


def allocation(**more):
    """What Slurm sets for the job of `slurm-pretrain.sh`."""
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text("train/slurm-pretrain.sh"), re.M))
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "some[1-2]",
        "SLURM_JOB_NUM_NODES": options["nodes"],
        "SLURM_GPUS_ON_NODE": options["gpus-per-node"],
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        **more,
    }


def example():
    """The arguments in the comment of `slurm-pretrain.sh`."""
    comment = text("train/slurm-pretrain.sh").replace(" \\\n#", "").replace("\n#", "\n")
    (line,) = re.findall(r"sbatch deploy/train/slurm-pretrain.sh (.*)", comment)
    return shlex.split(line)


def host():
    (jobset,) = [d for d in yaml.safe_load_all(text("train/jobset.yaml")) if d["kind"] == "JobSet"]
    (job,) = jobset["spec"]["replicatedJobs"]
    return jobset, job


def by_slurm(shell, node):
    shell("bash", TRAIN / "slurm-pretrain.sh", *example(), **allocation())


def by_jobset(shell, node):
    container = host()[1]["template"]["spec"]["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    shell(*container["command"], *container["args"], **{**env, "JOB_COMPLETION_INDEX": str(node)})


def by_skypilot(shell, node):
    task = yaml.safe_load(text("train/skypilot.yaml"))
    nodes = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(node),
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NUM_GPUS_PER_NODE": task["resources"]["accelerators"].partition(":")[2],
        "SKYPILOT_TASK_ID": "task",
    }
    shell("bash", "-c", task["run"], **task["envs"], **nodes)


@pytest.mark.parametrize("launch", [by_slurm, by_jobset, by_skypilot])
@pytest.mark.parametrize("node", [0, 1])
def test_every_launch_is_one_that_torchrun_takes_with_the_ranks_of_its_recipe(
    shell, launch, node, capsys
):
    launch(shell, node)
    (words,) = shell.seen("torchrun")
    args = get_args_parser().parse_args(words)
    assert args.module
    assert args.training_script == "ling"
    assert args.rdzv_backend == "c10d"
    command, *rest = args.training_script_args
    assert command == "pretrain"
    assert main(["pretrain", *rest, "--print-config"]) == 0
    recipe = yaml.safe_load(capsys.readouterr().out)
    parallel, prefix = recipe["parallel"], Path(rest[rest.index("--data.prefix") + 1])
    assert prefix == Prepared(prefix.parent, {}).train_prefix
    ranks = 1
    for degree in ("dp_replicate", "dp_shard", "cp", "pp"):
        ranks *= parallel[degree]
    assert int(args.nnodes) * int(args.nproc_per_node) == ranks
    # A group of ranks that share experts does not leave its host.
    assert int(args.nproc_per_node) % parallel["ep"] == 0
    if launch is not by_slurm:
        assert f"is_host={1 - node}" in args.rdzv_conf
    environment = dict(re.findall(r"(?m)^(\w+)=(.*)$", (shell.folder / "env").read_text()))
    assert int(environment["OMP_NUM_THREADS"]) == 12
    assert int(environment[GRACE]) == 240


# ---- Slurm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name, shell):
    shell("bash", "-n", TRAIN / name)


@pytest.mark.parametrize("page", ["deploy/train/slurm-data.sh", "docs/guides/cluster.md"])
def test_a_page_names_the_prefix_of_the_data_that_it_prepares(page):
    said = (DEPLOY.parent / page).read_text()
    (out,) = re.findall(r"slurm-data\.sh 32 (\S+) --tokenizer /shared/tokenizer /shared/text", said)
    prefix = re.findall(r"(?:--data\.prefix|is then) ([^\s,;]+?)\.? ", said)
    assert prefix == [str(Prepared(Path(out), {}).train_prefix)]


def test_before_its_time_limit_a_run_is_ended_and_the_job_queued_again(shell):
    script = TRAIN / "slurm-pretrain.sh"
    lead = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", script.read_text(), re.M)[1]
    assert int(lead) > 240  # what torchrun waits for its ranks
    job = shell.start("bash", script, "nano", **allocation(WAIT="yes"))
    end = time.monotonic() + 30
    while not (shell.folder / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert job.returncode == 1
    assert shell.seen("scancel") == [["--signal=TERM", "4711.0"]]
    assert shell.seen("scontrol") == [["requeue", "4711"]]


def test_a_run_that_is_done_or_has_failed_is_not_queued_again(shell):
    shell("bash", TRAIN / "slurm-pretrain.sh", "nano", **allocation())
    assert shell.seen("scontrol") == []
    (shell.folder / "bin/torchrun").write_text("#!/bin/bash\nexit 2\n")
    job = shell.start("bash", TRAIN / "slurm-pretrain.sh", "nano", **allocation())
    job.communicate(timeout=30)
    assert job.returncode == 2
    assert shell.seen("scontrol") == []


def test_nodes_without_gpus_need_a_number_of_ranks(shell):
    without = allocation()
    del without["SLURM_GPUS_ON_NODE"]
    shell("bash", TRAIN / "slurm-pretrain.sh", "nano", **without, RANKS_PER_NODE="2")
    assert "--nproc-per-node 2" in " ".join(shell.seen("torchrun")[0])
    job = shell.start("bash", TRAIN / "slurm-pretrain.sh", "nano", **without)
    said, _ = job.communicate(timeout=30)
    assert job.returncode
    assert "set RANKS_PER_NODE where a node has no GPUs" in said


def test_an_array_prepares_every_shard_and_the_join_waits_for_it(shell, capsys):
    script, out = TRAIN / "slurm-data.sh", str(shell.folder / "token files")
    shell(script, "3", out, "text one", "--tokenizer", "TOKENIZER")
    array, join = sorted(shell.seen("sbatch"), key=len, reverse=True)
    assert "--array=0-2" in array
    assert array[array.index(str(script)) :] == [
        *(str(script), "3", out, "text one", "--tokenizer", "TOKENIZER")
    ]
    assert "--dependency=afterok:4711" in join
    assert shlex.split(join[join.index("--wrap") + 1]) == ["ling", "data", "join", out]
    shell(*array[array.index(str(script)) :], SLURM_ARRAY_TASK_ID="2", SLURM_CPUS_PER_TASK="16")
    (words,) = shell.seen("ling")
    assert words == [
        *("data", "prepare", "text one", "--tokenizer", "TOKENIZER", "--out", out),
        *("--workers", "16", "--shard", "2/3"),
    ]
    # Words that the command takes; what it then misses is the tokenizer.
    assert main(words) == 2
    assert "TOKENIZER: no tokenizer.json" in capsys.readouterr().err


# ---- Kubernetes and SkyPilot -------------------------------------------------------------------


def test_pods_of_the_jobset_find_each_other_and_their_volume():
    jobset, job = host()
    claim, policy, _ = yaml.safe_load_all(text("train/jobset.yaml"))
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    name = jobset["metadata"]["name"]
    # The first pod's name, as JobSet makes it, in the service that it makes for them.
    assert job["name"] == "host"
    assert "$RUN-host-0-0.$RUN:" in container["args"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["RUN"] == name
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 2
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node {gpus} " in container["args"][0]
    assert int(gpus) * int(env["OMP_NUM_THREADS"]) == int(container["resources"]["requests"]["cpu"])
    assert pod["terminationGracePeriodSeconds"] > int(env[GRACE])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["train"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    selected = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": name}}
    assert policy["spec"]["podSelector"] == selected
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": selected}]}]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_the_jobset(tmp_path):
    shutil.copy(TRAIN / "jobset.yaml", tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [jobset.yaml]")
    subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True, timeout=60)
