"""`ling download` and named models against a hub on this machine, by both libraries."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from stand_in import COMMIT, StandIn

from ling.checkpoint.hf.save import save_model
from ling.errors import CheckpointError
from ling.hub import resolve_model, resolve_tokenizer
from ling.model.ling import from_config
from ling.presets import preset

SHARD = "model-00001-of-00002.safetensors"
# Both libraries hand on bytes in chunks of up to 10 MiB.
BIG = "big.safetensors"
CHUNK = 10 << 20
HUBS = [
    "hf",
    pytest.param(
        "modelscope",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("modelscope_hub") is None, reason="needs ling[modelscope]"
        ),
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    model = from_config(preset("ling-tiny"), seed=0)
    save_model(model, model.config, folder, dtype="bfloat16", max_shard_bytes=500_000)
    held = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    assert SHARD in held
    unwanted = {
        "modeling_bailing_moe_v2.py": b"raise SystemExit('code of the hub ran')",
        "pytorch_model.bin": b"\x80\x04.",
        "README.md": b"# hello",
        "sub/config.json": b"{}",
        "..json": b"{}",
        ".hidden.json": b"{}",
    }
    return held | {"tokenizer_config.json": b"{}", "chat_template.jinja": b"x"} | unwanted


@pytest.fixture
def hub(files):
    with StandIn(dict(files)) as stand_in:
        yield stand_in


class Client:
    """Runs `ling` with the hub as the world and `home` as its cache."""

    def __init__(self, hub, home):
        self.home = home
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MODELSCOPE_"))}
        self.env = keep | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "MODELSCOPE_ENDPOINT": hub.url,
            "MODELSCOPE_CACHE": str(home),
            "MODELSCOPE_HOME": str(home / "config"),
            "MODELSCOPE_DOWNLOAD_INTEGRITY_RETRY_BACKOFF": "0",
            "no_proxy": "*",
        }

    def start(self, *args, **env):
        return subprocess.Popen(
            [sys.executable, "-m", "ling", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env | env,
            cwd=self.home,
        )

    def run(self, *args, **env):
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    @contextmanager
    def session(self):
        """A function like `run`, for many runs in one process: most of a run is its start."""
        process = subprocess.Popen(
            [sys.executable, "-c", SESSION],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=self.home,
        )

        def run(*args):
            print(json.dumps([str(a) for a in args]), file=process.stdin, flush=True)
            return subprocess.CompletedProcess(args, *json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()
        assert process.wait(60) == 0


SESSION = """
import contextlib, io, json, os, sys
from ling.cli.main import main
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub, tmp_path)


def error(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def wanted(files):
    return {n for n in files if n.endswith((".safetensors", ".json", ".jinja"))} - {
        "sub/config.json",
        "..json",
        ".hidden.json",
    }


# ---- downloads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HUBS)
def test_download_brings_the_needed_files_and_nothing_else(client, hub, files, kind):
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {p.name for p in folder.iterdir()} == wanted(files)
    assert all((folder / n).read_bytes() == files[n] for n in wanted(files))
    assert "GB free" in done.stderr
    assert not [path for _, path, _ in hub.requests if ".py" in path or ".bin" in path]
    # Again: nothing is fetched, the model loads from there, and by its name.
    hub.requests.clear()
    assert client.run("download", f"{kind}:org/name").stdout.strip() == str(folder)
    assert not any(hub.ranges(name) for name in files)
    report = json.loads(client.run("verify", folder, "--json").stdout)
    assert report["tensors"] > 100
    inspected = client.run("inspect", f"{kind}:org/name", "--json")
    assert json.loads(inspected.stdout)["parameters"]["total"] > 0


@pytest.mark.parametrize("kind", HUBS)
def test_local_dir_and_revision(client, hub, files, kind):
    revision = {"hf": COMMIT, "modelscope": "v1"}[kind]
    options = ["--hub", kind, "--local-dir", "here", "--revision", revision]
    done = client.run("download", "org/name", *options)
    assert done.returncode == 0, done.stderr
    folder = client.home / "here"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == wanted(files)
    assert not list(folder.rglob("*.part"))
    bad = client.run("download", "org/name", "--hub", kind, "--revision", "v9")
    assert bad.returncode == 2
    assert "v9" in error(bad)


def test_commands_download_a_named_model_on_first_use(client):
    first = client.run("generate", "hf:org/name", "-p", "x")
    assert "GB free" in first.stderr
    assert "no tokenizer" in error(first)  # loaded; the stand-in has no tokenizer
    again = client.run("verify", "hf:org/name", HF_HUB_OFFLINE="1")
    assert again.returncode == 0
    assert "GB free" not in again.stderr


def test_inspect_fetches_the_config_alone(client, hub):
    assert client.run("inspect", "hf:org/name").returncode == 0
    assert hub.ranges("config.json")
    assert not hub.ranges(SHARD)


def test_a_local_folder_wins_over_a_name(client, hub):
    (client.home / "inclusionAI" / "Ling-mini-2.0").mkdir(parents=True)
    done = client.run("verify", "inclusionAI/Ling-mini-2.0")
    assert "no config.json" in error(done)
    assert not hub.requests


# ---- interruption ------------------------------------------------------------------------------


def continued_at(hub):
    """The byte from which the last request for the big file went on."""
    return int((hub.ranges(BIG)[-1] or "bytes=0-").removeprefix("bytes=").split("-")[0])


@pytest.mark.parametrize("kind", HUBS)
def test_broken_connection_is_continued(client, hub, kind):
    hub.files[BIG] = os.urandom(2 * CHUNK)
    hub.cut[BIG] = CHUNK + CHUNK // 2
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / BIG).read_bytes() == hub.files[BIG]
    assert continued_at(hub) >= CHUNK


@pytest.mark.parametrize("local", [False, True], ids=["cache", "local-dir"])
@pytest.mark.parametrize("kind", HUBS)
def test_killed_download_goes_on_where_it_stopped(client, hub, kind, local):
    hub.files[BIG] = os.urandom(2 * CHUNK)
    hub.stall[BIG] = CHUNK + CHUNK // 2
    command = ["download", f"{kind}:org/name", *(["--local-dir", "here"] if local else [])]
    process = client.start(*command)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        sizes = [p.stat().st_size for p in client.home.rglob("*") if p.is_file()]
        if max(sizes, default=0) >= CHUNK:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = client.run(*command)
    assert done.returncode == 0, done.stderr
    assert (client.home / done.stdout.strip() / BIG).read_bytes() == hub.files[BIG]
    assert continued_at(hub) >= CHUNK
    assert not list(client.home.rglob("*.part"))


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HUBS)
def test_wrong_bytes_never_get_their_name(client, hub, kind):
    hub.corrupt.add(SHARD)
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 1
    assert SHARD in error(done) or "hash" in error(done)
    assert not list(client.home.rglob(SHARD))
    hub.corrupt.clear()
    assert client.run("download", f"{kind}:org/name").returncode == 0


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_file_that_changed_on_disk_is_found_by_its_hash(client, name):
    folder = Path(client.run("download", "hf:org/name").stdout.strip())
    path = (folder / name).resolve()
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    done = client.run("download", "hf:org/name")
    assert done.returncode == 1
    assert "its hash is" in error(done)


@pytest.mark.parametrize("kind", HUBS)
def test_too_little_disk_is_said_before_anything_is_fetched(client, hub, kind):
    hub.claimed_size[SHARD] = 10**15
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 1
    assert "needs 1000000" in error(done)
    assert not hub.ranges(SHARD)


@pytest.mark.parametrize("kind", HUBS)
def test_unknown_model_and_missing_token_are_the_users_to_mend(client, hub, kind):
    missing = client.run("download", f"{kind}:org/other")
    assert missing.returncode == 2
    assert "no such model" in error(missing)
    hub.token = "secret"
    refused = client.run("download", f"{kind}:org/name")
    assert refused.returncode == 2
    assert "TOKEN" in error(refused)
    assert missing.stderr.count("\n") == refused.stderr.count("\n") == 1


def test_token_goes_to_the_hub_and_never_to_its_storage(client, hub):
    hub.token = "secret"
    done = client.run("download", "hf:org/name", HF_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    assert hub.ranges(SHARD)
    assert hub.authorized_storage == 0
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", HUBS)
def test_offline_names_what_is_missing_and_asks_no_one(client, hub, kind):
    start = time.perf_counter()
    done = client.run("download", f"{kind}:org/name", "--offline")
    assert time.perf_counter() - start < 10
    assert done.returncode == 2
    assert "config.json is not in" in error(done)
    folder = Path(client.run("download", f"{kind}:org/name").stdout.strip())
    hub.requests.clear()
    again = client.run("download", f"{kind}:org/name", HF_HUB_OFFLINE="1")
    assert again.stdout.strip() == str(folder)
    (folder / SHARD).unlink()
    partial = client.run("download", f"{kind}:org/name", "--offline")
    assert partial.returncode == 2
    assert f"{SHARD} is not in" in error(partial)
    assert not hub.requests


def test_unreachable_hub_is_one_line(client):
    done = client.run("download", "hf:org/name", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "hf:org/name" in error(done)


def test_repository_without_safetensors_is_refused(client, hub):
    for name in [n for n in hub.files if n.endswith(".safetensors")]:
        del hub.files[name]
    done = client.run("download", "hf:org/name")
    assert done.returncode == 2
    assert "no safetensors" in error(done)


@pytest.mark.parametrize("kind", HUBS)
def test_a_tokenizer_by_name_is_fetched_without_the_weights(client, hub, kind):
    hub.files["tokenizer.json"] = json.dumps({"model": {}}).encode()
    resolve = (
        "import sys; from ling.hub import resolve_tokenizer; print(resolve_tokenizer(sys.argv[1]))"
    )

    def run(**env):
        args = [sys.executable, "-c", resolve, f"{kind}:org/name"]
        return subprocess.run(args, env=client.env | env, text=True, capture_output=True)

    done = run()
    assert done.returncode == 0, done.stderr
    names = {p.name for p in Path(done.stdout.strip()).iterdir() if not p.name.startswith(".")}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert not [n for n in names if n.endswith(".safetensors")]
    assert run(HF_HUB_OFFLINE="1").stdout == done.stdout


def test_a_model_without_a_tokenizer_and_what_is_no_name(client, hub, tmp_path):
    done = client.run("data", "prepare", "no text", "--out", "out", "--tokenizer", "hf:org/name")
    assert done.returncode == 2
    assert "hf:org/name: has no tokenizer.json" in error(done)
    assert resolve_tokenizer(str(tmp_path)) == tmp_path
    assert resolve_tokenizer("org/mistyped") == Path("org/mistyped")


# ---- a hub that means harm ----------------------------------------------------------------------


def outside(client):
    """Whatever is there besides the cache and the settings of the libraries."""
    known = {"hub", "config", "models", "here", ".lock"}
    return sorted(p.name for p in client.home.iterdir() if p.name not in known)


def failed(done, code=1):
    """The one line of what must fail."""
    assert done.returncode == code, (done.args, done.stdout, done.stderr)
    return error(done)


@pytest.mark.parametrize("kind", HUBS)
def test_names_that_lead_elsewhere_are_not_taken(client, hub, files, kind):
    names = ["../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json", "~/evil.json"]
    names += ["evil.json\n", "evil.json\0", "C:evil.json", "%2e%2e%2fevil.json", ""]
    hub.extra = [{"path": name, "size": 2, "sha1": "0" * 40} for name in names]
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in Path(done.stdout.strip()).iterdir()} == wanted(files)
    assert outside(client) == []
    assert not list(client.home.rglob("*evil*"))


def test_what_is_no_hash_commit_or_size_never_becomes_a_name(client, hub, tmp_path):
    absolute = str(tmp_path / "evil")
    with client.session() as run:
        for kind in ("sha256", "sha1"):
            for value in ("../../../../evil", absolute, "a" * 63, "", 7):
                hub.extra = [{"path": "x.safetensors", "size": 1, kind: value}]
                assert "with the hash" in failed(run("download", "hf:org/name"))
        for size in ("12", -1, 1.5, 2**63, True):
            hub.extra = [{"path": "x.json", "size": size, "sha1": "0" * 40}]
            assert "of size" in failed(run("download", "hf:org/name"))
        hub.extra = [{"path": SHARD, "size": 1, "sha256": "0" * 64}]
        assert "twice" in failed(run("download", "hf:org/name"))
        hub.extra = []
        for commit in ("../../../../evil", absolute, "", "main", None, 7):
            hub.commit = commit
            assert "commit" in failed(run("download", "hf:org/name"))
    assert list(client.home.iterdir()) == []
    assert list(tmp_path.glob("evil*")) == []


def test_headers_do_not_name_files(client, hub, files):
    hub.headers = {"ETag": '"../../../../evil"', "X-Repo-Commit": "../../../evil"}
    done = client.run("download", "hf:org/name")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in Path(done.stdout.strip()).iterdir()} == wanted(files)
    assert not list(client.home.rglob("*evil*"))


@pytest.mark.parametrize("kind", HUBS)
def test_sizes_that_do_not_match_are_refused(client, hub, kind):
    with client.session() as run:
        for name in (SHARD, "config.json"):
            for by in (-5, 5):
                hub.claimed_size = {name: len(hub.files[name]) + by}
                failed(run("download", f"{kind}:org/name"))
                assert not list(client.home.rglob(name))
                for folder in ("hub", "models"):
                    shutil.rmtree(client.home / folder, ignore_errors=True)
    assert outside(client) == []


def test_a_body_that_does_not_end_stops_at_the_listed_size(client, hub):
    hub.files[BIG] = os.urandom(1000)
    with client.session() as run:
        for name in (BIG, "config.json"):
            hub.longer = {name: 3 * CHUNK}
            line = failed(run("download", "hf:org/name", "--local-dir", "here"))
            assert "more came than" in line
            assert not (client.home / "here" / name).exists()
            assert not (client.home / "here" / f"{name}.part").exists()


@pytest.mark.parametrize("kind", HUBS)
def test_a_listing_of_a_hundred_thousand_files_is_gone_through(client, hub, files, kind):
    hub.extra = [{"path": f"images/{i}.png", "size": 1} for i in range(100_000)]
    start = time.perf_counter()
    done = client.run("download", f"{kind}:org/name")
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 60
    hub.extra = [{"path": f"{i}.json", "size": 1} for i in range(100_000)]
    assert "the limit is" in failed(client.run("download", f"{kind}:org/name"))


def test_redirects_lead_to_the_web_only(client, hub):
    with client.session() as run:
        for to in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"):
            for name in (SHARD, "config.json", "listing"):
                hub.location = {name: to}
                done = run("download", "hf:org/name")
                failed(done, code=done.returncode or 1)
                assert not list(client.home.rglob(name))
                shutil.rmtree(client.home / "hub", ignore_errors=True)
    assert outside(client) == []


def test_another_host_gets_no_token_and_wrong_bytes_get_no_name(client, hub):
    hub.token = "secret"
    client.env["HF_TOKEN"] = "secret"
    port = hub.url.rsplit(":", 1)[1]
    with client.session() as run:
        for name in ("config.json", SHARD):
            for data in (b"x" * len(hub.files[name]), b""):
                hub.files["other"] = data
                hub.location = {name: f"http://localhost:{port}/storage/other"}
                failed(run("download", "hf:org/name"))
                assert not list(client.home.rglob(name))
                shutil.rmtree(client.home / "hub")
    assert hub.authorized_storage == 0


ANSWERS = [b"<html>busy</html>", b"", b"[]", b"null", b"7", b'{"sha": [], "siblings": 3}', b"\xff"]
ANSWERS += [b'{"siblings": [1, null]}', b'{"Code": 200, "Data": {"Files": [7]}}', b"[" * 100_000]
ANSWERS += [b'{"Code": 200, "Data": null}', b'{"sha": "main", "siblings": [{"rfilename": []}]}']


@pytest.mark.parametrize("kind", HUBS)
def test_answers_that_are_none_are_one_line(client, hub, kind):
    with client.session() as run:
        for hub.answer in ANSWERS:
            done = run("download", f"{kind}:org/name")
            # To ModelScope's library some of them are a repository without files.
            line = failed(done, code=done.returncode or 1)
            assert done.returncode == 1 or "no safetensors" in line
            assert f"{kind}:org/name" in line
    assert outside(client) == []


def test_full_disk_is_one_line_and_the_next_try_goes_on(client, hub):
    hub.files[BIG] = os.urandom(3 * CHUNK)
    code = (
        "import resource, sys; from ling.cli.main import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * CHUNK}, {2 * CHUNK}))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "download", "hf:org/name"],
        env=client.env, cwd=client.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "hf:org/name" in failed(process)
    assert not list(client.home.rglob(BIG))
    done = client.run("download", "hf:org/name")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / BIG).read_bytes() == hub.files[BIG]


# ---- a cache that someone else wrote to ---------------------------------------------------------


@pytest.fixture
def cache(client):
    return client.home / "hub" / "models--org--name"


@pytest.fixture
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "mine"
    path.write_text("mine")
    return path


def test_what_stands_for_a_partial_file_is_not_followed(client, hub, cache, mine):
    part = cache / "blobs" / f"{hub.sha256(SHARD)}.part"
    part.parent.mkdir(parents=True)
    with client.session() as run:
        part.symlink_to(mine)
        assert "a link is in the way" in failed(run("download", "hf:org/name"))
        assert mine.read_text() == "mine"
        part.unlink()
        os.mkfifo(part)
        assert str(part) in failed(run("download", "hf:org/name"))


@pytest.mark.parametrize("local", [False, True], ids=["cache", "local-dir"])
def test_a_link_in_the_place_of_a_file_is_replaced_not_written_through(
    client, hub, cache, mine, local
):
    folder = client.home / "here" if local else cache / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in (SHARD, "config.json"):
        (folder / name).symlink_to(mine)
    done = client.run("download", "hf:org/name", *(["--local-dir", "here"] if local else []))
    assert done.returncode == 0, done.stderr
    assert mine.read_text() == "mine"
    assert all((folder / n).read_bytes() == hub.files[n] for n in (SHARD, "config.json"))


def test_refs_and_revisions_that_lead_elsewhere_are_refused(client, hub, cache):
    (client.home / "evil").mkdir()
    (client.home / "evil" / "config.json").write_text("{}")
    (cache / "refs").mkdir(parents=True)
    with client.session() as run:
        for text in ("../../../evil", "/etc", "x" * 1000, "", "\0"):
            (cache / "refs" / "main").write_text(text)
            done = run("download", "hf:org/name", "--offline")
            assert "config.json is not in" in failed(done, code=2)
        for revision in ("../../x", "/etc/passwd", "a\nb", "-x", "a/../../b"):
            done = run("download", "hf:org/name", f"--revision={revision}")
            assert "`--revision` is" in failed(done, code=2)
    assert not hub.requests


def test_the_library_finds_what_was_downloaded(client, hub, cache):
    assert client.run("download", "hf:org/name").returncode == 0
    code = "from huggingface_hub import snapshot_download as s; print(s('org/name'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=client.env | {"HF_HUB_OFFLINE": "1"}, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == str(cache / "snapshots" / COMMIT), done.stderr


def test_a_hub_that_does_not_answer_is_said_to_be_blocked(tmp_path):
    code = (
        "from ling.cli.main import main; import sys;"
        "sys.exit(main(['download', 'org/name', '--cache-dir', 'c']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    for word in ("http://127.0.0.1:9 cannot be reached", "HF_ENDPOINT", "modelscope"):
        assert word in done.stderr


def test_a_repository_in_the_cache_means_its_snapshot(tmp_path):
    repository = tmp_path / "models--org--name"
    for commit in ("aa", "bb"):
        (repository / "snapshots" / commit).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="2 snapshots"):
        resolve_model(str(repository))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bb\n")
    assert resolve_model(str(repository)) == repository / "snapshots" / "bb"
    (repository / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(CheckpointError, match="2 snapshots"):
        resolve_model(repository)
    (repository / "snapshots" / "aa").rmdir()
    assert resolve_model(repository) == repository / "snapshots" / "bb"


def test_a_home_folder_is_found_and_what_is_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "m").mkdir(parents=True)
    assert resolve_model("~/m") == tmp_path / "home" / "m"
    (tmp_path / "~" / "m").mkdir(parents=True)
    assert resolve_model("~/m") == Path("~/m")
