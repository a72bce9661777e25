"""`ling scaling predict` as people run it."""

from __future__ import annotations

import json

import pytest

from ling.cli.main import main


def run(capsys, *args):
    code = main(["scaling", "predict", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_preset_as_text_and_json(capsys):
    code, out, _ = run(capsys, "ling-mini-2.0", "--flops", "1e22")
    assert code == 0
    assert "leverage       6.79" in out
    assert "log10 of C, log2 of G" in out
    code, out, _ = run(capsys, "ling-mini-2.0", "--flops", "1e22", "--json")
    assert json.loads(out)["leverage"]["value"] == pytest.approx(6.79, abs=0.005)


def test_a_shape_by_its_two_numbers(capsys):
    args = ("--flops", "1e14", "--activation-ratio", 5 / 33, "--granularity", 4, "--json")
    code, out, _ = run(capsys, *args)
    assert code == 0
    assert json.loads(out)["leverage"]["value"] == pytest.approx(1.005, abs=0.001)


def test_a_model_folder(capsys, tmp_path):
    from ling.presets import preset

    (tmp_path / "config.json").write_text(json.dumps(preset("ling-nano").to_dict()))
    with_folder = run(capsys, tmp_path, "--tokens", "3e7", "--json")
    with_preset = run(capsys, "ling-nano", "--tokens", "3e7", "--json")
    assert with_folder[0] == with_preset[0] == 0
    assert json.loads(with_folder[1])["flops"] == json.loads(with_preset[1])["flops"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give `--flops`"),
        (["--tokens", "1e9"], "give `--flops`"),
        (["ling-nano"], "give `--flops` or `--tokens`"),
        (["ling-nano", "--flops", "1e14", "--tokens", "1e7"], "give `--flops` or `--tokens`"),
        (["ling-nano", "--flops", "1e14", "--granularity", "8"], "has its own activation ratio"),
        (["ling-nan", "--flops", "1e14"], "did you mean `ling-nano`"),
        (["--flops", "0"], "`--flops` is 0.0"),
        (["--flops", "inf"], "`--flops`"),
        (["--flops", "1e308"], "`--flops` is 1e+308, expected at most 1e+40"),
        (["--flops", "1e14", "--activation-ratio", "2"], "`--activation-ratio` is 2.0"),
        (["--flops", "1e14", "--seq-length", "0"], "`--seq-length` is 0"),
    ],
)
def test_mistakes_are_one_line(args, message, capsys):
    code, out, err = run(capsys, *args)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
