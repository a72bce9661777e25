from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A step takes tensors of several sizes and frees them. Prints whether malloc was set, and how many
# new pages the later steps needed.
PROBE = """
import resource, torch
from ling.train.heap import keep_freed_memory
kept = keep_freed_memory()
torch.set_num_threads(1)
def step():
    held = [torch.ones(n << 18) for n in (1, 9, 33, 2, 17)]
    held += [h + 1 for h in held]
    del held[::2]
    return [h + 1 for h in held]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
before = faults()
for _ in range(5):
    step()
print(kept, faults() - before)
"""


def probe(**environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, env=env | environment
    )
    assert done.returncode == 0, done.stderr
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_freed_memory_is_used_again_without_new_pages():
    kept, pages = probe()
    if not kept:
        pytest.skip("another C library")
    _, otherwise = probe(MALLOC_TRIM_THRESHOLD_="131072")
    assert pages < otherwise / 5, (pages, otherwise)


@pytest.mark.parametrize(
    "setting",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}],
)
def test_what_the_environment_says_of_malloc_stays(setting):
    assert not probe(**setting)[0]
