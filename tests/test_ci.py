"""`.ci/run` is green only when the README's command ran tests, and the checks after it passed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PASSES = "def test_one():\n    pass\n"
CHECK = "#!/bin/sh\necho checked with $PYTHON\n"


@pytest.fixture
def ci(tmp_path):
    """Runs `.ci/run` in a repository with the given README line, tests and `scripts/check`."""

    def run(command: str, tests: str = PASSES, check: str = CHECK) -> tuple[int, str, str]:
        for folder in (".ci", "scripts", ".venv/bin"):
            (tmp_path / folder).mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
        (tmp_path / "README.md").write_text(f"# It\n\n```bash\n{command}\n```\n")
        (tmp_path / "test_it.py").write_text(tests)
        script(tmp_path / "scripts" / "check", check)
        script(tmp_path / ".venv" / "bin" / "pip", "#!/bin/sh\necho installed $@\n")
        script(
            tmp_path / ".venv" / "bin" / "python",
            f'#!/bin/sh\n[ "$2" = pip ] && exec .venv/bin/pip "$@"\nexec {sys.executable} "$@"\n',
        )
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        done = subprocess.run(
            [tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=60, env=env
        )
        return done.returncode, done.stdout, done.stderr

    return run


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# `pip install` is left out: a fake interpreter stands where the README makes an environment.
COMMAND = "echo install -e '.[test]' && .venv/bin/python -m pytest -q -p no:cacheprovider"


def test_tests_and_then_the_checks_run_in_one_environment(ci):
    code, out, _ = ci(COMMAND)
    assert code == 0
    installed, checked = out.splitlines()[-2:]
    assert installed.endswith("-c constraints.txt -e .[dev]")
    assert checked == "checked with .venv/bin/python"
    assert "1 passed" in out


@pytest.mark.parametrize(
    ("command", "tests", "line"),
    [
        ("pip install ling", PASSES, "ci: README.md has no line that installs with -e '.[test]'"),
        (COMMAND, "", "ci: the README's test command failed, exit 5"),
        (COMMAND, "def test_one():\n    assert False\n", "failed, exit 1"),
        (COMMAND, "import pytest\npytest.skip(allow_module_level=True)\n", "exit 5"),
        (COMMAND, "import pytest\n@pytest.mark.skip\ndef test_one(): pass\n", "ran no test"),
        ("true -e '.[test]'", PASSES, "ci: the README's test command ran no test"),
        ("echo install -e '.[test]' '0 passed'", PASSES, "ran no test"),
        ("no-such-command -e '.[test]'", PASSES, "failed, exit 127"),
    ],
    ids=["no line", "none", "failing", "file skipped", "skipped", "not run", "zero", "not found"],
)
def test_no_test_that_passed_is_a_failure_in_one_line(ci, command, tests, line):
    code, out, err = ci(command, tests)
    assert code == 1
    assert line in err.splitlines()[-1]
    assert "checked" not in out


def test_failing_checks_fail(ci):
    code, _, err = ci(COMMAND, check="#!/bin/sh\nexit 3\n")
    assert code == 1
    assert err.splitlines()[-1] == "ci: scripts/check failed"


def test_the_readme_has_the_command_that_ci_runs():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "'.[test]'" in line]
    assert len(lines) == 1
    assert lines[0].endswith("&& .venv/bin/python -m pytest -n 2 --dist loadfile")
