"""What is said, and raised, when the release of transformers is not one that was tested.

Skipped where transformers is not installed.
"""

from __future__ import annotations

import pytest
from tiny_ling import run

pytest.importorskip("transformers")

VERSION = "import transformers\ntransformers.__version__ = {!r}\nimport ling\n"
LOAD = """
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({folder!r})
ids = model.dummy_inputs["input_ids"]
"""


def lines(done):
    """Those of `ling`, without progress bars and other people's warnings."""
    return [line for line in done.stderr.splitlines() if "Ling 2.0" in line]


def test_an_untested_release_works_with_one_warning(folder, tmp_path):
    code = VERSION.format("5.99.0") + LOAD + "print(model(ids).logits.shape[0])"
    done = run(code.format(folder=str(folder)), tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = lines(done)
    assert "transformers 5.99.0 is untested" in line
    assert "4.57 to 5.24" in line


def test_a_tested_release_has_no_warning(folder, tmp_path):
    done = run("import ling" + LOAD.format(folder=str(folder)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert lines(done) == []


def test_a_release_that_fails_in_a_call_is_named(folder, tmp_path):
    """As 5.24 failed: everything imports, and the output has no such field."""
    broken = "import ling.plugins.hf_model as m\nm.CACHE = 'renamed'\nmodel(ids)\n"
    code = (VERSION.format("5.99.0") + LOAD).format(folder=str(folder)) + broken
    done = run(code, tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ling.errors.UsageError: transformers 5.99.0 does not work")
    assert "TypeError" in last
    assert "4.57 to 5.24" in last


@pytest.mark.parametrize("name", ["hf_config", "hf_model"])
def test_a_release_that_fails_at_import_is_named_and_runs_other_models(folder, tmp_path, name):
    broken = f"import sys\nsys.modules['ling.plugins.{name}'] = None\n"
    others = "from transformers import AutoConfig, AutoModelForCausalLM as Auto\n"
    others += "AutoConfig.for_model('llama')\nprint('others')\n"
    load = f"Auto.from_pretrained({str(folder)!r})\n"
    done = run(broken + VERSION.format("5.99.0") + others + load, tmp_path)
    assert done.stdout.strip() == "others", done.stderr
    assert done.returncode == 1
    errors = [x for x in lines(done) if "5.99.0 does not work" in x]
    assert len(errors) == 2  # said when it was imported, raised where it was used
    assert errors[1].startswith("ling.errors.UsageError: ")


def test_a_release_that_is_too_old_is_said_once(tmp_path):
    done = run(VERSION.format("4.40.0") + "import transformers.models.auto\n", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [x for x in done.stderr.splitlines() if "older than 4.57" in x] == lines(done)
    assert len(lines(done)) <= 1
