"""The C++ core without Python: fuzzed under sanitizers, and what its objects may export."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ling.ops import native

CSRC = Path(__file__).parents[2] / "csrc"
CXX = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler")

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
ISAS = {"generic": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS |= {
        "avx2": ["-mavx2", "-mfma"],
        "avx512vnni": AVX512,
        "avx512bf16": [*AVX512, "-mavx512bf16", "-mavx512vbmi"],
        "avx512amx": [*AVX512, "-mavx512vbmi", "-mamx-tile", "-mamx-int8"],
    }
# As CMakeLists.txt: all must round alike; GCC warns of its own intrinsics.
COMMON = ["-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{CSRC}"]
QUIET = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]


def compile_all(jobs):
    """Run compilers side by side: lists of arguments."""
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(lambda a: subprocess.run([CXX, *a], capture_output=True, text=True), jobs)
        )
    for job in done:
        assert job.returncode == 0, job.stderr


def isa_job(name, flags, out):
    return [*COMMON, *QUIET, *flags, *ISAS[name], f"-DLING_ISA_NAME={name}", "-c",
            str(CSRC / "kernels" / "isa.cpp"), "-o", str(out)]  # fmt: skip


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    """The test programs with the whole core, address and undefined sanitizers."""
    folder = tmp_path_factory.mktemp("sanitizers")
    checks = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fopenmp"]
    have = [f"-DLING_HAVE_{name.upper()}" for name in ISAS]
    jobs = [isa_job(name, checks, folder / f"{name}.o") for name in ISAS]
    sources = ("api", "forward", "offload", "sampling", "matrix", "threads", "dispatch")
    training = ("train_attention", "train_layers", "train_moe", "fp8_tiles", "adam8")
    training += ("rows_product",)
    programs = ("model", "attention", "sampling", "kernels", "low_rank")
    programs += ("train_attention", "train_moe", "fp8", "adam8")
    for name in (*sources, *training, *(f"test_{program}" for program in programs)):
        jobs.append([*COMMON, *checks, *have, "-c", str(CSRC / f"{name}.cpp"),
                     "-o", str(folder / f"{name}.o")])  # fmt: skip
    compile_all(jobs)
    objects = [a[-1] for a in jobs]
    compile_all([[*checks, *objects, "-o", str(folder / "fuzzer")]])
    return folder / "fuzzer"


def fuzz(binary, isa, seed, rounds):
    done = subprocess.run(
        [str(binary), str(seed), str(rounds)],
        env={**os.environ, "LING_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("isa", ISAS)
def test_fuzzed_kernels_and_models_are_clean(fuzzer, isa):
    used = fuzz(fuzzer, isa, seed=1, rounds=10 if isa == "generic" else 30)
    assert used.endswith(": ok")
    names = list(ISAS)
    assert names.index(used.removesuffix(": ok")) <= names.index(isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(2, 6))
def test_longer_fuzzing_is_clean(fuzzer, isa, seed):
    assert fuzz(fuzzer, isa, seed, 200).endswith(": ok")


def test_stages_of_a_team_have_no_data_race(tmp_path):
    flags = [*COMMON, "-O1", "-fsanitize=thread", "-Wno-unknown-pragmas", "-pthread"]
    sources = [str(CSRC / n) for n in ("test_team.cpp", "threads.cpp")]
    binary = tmp_path / "team"
    built = subprocess.run(
        [CXX, *flags, *sources, "-o", str(binary)], capture_output=True, text=True
    )
    if "cannot find" in built.stderr and "tsan" in built.stderr:
        pytest.skip("no ThreadSanitizer")
    assert built.returncode == 0, built.stderr
    for threads, rounds in ((1, 2), (2, 20), (3, 3)):
        done = subprocess.run(  # a call that does not return is a failure, too
            [str(binary), str(threads), str(rounds)], capture_output=True, text=True, timeout=100
        )
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("ThreadSanitizer does not run on this kernel")
        assert (done.returncode, done.stdout) == (0, f"{threads} threads: ok\n"), done.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_instruction_sets_define_their_table_and_no_weak_symbol(tmp_path):
    """Unoptimised, so that an inline function or a template would show."""
    compile_all([isa_job(n, ["-O0", "-fPIC"], tmp_path / f"{n}.o") for n in ISAS])
    for name in ISAS:
        listing = subprocess.run(
            ["nm", "-C", str(tmp_path / f"{name}.o")], capture_output=True, text=True, check=True
        ).stdout
        symbols = [line.split(None, 2) for line in listing.splitlines() if line[0] != " "]
        shared = [(kind, symbol) for _, kind, symbol in symbols if kind in "TDRBWVui"]
        assert [symbol for _, symbol in shared] == [f"ling::isa_{name}"], shared
        assert not [line for line in listing.splitlines() if line.split()[-2] in ("w", "v")]


@pytest.mark.skipif(native.library() is None or shutil.which("nm") is None, reason="no library")
def test_library_exports_the_c_interface_and_nothing_else():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", native.required()._name],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    exported = {line.split()[-1] for line in listing.splitlines()}
    header = (CSRC / "ling_kernels.h").read_text()
    declared = {part.split("(")[0].split()[-1].lstrip("*") for part in header.split("LING_API")[2:]}
    assert exported == declared
