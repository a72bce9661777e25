"""A recipe's files as rows: what is used, held out, left out and named, and read again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ling.config.sft import ChatDataConfig
from ling.data.chat import CHAT_TEMPLATE, ChatTemplate
from ling.data.conversations.chat_data import open_chat_data
from ling.data.conversations.megatron import MegatronTemplate
from ling.data.conversations.supervise import NOT_TRAINED
from ling.errors import DataError, UsageError
from ling.train.batches import make_batch

TEMPLATE = ChatTemplate(CHAT_TEMPLATE)


def talk(question, reply, **more):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply, **more},
        ]
    }


TALKS = [talk(f"question {i}", "x" * (i % 9)) for i in range(60)]
PAIRS = [{"prompt": f"q{i}", "chosen": "good", "rejected": "worse"} for i in range(7)]


@pytest.fixture
def write(tmp_path):
    def to_file(records, name="a.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
        return str(path)

    return to_file


@pytest.fixture
def opened(tmp_path, tokenizer):
    def open_(*files, seed=1, template=TEMPLATE, log=lambda _: None, **options):
        cfg = ChatDataConfig(files=list(files), **{"seq_length": 512, **options})
        folder = tmp_path / "run"
        return open_chat_data(cfg, seed, tokenizer, template, 400, folder, log)

    return open_


def trained_texts(data, tokenizer, rows):
    """What is learned in rows, as texts."""
    found = []
    for i in range(len(rows)):
        row = rows[i]
        ids = row.labels[row.loss_mask > 0].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=False)
        found += text.split("<|role_end|>")[:-1]
    return found


def test_an_epoch_learns_each_answer_and_its_end(write, opened, tokenizer):
    data = opened(write(TALKS))
    rows = data.order(epochs=1.0)
    assert len(rows) == data.rows(1.0) == data.rows_per_epoch(0)
    got = trained_texts(data, tokenizer, rows)
    assert sorted(got) == sorted(t["messages"][1]["content"] for t in TALKS)
    assert data.report["trained_tokens"] == sum(
        int(rows[i].loss_mask.sum()) for i in range(len(rows))
    )
    assert data.valid is None


@pytest.mark.parametrize("packing", ["best_fit", "off"])
def test_an_end_mark_that_is_the_padding_too_is_learned(
    write, opened, tokenizer, monkeypatch, packing
):
    monkeypatch.setitem(tokenizer.special_tokens, "pad_token", "<|role_end|>")
    data = opened(write(TALKS), packing=packing)
    end = data.pad
    assert end == tokenizer.token_to_id("<|role_end|>")
    rows = data.order(epochs=1.0)
    batch = make_batch([rows[i] for i in range(len(rows))], isolate_documents=True)
    learned = batch.labels_BS[batch.mask_BS > 0]
    assert int((learned == end).sum()) == len(TALKS)
    assert int((batch.tokens_BS == end).sum()) > 2 * len(TALKS), "some of it is padding"


def test_files_are_tokenised_once(write, opened, tmp_path, monkeypatch):
    file = write(TALKS)
    first = opened(file)
    rows = [first.order(rows=9)[i].tokens.tolist() for i in range(9)]

    def fail(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("ling.data.conversations.chat_data.Preparation", fail)
    again = opened(file)
    assert again.report == first.report
    assert [again.order(rows=9)[i].tokens.tolist() for i in range(9)] == rows
    moved = tmp_path / "b.jsonl"
    moved.write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert opened(str(moved)).fingerprint == first.fingerprint  # its content decides
    with pytest.raises(AssertionError, match="read again"):
        opened(write([*TALKS, talk("new", "one")]))


def test_records_are_held_out_by_what_they_say(write, opened, tokenizer):
    data = opened(write(TALKS), valid_share=0.3)
    held_out = set(trained_texts(data, tokenizer, data.valid))
    assert 0 < data.report["held_out"] < len(TALKS)
    more = opened(write([*TALKS[::-1], talk("new", "one")]), valid_share=0.3)
    kept = sorted(p[0][0]["content"] for p in data.prompts(60))
    assert {*kept} <= {p[0][0]["content"] for p in more.prompts(61)}
    messages, tools, expected = data.prompts(1)[0]
    assert (messages[-1]["role"], tools, expected["role"]) == ("user", None, "assistant")
    assert expected["content"] in held_out
    assert opened(write(TALKS), valid_share=0.3, seed=2).prompts(60) != data.prompts(60)


def test_held_out_files(write, opened):
    data = opened(write(TALKS), valid_files=[write(TALKS[:5], "v.jsonl")])
    assert data.report["held_out"] == 5
    assert data.report["samples"] == 65
    assert (data.report["duplicates"], data.report["leaked"]) == (5, 5)
    assert len(data.valid) == 1


def test_a_record_that_is_there_twice_is_not_held_out_from_itself(write, opened):
    data = opened(write(TALKS * 2), valid_share=0.3)
    assert (data.report["duplicates"], data.report["leaked"]) == (60, 0)


def test_nothing_left_to_train_on_is_told(write, opened):
    with pytest.raises(DataError, match="no sample to train on: 60 samples are held out"):
        opened(write(TALKS), valid_share=0.999999)


LONG = talk("long", "y" * 900)


@pytest.mark.parametrize(
    ("rule", "samples", "words"),
    [
        ("drop", 60, "1: dropped, more than 512 tokens"),
        ("cut-left", 61, "1: cut to its last 512 tokens"),
        ("split", 62, "1: split into parts of 512 tokens"),
    ],
)
def test_over_long_samples_are_counted_and_named(write, opened, tokenizer, rule, samples, words):
    lines = []
    data = opened(write([*TALKS, LONG]), over_long=rule, log=lines.append)
    assert data.report["samples"] == samples
    (line,) = (line for line in lines if words in line)
    assert "a.jsonl:61" in line
    learned = sum(text.count("y") for text in _learned(data, tokenizer))
    assert learned == {"drop": 0, "cut-left": 510, "split": 900}[rule]


def _learned(data, tokenizer):
    store = data.parts["train"]
    for k in range(len(store)):
        labels = store[k].labels
        yield tokenizer.decode(labels[1:][labels[1:] != NOT_TRAINED].tolist())


def test_over_long_can_be_an_error(write, opened):
    with pytest.raises(DataError, match=r"a\.jsonl:61: .* are more than `data.seq_length` = 512"):
        opened(write([*TALKS, LONG]), over_long="error")


def test_samples_without_anything_to_learn_are_counted_or_an_error(write, opened):
    silent = talk("q", "a", weight=0)
    lines = []
    data = opened(write([silent, *TALKS]), log=lines.append)
    assert data.report["samples"] == 60
    assert any("no token is trained" in line and "a.jsonl:1" in line for line in lines)
    with pytest.raises(DataError, match="no sample to train on: 1: no token is trained"):
        opened(write([silent], "b.jsonl"))


def test_bad_records_stop_or_are_counted(write, opened):
    file = write([TALKS[0], {"messages": [{"role": "robot", "content": "x"}]}, TALKS[1]])
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        opened(file)
    data = opened(file, skip_bad=True)
    assert data.report["samples"] == 2
    (found,) = data.report["bad"].values()
    assert found["count"] == 1
    assert found["names"][0].endswith("a.jsonl:2")


def test_ids_that_are_given_are_used_and_checked(write, opened):
    given = {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}
    data = opened(write([given]))
    row = data.order(rows=1)[0]
    assert row.tokens[:3].tolist() == [5, 6, 7]
    assert np.flatnonzero(row.loss_mask).tolist() == [1]
    with pytest.raises(DataError, match=r":1: token id 400 is outside the vocabulary of 400"):
        opened(write([{"input_ids": [5, 400], "labels": [5, 400]}], "b.jsonl"))


def test_files_are_mixed_by_weight(write, opened, tokenizer):
    a = write([talk("a", "aaaa")] * 40)
    b = write([talk("b", "bbbb")] * 40, "b.jsonl")
    data = opened(a, b, weights=[3, 1], seq_length=64)
    rows = data.order(rows=40)
    first = [trained_texts(data, tokenizer, [rows[i]])[0] for i in range(40)]
    assert (first.count("aaaa"), first.count("bbbb")) == (30, 10)
    with pytest.raises(UsageError, match=r"`data\.weights`"):
        opened(a, b, weights=[1]).order(rows=1)


def test_pairs_are_kept_side_by_side(write, opened, tokenizer):
    data = opened(write(PAIRS))
    pairs = data.pairs(epochs=2.0)
    assert len(pairs) == 14
    rows = [pairs[i] for i in range(14)]
    assert sorted(int(row.extra["pair"][0]) for row in rows[:7]) == list(range(7))
    for row in rows:
        learned = [row.labels[(row.loss_mask > 0) & (row.documents == d)] for d in (0, 1)]
        assert [tokenizer.decode(ids.tolist()) for ids in learned] == ["good", "worse"]
    with pytest.raises(UsageError, match="objective: dpo"):
        data.order(rows=1)
    with pytest.raises(UsageError, match="needs pairs of answers"):
        opened(write(TALKS, "b.jsonl")).pairs(rows=1)
    with pytest.raises(UsageError, match="mixed"):
        opened(write(PAIRS), write(TALKS, "b.jsonl"))


def test_the_originals_text_and_packing(write, opened, tokenizer):
    data = opened(write(TALKS), template=MegatronTemplate(), packing="megatron", seq_length=256)
    row = data.order(epochs=1.0)[0]
    learned = row.labels[row.loss_mask > 0].tolist()
    assert learned.count(tokenizer.eod_token_id) == learned.count(
        tokenizer.token_to_id("<|role_end|>")
    )
    assert len(row.borders) == 0
    with pytest.raises(DataError, match="fill no row"):
        opened(write(TALKS[:2], "b.jsonl"), template=MegatronTemplate(), packing="megatron").order(
            rows=1
        )


def test_a_tokenizer_of_another_model_is_refused(write, opened, tokenizer, tmp_path):
    cfg = ChatDataConfig(files=[write(TALKS)])
    with pytest.raises(UsageError, match=r"the tokenizer has \d+ ids, the model 100"):
        open_chat_data(cfg, 1, tokenizer, TEMPLATE, 100, tmp_path / "run")


def test_prompts_ask_for_the_last_turn_and_for_those_before_it_in_turn(write, opened):
    talks = [
        {"messages": [*talk(f"a{i}", "b")["messages"], *talk(f"c{i}", "d")["messages"]]}
        for i in range(3)
    ]
    data = opened(write(TALKS), valid_files=[write(talks, "valid.jsonl")])
    assert [len(messages) for messages, _, _ in data.prompts(3)] == [3, 1, 3]
    assert [expected["content"] for _, _, expected in data.prompts(3)] == ["d", "b", "d"]
