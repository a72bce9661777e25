"""`ling completion`: bash completes with what it prints; every command and option is in it."""

from __future__ import annotations

import subprocess

import pytest

from ling.cli.commands import COMMANDS
from ling.cli.completion import table
from ling.cli.main import main


@pytest.fixture(scope="module")
def found():
    return table()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return tmp_path_factory.mktemp("shell") / "ling.bash"


def completed(capsys, script, *words):
    """What bash offers for the last of the words."""
    if not script.exists():
        assert main(["completion", "bash"]) == 0
        script.write_text(capsys.readouterr().out)
    line = " ".join(f"'{word}'" for word in ("ling", *words))
    code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _ling; "
    done = subprocess.run(
        ["bash", "-c", code + "printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p ling"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr == ""
    *offers, registered = done.stdout.splitlines()
    assert registered == "complete -o default -F _ling ling"
    return [offer for offer in offers if offer]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["con"], ["convert"]),
        (
            ["generate", "--max-"],
            [
                "--max-memory",
                "--max-model-len",
                "--max-new-tokens",
                "--max-num-seqs",
                "--max-step-ms",
                "--max-tokens",
            ],
        ),
        (["pretrain", "t"], ["tiny"]),
        (["pretrain", "tiny", "--train.ste"], ["--train.steps"]),
        (["bench", "d"], ["decode"]),
        (["bench", "decode", "--prof"], ["--profile"]),
        (["data", ""], ["prepare"]),
        (["data", "prepare", "--json"], ["--json-key"]),
        (["generate", "mod"], []),  # bash then offers files
        (["nothing", "--"], []),
    ],
)
def test_bash_completes(capsys, script, words, offers):
    assert sorted(completed(capsys, script, *words)) == offers


def test_every_command_has_its_words(found):
    assert set(COMMANDS) <= set(found)
    assert all("--help" in words.options for words in found.values())
    assert {"--format", "--prompt", "-p"} <= set(found["generate"].options)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_has_every_command_and_option(capsys, found, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, words in found.items():
        assert name.split()[0] in script
        assert all(flag.lstrip("-") in script for flag in [*words.options, *words.names])


def test_a_shell_without_a_script_is_named(capsys):
    assert main(["completion", "bsh"]) == 2
    assert "no script for `bsh` (did you mean `bash`?)" in capsys.readouterr().err
