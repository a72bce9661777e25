"""Launch scripts as data: what is followed, what is named, and that nothing is run."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time

import pytest

from ling.compat.script import MAX_BYTES, Script
from ling.errors import UsageError


def read(tmp_path, *texts):
    script = Script()
    for i, text in enumerate(texts):
        path = tmp_path / f"s{i}.sh"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        script.read(path)
    return script


def values(script):
    return {
        name: [v.text for v in value] if isinstance(value, list) else value.text
        for name, value in script.variables.known.items()
    }


FOLLOWED = r"""
A=3; B='a "b" $c'  # comment
C="x ${A} \"q\" \$A ${UNSET:-d e}"
D=${A:-no}${EMPTY:-yes}${EMPTY-z}; EMPTY=; E="${EMPTY:-yes}${EMPTY-no}${A:+set}"
ARR=(--one $A "two words" # inside
  --three ${ARR2[@]:-none} 'x'
)
ARR+=(more)
NONE=()
COPY=("${ARR[@]}" "${NONE[@]}" ${NONE[@]} "" "x${NONE[@]}" ${ARR[0]} $((A * (B2 + 2) - 7 / 2)))
T="a b"
SPLIT=(x$T"c d"y ${T})
export X=1 Y="2 3"
S+=start; S+=end
if [ -z "$NOT_SET" ]; then F=1; elif [ $A -eq 3 ]; then F=2; else F=3; fi
if [[ $A == 4 ]]; then G=1; elif [ "$A" -ge 3 ]; then G=2; fi
if ! [ $A -lt 3 ]; then
  if [ -n "$A" ]; then H=in; else H=out; fi
fi
[ "$A" != 3 ] && I=1 || I=2
LONG=a\
b
unset T
"""


def test_values_are_those_of_bash(tmp_path):
    text = FOLLOWED.replace("B2", "2").replace("--three ${ARR2[@]:-none}", "--three")
    script = read(tmp_path, text)
    names = ["A", "B", "C", "D", "E", "ARR", "COPY", "SPLIT", "X", "Y", "S", "F", "G", "H", "I"]
    names.append("LONG")
    show = "\n".join(f'printf "%s\\0" {n} "${{{n}[@]}}"; printf "\\1"' for n in names)
    done = subprocess.run(["bash", "-c", text + show], capture_output=True, text=True, env={})
    want = {}
    for record in done.stdout.split("\1")[:-1]:
        name, *words = record.split("\0")[:-1]
        want[name] = words
    got = values(script)
    assert {n: got[n] if isinstance(got[n], list) else [got[n]] for n in names} == want
    assert "T" not in got
    assert script.notes == []


def test_commands_have_their_words_and_lines(tmp_path):
    text = 'N=2\ncd /x && torchrun --n $N \\\n  a.py "${L[@]}" > log 2>&1 &\nA=1 env b 2>x | tee\n'
    commands = read(tmp_path, "L=(--p\n 'q r')\n", text).commands
    words = [[w.text for w in c.words] for c in commands]
    torchrun = ["torchrun", "--n", "2", "a.py", "--p", "q r"]
    assert words == [["cd", "/x"], torchrun, ["env", "b"], ["tee"]]
    assert commands[1].line == 2
    places = [w.where.rpartition("/")[2] for w in commands[1].words]
    assert places == ["s1.sh:2", "s1.sh:2", "s1.sh:2", "s1.sh:3", "s0.sh:1", "s0.sh:2"]


def test_what_is_not_followed_is_named_and_left_out(tmp_path):
    text = """\
for i in 1 2; do if [ $i = 1 ]; then V1=$i; fi; done
f() {
  V2=1
}
function g { V3=1; }
case $x in 3) V4=1 ;; esac
if [ -f /etc/passwd ]; then V5=1; else V6=1; fi
if ((1 > 0)); then V7=1; fi
source other.sh
[ -d /tmp ] && V8=1
while true; do V9=1; done
eval "V10=$(id)"
cat <<EOT
V11=1 ( " unclosed
EOT
W=1
"""
    script = read(tmp_path, text)
    assert values(script) == {"W": "1"}
    lines = [int(note.where.rpartition(":")[2]) for note in script.notes]
    assert lines == [1, 2, 5, 6, 7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    "text",
    [
        "V=1\nM=/models/x\nif [[ $M == /models/* ]]; then V=2; fi\n",
        "V=1\nP='/m*'\nif [[ /models == $P ]]; then V=2; fi\n",
        "V=1\nif grep -q x /etc/passwd; then V=2; else V=3; fi\n",
        "V=1\ngrep -q x /etc/passwd && V=2\n",
        "V=1\ngrep -q x /etc/passwd || { V=2; }\n",
    ],
)
def test_what_nobody_knows_is_left_out_with_a_line(tmp_path, text):
    script = read(tmp_path, text)
    assert values(script)["V"] == "1"
    assert len(script.notes) == 1


@pytest.mark.parametrize(
    "setter",
    [
        *("((G = G * 2))", "((G++))", "(( (1 + 1) * (G -= 1) ))", "let G=7", 'let "G += 1"'),
        *("G[3]=5", "G[$i]=5", "read -r G <<< 3", "read -p ask G", "printf -v G %d 3"),
        *("mapfile -t G < file", "readarray G < file", "N=$((G = 3))"),
    ],
)
def test_a_variable_set_by_what_is_not_evaluated_is_unknown(tmp_path, setter):
    script = read(tmp_path, f"G=8\n{setter}\nH=$G\n")
    known = script.variables.known["H"]
    assert known.text == ""
    assert known.problem.startswith("`G` is set by `")
    assert read(tmp_path, f"G=8\nif [ 1 = 2 ]; then {setter}; fi\nH=$G\n").notes == []


def test_an_array_is_unknown_after_one_of_its_elements_is_set(tmp_path):
    script = read(tmp_path, "A=(--lr 1)\nA[1]=5\nB=(${A[@]})\n")
    assert [v.problem for v in script.variables.known["B"]] == [
        "`A` is set by `A[…]=`, which is not evaluated"
    ]


def test_groups_of_commands(tmp_path):
    text = """\
A=1; B=1; C=1; D=1; L=(x)
( A=2; L+=(y); ( B=2 ); unset C; exit )
[ 1 = 2 ] && { A=3; A=4; }
[ 1 = 1 ] && { D=2; }
[ 1 = 2 ] && ( torchrun wrong; torchrun wrong )
cd /x && ( torchrun a ) && env B=3 torchrun b
E=1
"""
    script = read(tmp_path, text)
    assert values(script) == {"A": "1", "B": "1", "C": "1", "D": "2", "L": ["x"], "E": "1"}
    assert [[w.text for w in c.words][-1] for c in script.commands] == ["/x", "a", "b"]
    assert script.notes == []


def test_a_text_with_an_unknown_word_still_splits(tmp_path):
    script = read(tmp_path, 'O="--lr 1 --data $D/x$E --load $L"\nW=($O $U "$O")\n')
    words = script.variables.known["W"]
    assert [w.text for w in words] == [
        *("--lr", "1", "--data", "/x", "--load", "", ""),
        "--lr 1 --data /x --load ",
    ]
    unset = "`{}` is not set in the script".format
    both = f"{unset('D')}; {unset('E')}"
    assert [w.problem for w in words] == [
        *("", "", "", both, "", unset("L"), unset("U")),
        f"{both}; {unset('L')}",
    ]


def test_line_ends_of_windows(tmp_path):
    assert values(read(tmp_path, b"A=(x \\\r\n y\r\n)\r\nB=1\r\n")) == {"A": ["x", "y"], "B": "1"}


def test_nothing_is_run_and_no_environment_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "value")
    flag = tmp_path / "ran"
    text = f"A=$(touch {flag})\nB=`touch {flag}`\nC=$SECRET\ntouch {flag}\neval touch {flag}\n"
    text += f'D="$(echo ")" ; touch {flag})"\n'
    script = read(tmp_path, text)
    assert not flag.exists()
    assert values(script) == {"A": "", "B": "", "C": "", "D": ""}
    problems = {n: v.problem for n, v in script.variables.known.items()}
    assert "is a command, and none is run" in problems["A"]
    assert "is a command, and none is run" in problems["B"]
    assert problems["C"] == "`SECRET` is not set in the script"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nB='x\n\n", r"s0.sh:2: `.` that begins here is not closed"),
        ('A=1\n\nB="x\n', r's0.sh:3: `"` that begins here is not closed'),
        ("A=(1\n2\n", r"s0.sh:1: `\(` that begins here is not closed"),
        ("A=$(x\n", r"s0.sh:1: `\$\(` that begins here is not closed"),
        ("A=${x\n", r"s0.sh:1: `\$\{` that begins here is not closed"),
        ("A=`x\n", "s0.sh:1: ``` that begins here is not closed"),
        ("if [ 1 = 1 ]; then\nA=1\n", "s0.sh:1: `if` that begins here has no `fi`"),
        ("\nfi\n", "s0.sh:2: `fi` without `if`"),
        ("for i in 1; do\n x\n", "s0.sh:1: the block that begins here has no end"),
        ("cat <<E\nx\n", "s0.sh:1: the text up to `E` that begins here has no end"),
        ("A=(" * 3_000, "too deeply nested"),
        ("\n(A=1\n", r"s0.sh:2: `\(` that begins here has no `\)`"),
        ("A=" + "${B:-" * 40 + "}" * 40, "too deeply nested"),
        ("A=xxxxxxxxxxxxxxxx\n" + "A=$A$A\n" * 40, "more than 4 MiB of text"),
        ("A=(x x x x)\n" + "A=(${A[@]} ${A[@]})\n" * 40, "more than 4 MiB of text"),
        (b"A=1\0", "not a text file"),
        (b"\xff\xfeA", "not a text file"),
        (b"A=1\n" * (10 << 18), f"larger than {MAX_BYTES} bytes"),
    ],
    ids=lambda x: None if isinstance(x, bytes) else x[:20],
)
def test_what_is_no_script_is_one_error(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        read(tmp_path, text)


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, said in [("fifo", "not a regular file"), ("no", "No such file"), (".", "not a reg")]:
        with pytest.raises(UsageError, match=said):
            Script().read(tmp_path / name)


def test_a_large_script_takes_seconds_at_most(tmp_path):
    start = time.process_time()
    read(tmp_path, "A=(\n" + '  --x 1 "y" $Z # c\n' * 5_000 + ")\n" + "B=$((1 + 2))\n" * 2_000)
    read(tmp_path, "((" * 20_000)
    read(tmp_path, 'A="' + "$X" * 100_000 + '"\n' + "A=$A$A\n" * 100)
    with pytest.raises(UsageError, match="has no"):
        read(tmp_path, "(:;" * 100_000)
    assert time.process_time() - start < 20


def test_damaged_scripts_are_read_or_refused(tmp_path):
    """Pieces of a script in any order, and with characters left out."""
    rng = random.Random(0)
    pieces = [*FOLLOWED.split(), *("\n", ";", "(", ")", "((", "fi", "done", "<<E", "$(", "`")]
    for _ in range(100):
        text = " ".join(rng.choices(pieces, k=rng.randrange(30)))
        damaged = list(FOLLOWED)
        del damaged[rng.randrange(len(damaged))]
        for candidate in (text, "".join(damaged)):
            with contextlib.suppress(UsageError):
                read(tmp_path, candidate)
