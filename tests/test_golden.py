"""What must stay as it is when the code moves: options, names, files, tokens and losses.

`pytest tests/test_golden.py --update-golden` writes again what differs; say why in the commit.
`tests/golden/jobs.py` is what makes it all.
"""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"


def job(name: str, *args: Any, **environment: str) -> Any:
    # A wide terminal, so that an option's head and text stand apart.
    env = {k: v for k, v in os.environ.items() if not k.startswith("LING_")}
    env |= {"COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [sys.executable, str(GOLDEN / "jobs.py"), name, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--update-golden")


def read(name: str) -> Any:
    path = GOLDEN / name
    return json.loads(path.read_text()) if path.exists() else {}


def write(name: str, tree: dict[str, Any]) -> None:
    (GOLDEN / name).write_text(pretty(tree) + "\n")


def pretty(tree: Any, indent: str = "") -> str:
    """JSON with an object's entries on lines of their own and lists on one."""
    if not isinstance(tree, dict):
        return json.dumps(tree)
    inner = indent + " "
    rows = [f"{inner}{json.dumps(k)}: {pretty(v, inner)}" for k, v in tree.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def same(want: str, got: str) -> None:
    """Fail with the lines that differ: golden ones behind a minus, today's behind a plus."""
    diff = list(difflib.unified_diff(want.splitlines(), got.splitlines(), n=0, lineterm=""))[2:]
    if diff:
        pytest.fail("\n".join(diff[:100]), pytrace=False)


def close(want: Any, got: Any, relative: float, absolute: float = 0.0) -> bool:
    """Whether floating-point numbers are within the bounds and all else is equal."""
    if isinstance(want, list) and isinstance(got, list):
        pairs = zip(want, got, strict=False)
        return len(want) == len(got) and all(close(w, g, relative, absolute) for w, g in pairs)
    if isinstance(want, float) and isinstance(got, float):
        return got == pytest.approx(want, rel=relative, abs=absolute)
    return want == got


@pytest.mark.parametrize("name", ["cli_options", "public_names"])
def test_options_and_names(name: str, tmp_path: Path, update: bool) -> None:
    lines = job(name, *[tmp_path] * (name == "public_names"))
    path, text = GOLDEN / f"{name}.txt", "\n".join(lines) + "\n"
    if update:
        path.write_text(text)
    same(path.read_text(), text)


def test_converted_files(tmp_path: Path, update: bool) -> None:
    found = job("converted", tmp_path)
    if update:
        write("converted.json", found)
    same(pretty(read("converted.json")), pretty(found))


# ---- tokens ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    ("kind", "isa"),
    [("reference", None), ("native", None), ("native", "avx2"), ("native", "generic")],
)
def test_tokens(kind: str, isa: str | None, models: Path, update: bool) -> None:
    found = job("tokens", models, kind, **({} if isa is None else {"LING_ISA": isa}))
    kernels = found.pop("kernels")
    if not found:
        pytest.skip(f"{kind}, {isa}: kernels here are {kernels}")
    golden = read("tokens.json")
    if update and isa is None:
        golden |= {name: rows for name, rows in found.items() if "," not in name}
        write("tokens.json", golden)
    wrong = [
        f"{name} / {request}:\n golden {json.dumps(want)}\n now    {json.dumps(rows[request])}"
        for name, rows in found.items()
        for request, want in golden[name.partition(",")[0]].items()
        if not same_answer(want, rows[request])
    ]
    if wrong:
        pytest.fail("\n".join([f"kernels {kernels}", *wrong]), pytrace=False)


def same_answer(want: dict[str, Any], got: dict[str, Any]) -> bool:
    return want["outputs"] == got["outputs"] and close(
        want.get("logprobs"), got.get("logprobs"), 0, 1e-4
    )


# ---- training ----------------------------------------------------------------------------------

# Products are summed in another order on another CPU, and 20 steps carry that on. Without AVX-512
# this is 5e-7 in float32; in bfloat16 1e-4 in losses, and 1e-2 in the norm where a token near the
# border between two experts changes sides.
RELATIVE = {"float32": (1e-4, 1e-4), "bfloat16": (1e-3, 3e-2)}


def test_losses(tmp_path: Path, update: bool) -> None:
    found = job("losses", tmp_path)
    if update:
        write("losses.json", found)
    golden = read("losses.json")
    assert golden["data"] == found["data"], "other tokens: does the tokenizer's library differ?"
    for dtype, bounds in RELATIVE.items():
        for key, want in golden[dtype].items():
            got = found[dtype][key]
            if not close(want, got, bounds[key == "grad_norm"]):
                pytest.fail(f"{dtype} {key}\n golden {want}\n now    {got}", pytrace=False)
