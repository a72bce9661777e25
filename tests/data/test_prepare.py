"""`data prepare`: the two parts of a corpus, what it says, and finding its work again."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest

import ling.data.prepare
from ling.cli.main import main
from ling.data.join import join
from ling.data.plaintext import pieces
from ling.data.plan import Plan
from ling.data.prepare import Preparation, join_parts, prepare
from ling.data.tokenise import TokeniseTask
from ling.data.tokenizer import train_tokenizer
from ling.errors import LingError, UsageError

LINE = "the quick brown fox jumps over the lazy dog\n"


def run(sources, out, **options):
    said: list[str] = []
    ready = prepare(sources, out, vocab_size=300, log=said.append, **options)
    return ready, said


def held_out(ready):
    return [json.loads(row) for row in ready.valid_text.read_text().splitlines()]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl"])
def test_one_document_is_cut_at_its_end(tmp_path, name):
    text = "".join(f"line {i}\n" for i in range(500))
    (tmp_path / name).write_text(text if name == "x.txt" else json.dumps({"text": text}) + "\n")
    ready, said = run([tmp_path / name], tmp_path / "out")
    (end,) = held_out(ready)
    assert text.endswith(end["text"] + "\n")
    assert end["text"].startswith("line ")
    assert ready.stats["documents"] == 1
    assert ready.stats["train_bytes"] == pytest.approx(0.98 * len(text), rel=0.01)
    assert f"one document: the end of `{name}#1` is held out, 2.0%" in said


def test_two_words_have_two_parts(tmp_path):
    (tmp_path / "x.txt").write_text("a b")
    ready, _ = run([tmp_path / "x.txt"], tmp_path / "out")
    assert (ready.stats["train_tokens"], ready.stats["valid_tokens"]) == (3, 2)


def test_of_few_documents_a_small_one_is_held_out(tmp_path):
    (tmp_path / "a.txt").write_text(LINE * 2000)
    (tmp_path / "b.txt").write_text(LINE * 50)
    (tmp_path / "c.txt").write_text(LINE * 1)
    ready, said = run([tmp_path], tmp_path / "out")
    assert [d["name"] for d in held_out(ready)] == ["b.txt"]
    assert "few documents: `b.txt` is held out, 2.4%" in said


def test_of_two_large_documents_the_end_of_one_is_held_out(tmp_path):
    rows = [{"text": f"{k} {LINE * 20_000}"} for k in range(2)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    ready, _ = run([tmp_path / "x.jsonl"], tmp_path / "out")
    assert ready.stats["train_documents"] == 2
    assert 50_000 < ready.stats["valid_bytes"] < 70_000


def test_what_is_left_out_is_logged_and_kept(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for i in range(4):
        (root / f"{i}.txt").write_text(LINE * i)
    (root / "a.bin").write_bytes(bytes(9))
    (root / "b.txt").write_bytes(("größe " * 99).encode("latin-1"))
    ready, said = run([root], tmp_path / "out")
    note = json.loads((ready.folder / "prepared.json").read_text())
    assert note["left_out"]["empty file"] == {"count": 1, "names": ["0.txt"]}
    assert note["notes"] == {
        "in Windows-1252 (Latin-1), not UTF-8": {"count": 1, "names": ["b.txt"]}
    }
    assert "left out 1: empty file (0.txt)" in said
    assert "left out 1: binary data, or UTF-16 without a byte order mark (a.bin)" in said
    assert "read 1: in Windows-1252 (Latin-1), not UTF-8 (b.txt)" in said


def test_same_text_under_another_path_is_the_same(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    for i in range(5):
        (first / f"{i}.txt").write_text(LINE * (i + 1))
    before, _ = run([first], tmp_path / "out")
    shutil.copytree(first, tmp_path / "second")
    shutil.rmtree(first)
    again, said = run([tmp_path / "second"], tmp_path / "out")
    assert again.stats == before.stats
    assert len(said) == 1
    assert "prepared before, used as it is" in said[0]
    # The path it was prepared from needs not be there any more.
    assert run([first], tmp_path / "out")[0].stats == before.stats
    (tmp_path / "second" / "1.txt").write_text("other")
    with pytest.raises(UsageError, match="sources"):
        run([tmp_path / "second"], tmp_path / "out")


def test_same_tokenizer_under_another_path_is_the_same(tmp_path):
    for name, size in (("a", 300), ("b", 300), ("c", 310)):
        train_tokenizer([LINE * 9, "def f(x): return x"] * 9, size).save(tmp_path / name)
    (tmp_path / "x.txt").write_text(LINE * 9)
    first, _ = run([tmp_path / "x.txt"], tmp_path / "out", tokenizer=tmp_path / "a")
    again, _ = run([tmp_path / "x.txt"], tmp_path / "out", tokenizer=tmp_path / "b")
    assert again.stats == first.stats
    for other in (tmp_path / "c", None):
        with pytest.raises(UsageError, match="`tokenizer`"):
            run([tmp_path / "x.txt"], tmp_path / "out", tokenizer=other)


def test_data_of_an_older_version_is_found(tmp_path):
    (tmp_path / "x.txt").write_text(LINE * 9)
    source = str(tmp_path / "x.txt")
    first, _ = run([source], tmp_path / "out")
    note = json.loads((tmp_path / "out" / "prepared.json").read_text())
    old = {"settings": note["settings"], "stats": note["stats"], "files": note["files"]}
    for key in ("seed", "json_key"):
        del old["settings"][key]
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(old))
    assert run([source], tmp_path / "out")[0].stats == first.stats
    with pytest.raises(UsageError, match="json_key"):
        run([source], tmp_path / "out", json_key="poem")


def test_folders_that_prepare_wrote_are_no_source(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(LINE * (i + 1))
    first, _ = run([tmp_path], tmp_path / "out")
    second, said = run([tmp_path], tmp_path / "more")
    assert second.stats == first.stats
    assert "left out 1: folder that `data prepare` wrote (out)" in said


def test_key_from_the_command_line(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text(json.dumps({"poem": LINE}) + "\n")
    args = ["data", "prepare", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*args, "--vocab-size", "300"]) == 2
    assert "choose with --json-key" in capsys.readouterr().err
    assert main([*args, "--vocab-size", "300", "--json-key", "poem"]) == 0


@pytest.mark.parametrize("args", [["data", "--help"], ["data", "-h"]])
def test_help_names_the_command(args, capsys):
    assert main(args) == 0
    assert "data prepare SOURCE... --out DIR" in capsys.readouterr().out


def test_long_document_is_encoded_in_parts(tmp_path, monkeypatch):
    rows = [{"text": "".join(f"{i} {LINE}\n" for i in range(n))} for n in (300, 10)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    whole, _ = run([tmp_path / "x.jsonl"], tmp_path / "whole")
    monkeypatch.setattr("ling.data.tokenise.CHUNK_BYTES", 5000)
    monkeypatch.setattr("ling.data.tokenise.pieces", lambda texts: pieces(texts, 700))
    parts, _ = run([tmp_path / "x.jsonl"], tmp_path / "parts")
    assert parts.stats == whole.stats
    before, after = (r.train_prefix.with_suffix(".bin").read_bytes() for r in (whole, parts))
    assert before == after


# ---- units of work ----------------------------------------------------------------------------


@pytest.fixture
def in_units(monkeypatch, tmp_path):
    """A corpus of a dozen units, its tokenizer, and all of it prepared in one piece."""
    rows = [{"text": f"{i} {LINE * (i % 7 + 1)}"} for i in range(400)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train_tokenizer([LINE * 9], 300).save(tmp_path / "tok")
    options = {"tokenizer": tmp_path / "tok", "log": lambda line: None}
    prepare([tmp_path / "x.jsonl"], tmp_path / "whole", **options)
    monkeypatch.setattr("ling.data.units.MIN_UNIT_BYTES", 6000)
    return lambda out: Preparation([tmp_path / "x.jsonl"], tmp_path / out, **options)


def bytes_of(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_shards_joined_are_the_whole(in_units, tmp_path):
    for i in (2, 0, 1):
        in_units("out").run_shard(i, 3)
    join_parts(tmp_path / "out", log=lambda line: None)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_the_same_jobs_again_find_the_finished_data(in_units, tmp_path, capsys):
    assert in_units("out").run_shard(0, 1) is None
    args = [*("data", "prepare", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out"))]
    args += ["--tokenizer", str(tmp_path / "tok"), "--shard", "0/1"]
    assert main(args) == 0
    assert "next, when all shards have ended: ling data join" in capsys.readouterr().out
    for _ in range(2):
        assert main(["data", "join", str(tmp_path / "out")]) == 0
        prefixes = f"prefixes: {tmp_path / 'out' / 'train_text_document'} "
        assert prefixes in capsys.readouterr().out
        assert main(args) == 0
        said = capsys.readouterr().out
        assert prefixes in said
        assert "next" not in said


def test_a_join_that_waited_for_another_finds_its_data(in_units, tmp_path, monkeypatch):
    in_units("out").run_shard(0, 1)
    lock = ling.data.prepare._one_at_a_time

    @contextlib.contextmanager
    def lock_after_another(folder):
        with lock(folder):
            join(Plan.find(folder), lambda line: None)
        with lock(folder):
            yield

    monkeypatch.setattr("ling.data.prepare._one_at_a_time", lock_after_another)
    said: list[str] = []
    assert join_parts(tmp_path / "out", log=said.append).folder == tmp_path / "out"
    assert said == [f"{tmp_path / 'out'}: joined before, used as it is"]


def test_a_tokenizer_that_is_none_is_said_before_the_corpus_is_read(tmp_path):
    with pytest.raises(LingError, match=r"no tokenizer\.json in this folder"):
        run([tmp_path / "not there.txt"], tmp_path / "out", tokenizer=tmp_path)


def test_processes_give_the_same_bytes(in_units, tmp_path, monkeypatch):
    monkeypatch.setattr("ling.data.pool._WORTH_BYTES", 1)
    in_units("out").run()
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_missing_shard_is_named(in_units, tmp_path, capsys):
    in_units("out").run_shard(0, 2)
    assert main(["data", "join", str(tmp_path / "out")]) == 2
    assert "parts are missing, the first is 1; run" in capsys.readouterr().err
    assert main(["data", "join", str(tmp_path / "tok")]) == 2
    assert "nothing to join" in capsys.readouterr().err
    with pytest.raises(UsageError, match="shard 2/2: expected 0/2 to 1/2"):
        in_units("out").run_shard(2, 2)


def test_an_interrupted_run_goes_on(in_units, tmp_path, monkeypatch):
    done = []

    def stopping(task, unit, watch):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(unit.number)
        return whole(task, unit, watch)

    whole = TokeniseTask.__call__
    monkeypatch.setattr(TokeniseTask, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        in_units("out").run()
    first, done[:] = list(done), []
    monkeypatch.setattr(
        TokeniseTask, "__call__", lambda *args: done.append(args[1].number) or whole(*args)
    )
    in_units("out").run()
    assert not set(first) & set(done)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_other_sources_do_not_go_on_with_the_parts(in_units, tmp_path):
    in_units("out").run_shard(0, 3)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": LINE}) + "\n")
    with pytest.raises(UsageError, match=r"have changed since .* delete .*\.parts to begin again"):
        in_units("out").run()


def test_a_damaged_part_is_named(in_units, tmp_path):
    in_units("out").run_shard(0, 1)
    part = tmp_path / "out" / ".parts" / "00003.train.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"00003.train.bin: missing or not \d+ bytes long"):
        join_parts(tmp_path / "out")


@pytest.mark.parametrize("shard", ["3", "a/b", "1/0", "-1/2", "3/3"])
def test_a_shard_that_is_none_is_refused(tmp_path, shard, capsys):
    (tmp_path / "x.txt").write_text(LINE)
    args = ["data", "prepare", str(tmp_path / "x.txt"), "--out", str(tmp_path / "out")]
    assert main([*args, f"--shard={shard}"]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
