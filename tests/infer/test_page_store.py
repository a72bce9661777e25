"""Pages that outlive an engine: the same tokens from them, and nothing from those of others."""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
from pathlib import Path

import pytest
import torch
from random_adapters import random_adapter

from ling.config.engine import EngineConfig
from ling.errors import UsageError
from ling.infer import page_store
from ling.infer.driver import Driver
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.pages import PAGE
from ling.infer.request import SamplingParams, SchedulingParams
from ling.model.ling import from_config
from ling.ops import native
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")
FMTS = [None, "int8 KV", "int4 KV"]
if native.library():
    FMTS += ["bf16", "int4", "int8, int8 KV", "int4, int4 KV"]
DEFAULT = "int4" if native.library() else None
formats = pytest.mark.parametrize("fmt", FMTS, ids=lambda f: f or "reference")
rng = random.Random(5)
STEM = [rng.randrange(384) for _ in range(3 * PAGE)]
PROMPT = [*STEM, 7, 8, 9]


@functools.cache
def model():
    made = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=1), seed=0)
    with torch.no_grad():  # larger weights than at the start of training: varied continuations
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return made


def engine(folder, fmt=DEFAULT, weights_id="w", adapters=None, **options):
    """An engine that keeps pages in `folder`; None keeps none."""
    parts = (fmt or "").split(", ")
    weights = [p for p in parts if p and not p.endswith(" KV")]
    caches = [p.removesuffix(" KV") for p in parts if p.endswith(" KV")]
    config = EngineConfig(
        format=weights[0] if weights else None,
        kv_cache_dtype=caches[0] if caches else "bf16",
        cache_dir=None if folder is None else str(folder),
        **options,
    )
    # A runner of the module itself changes it.
    own = model() if weights else from_config(model().config, seed=0)
    if not weights:
        own.load_state_dict(model().state_dict())
    runner = runner_for(own, config)
    runner.weights_id = weights_id
    if adapters is not None:
        runner.use_adapters(adapters)
    return Engine(runner, config, adaptive=False)


def run(e, *prompts, n=6, salt="", temperature=0.0, seed=1, adapter=None):
    """Requests after all their tokens."""
    params = SamplingParams(max_tokens=n, temperature=temperature, seed=seed, ignore_eos=True)
    requests = [e.add(p, params, cache_salt=salt, adapter=adapter) for p in prompts]
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages
    return requests


def save(e):
    for _ in e.store.save():
        pass
    return e


def files(folder):
    return sorted(folder.glob("*/*.kv"))


def cached(folder, prompt=PROMPT, salt="", **options):
    """Tokens that a new engine has not to compute."""
    return run(engine(folder, **options), prompt, salt=salt, n=1)[0].num_cached_tokens


@formats
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("speculative", ["off", "mtp"])
def test_an_engine_after_a_restart_gives_the_same_tokens(tmp_path, fmt, temperature, speculative):
    options = {"temperature": temperature, "n": 8}
    expected = run(engine(None, fmt), PROMPT, **options)[0].output
    e = engine(tmp_path, fmt, speculative=speculative)
    (first,) = run(e, PROMPT, **options)
    save(e)
    (second,) = run(engine(tmp_path, fmt, speculative=speculative), PROMPT, **options)
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 3 * PAGE)
    assert first.output == second.output == expected


@formats
def test_a_page_comes_back_bit_for_bit(tmp_path, fmt):
    old = engine(tmp_path, fmt, speculative="mtp")
    run(old, PROMPT)
    save(old)
    new = engine(tmp_path, fmt, speculative="mtp")
    run(new, PROMPT, n=1)
    pages = [sorted((serial, page) for page, serial in e.pool.index.values()) for e in (old, new)]
    both = list(zip(*pages, strict=False))
    assert len(both) == 3
    for (_, a), (_, b) in both:
        bytes_a, bytes_b = (page_store.joined(e.runner.page(n)) for e, n in ((old, a), (new, b)))
        assert len(bytes_a) == old.runner.page_bytes()
        assert bytes_a.any()
        assert torch.equal(bytes_a, bytes_b)


def test_pages_continue_where_those_in_memory_end(tmp_path):
    other = [*STEM[:PAGE], *STEM[: 2 * PAGE], 5]
    save_both = engine(tmp_path)
    run(save_both, PROMPT, other)
    save(save_both)
    e = engine(tmp_path)
    assert run(e, STEM[: PAGE + 3])[0].num_cached_tokens == PAGE
    expected = run(engine(None), PROMPT, other)
    got = run(e, PROMPT, other)
    assert [r.num_cached_tokens for r in got] == [3 * PAGE, 3 * PAGE]
    assert [r.output for r in got] == [r.output for r in expected]


def test_long_prefixes_are_read_over_several_steps(tmp_path, monkeypatch):
    save(engine_after(tmp_path, PROMPT))
    monkeypatch.setattr(page_store, "LOAD_BYTES", 1)
    e = engine(tmp_path)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    running = e.add([1, 2, 3], params)
    e.step()
    late = e.add(PROMPT, params)
    steps = 0
    while not late.output:
        e.step()
        steps += 1
    assert steps == 3  # the last page is read in the step that computes
    assert running.num_output_tokens == 1 + steps
    while e.has_work:
        e.step()
    assert late.num_cached_tokens == 3 * PAGE
    assert late.output == run(engine(None), PROMPT, n=12)[0].output


def test_requests_share_what_a_step_reads_and_hold_nobody_up(tmp_path, monkeypatch):
    other = [9, *PROMPT[1:]]
    save(engine_after(tmp_path, PROMPT, other))
    monkeypatch.setattr(page_store, "LOAD_BYTES", 1)
    e = engine(tmp_path)
    read, pages = e.store.files.read, []
    monkeypatch.setattr(e.store.files, "read", lambda *key: (pages.append(key), read(*key))[1])
    monkeypatch.setattr(e.scheduler, "preempt", None)  # nobody is
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    first, second, plain = (e.add(p, params) for p in (PROMPT, other, [1, 2, 3]))
    steps = 0
    while not second.output:
        e.step()
        steps += 1
        assert len(pages) == steps
        assert len(plain.output) == min(steps, 6)
        assert bool(first.output) == (steps >= 3)
    assert steps == 6
    while e.has_work:
        e.step()
    assert [r.num_cached_tokens for r in (first, second)] == [3 * PAGE] * 2
    assert [r.output for r in (first, second)] == [
        r.output for r in run(engine(None), PROMPT, other)
    ]


def test_a_request_keeps_its_turn_while_its_pages_are_read(tmp_path, monkeypatch):
    save(engine_after(tmp_path, PROMPT))
    monkeypatch.setattr(page_store, "LOAD_BYTES", 1)
    e = engine(tmp_path, max_num_seqs=1)
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    first, second = e.add(PROMPT, params), e.add([1, 2, 3], params)
    for n in (0, 0, 1, 2):
        e.step()
        assert (len(first.output), len(second.output)) == (n, 0)
    while e.has_work:
        e.step()
    assert len(second.output) == 2


def test_nothing_is_read_for_a_request_without_room(tmp_path):
    save(engine_after(tmp_path, PROMPT))
    e = engine(tmp_path, num_pages=5)
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    e.add([3] * (PAGE + 30), params)
    late = e.add(PROMPT, params)
    e.step()
    assert (e.store._saved, late.num_cached_tokens) == (set(), 0)
    while e.has_work:
        e.step()
    assert late.num_cached_tokens == 3 * PAGE


def engine_after(folder, *prompts, **options):
    e = engine(folder, **options)
    run(e, *prompts)
    return e


def test_pages_of_an_adapter_are_found_by_its_hash_whatever_its_name(tmp_path):
    cfg, names = preset("ling-tiny"), ("x", "y")
    one, other = (random_adapter(cfg, seed) for seed in (1, 2))
    e = engine(tmp_path, adapters={"x": one, "y": other})
    want = {name: run(e, PROMPT, adapter=name)[0].output for name in (None, *names)}
    assert len({tuple(tokens) for tokens in want.values()}) == 3
    save(e)
    assert len(files(tmp_path)) == 9
    for given, moved in (
        ({"a": other, "b": one}, {"a": "y", "b": "x", None: None}),
        ({}, {None: None}),
    ):
        e = engine(tmp_path, adapters=given)
        for name, before in moved.items():
            (request,) = run(e, PROMPT, adapter=name)
            assert (request.num_cached_tokens, request.output) == (3 * PAGE, want[before])
    e = engine(tmp_path, adapters={"x": random_adapter(cfg, 3)})
    assert run(e, PROMPT, adapter="x")[0].num_cached_tokens == 0


def test_a_small_pool_reads_what_fits(tmp_path):
    save(engine_after(tmp_path, PROMPT))
    e = engine(tmp_path, num_pages=5)
    blocker = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    first = e.add([3] * (PAGE + 30), blocker)
    second = e.add(PROMPT, SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    assert e.pool.available == 5
    assert first.num_output_tokens == 60
    assert second.output == run(engine(None), PROMPT, n=4)[0].output


def test_scores_of_a_prompt_compute_all_of_it(tmp_path):
    save(engine_after(tmp_path, PROMPT))
    e = engine(tmp_path)
    request = e.add(PROMPT, SamplingParams(max_tokens=1, prompt_logprobs=0))
    while e.has_work:
        e.step()
    assert request.num_cached_tokens == 0
    assert len(request.prompt_logprobs) == len(PROMPT) - 1


def test_a_salt_parts_its_users_and_is_not_written_down(tmp_path):
    e = engine(tmp_path)
    run(e, PROMPT, salt="secret-key")
    save(e)
    assert cached(tmp_path) == 0
    assert cached(tmp_path, salt="another") == 0
    assert cached(tmp_path, salt="secret-key") == 3 * PAGE
    for path in tmp_path.rglob("*"):
        assert "secret" not in path.name
        assert path.is_dir() or b"secret" not in path.read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        {"weights_id": "x"},
        {"fmt": None},
        {"fmt": "int8 KV"},
        {"fmt": "int4 KV"},
        {"speculative": "mtp"},
        {"speculative": "auto"},
    ],
    ids=str,
)
def test_pages_of_another_model_are_not_used(tmp_path, caplog, other):
    save(engine_after(tmp_path, PROMPT))
    before = files(tmp_path)
    with caplog.at_level(logging.WARNING, "ling"):
        e = engine_after(tmp_path, PROMPT, **other)
    assert [r.message for r in caplog.records] == [
        f"{tmp_path}: its KV pages are of another model, format or version: not used"
    ]
    save(e)
    assert len(files(tmp_path)) == 2 * len(before)
    caplog.clear()
    assert cached(tmp_path, **other) == 3 * PAGE
    assert cached(tmp_path) == 3 * PAGE  # those of the first are still there
    assert not caplog.records


def test_prefixes_are_saved_before_what_is_built_on_them(tmp_path):
    e = engine_after(tmp_path, PROMPT)
    steps = e.store.save()
    for n in range(1, 4):
        next(steps)
        assert cached(tmp_path) == n * PAGE
    assert not list(steps)


def test_of_more_than_fits_the_last_used_prefix_is_saved(tmp_path):
    e = engine(tmp_path)
    room = e.store.files.file_bytes * 4
    e = engine(tmp_path, cache_dir_size=f"{room}B")
    prompts = [[n] * (2 * PAGE + 1) for n in (11, 12, 13, 14)]
    for prompt in prompts:
        run(e, prompt)
    run(e, prompts[1])
    save(e)
    assert sum(f.stat().st_size for f in files(tmp_path)) <= room
    assert [cached(tmp_path, p) for p in prompts] == [0, 2 * PAGE, 0, PAGE]


def test_chat_turns_are_saved_first(tmp_path):
    room = engine(tmp_path).store.files.file_bytes * 6 // 5  # one page
    e = engine(tmp_path, cache_dir_size=f"{room}B")
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    prompts = [[n] * (PAGE + 1) for n in (11, 12, 13)]
    for prompt, is_turn in zip(prompts, (True, True, False), strict=True):
        e.add(prompt, params, scheduling=SchedulingParams(is_chat_turn=is_turn))
        while e.has_work:
            e.step()
    save(e)
    assert [cached(tmp_path, p) for p in prompts] == [0, PAGE, 0]


def test_the_oldest_files_make_room(tmp_path):
    room = engine(tmp_path).store.files.file_bytes * 4
    prompts = [[n] * (PAGE + 1) for n in range(20, 27)]
    for prompt in prompts:  # each in an engine of its own
        save(engine_after(tmp_path, prompt, cache_dir_size=f"{room}B"))
        assert sum(f.stat().st_size for f in files(tmp_path)) <= room
    hits = [cached(tmp_path, p) for p in prompts]
    assert hits == [0] * 4 + [PAGE] * 3
    cached(tmp_path, prompts[4])  # what is of use stays
    save(engine_after(tmp_path, [40] * (PAGE + 1), cache_dir_size=f"{room}B"))
    assert [cached(tmp_path, p) for p in prompts[4:]] == [PAGE, 0, PAGE]


def test_a_limit_below_one_page_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ling"):
        save(engine_after(tmp_path, PROMPT, cache_dir_size="1KB"))
    assert "none is saved" in caplog.text
    assert not files(tmp_path)


def test_a_page_whose_prefix_was_evicted_is_not_saved(tmp_path):
    e = engine_after(tmp_path, PROMPT)
    first = e.pool.index[0, "", tuple(STEM[:PAGE])][0]
    e.pool.cached.move_to_end(first, last=False)
    while e.pool.free_pages:
        e.pool.free_pages.pop()
    e.pool._fresh()
    save(e)
    assert not files(tmp_path)


def test_nothing_is_written_twice(tmp_path):
    e = engine_after(tmp_path, PROMPT)
    save(e)
    times = [f.stat().st_mtime_ns for f in files(tmp_path)]
    assert list(e.store.save()) == []
    reader = engine(tmp_path)
    run(reader, PROMPT)
    assert list(reader.store.save()) == []  # what was read is known to be there
    assert len(files(tmp_path)) == len(times)
    files(tmp_path)[0].unlink()
    assert len(list(e.store.save(again=True))) == 3
    assert len(files(tmp_path)) == 3


def test_an_idle_engine_saves_and_a_busy_one_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("ling.infer.driver.SAVE_AFTER_S", 0.01)
    e = engine(tmp_path)
    done, saved = threading.Event(), threading.Event()
    save_all = e.store.save

    def save(**options):
        yield from save_all(**options)
        saved.set()

    e.store.save = save
    driver = Driver(e)
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    driver.submit(PROMPT, params, lambda updates: updates[-1].event.finish_reason and done.set())
    assert done.wait(30)
    assert saved.wait(30)
    assert len(files(tmp_path)) == 3
    files(tmp_path)[0].unlink()
    driver.save_pages()
    assert len(files(tmp_path)) == 3


def test_pages_are_saved_without_a_thread_too(tmp_path):
    driver = Driver(engine_after(tmp_path, PROMPT))
    driver.save_pages()
    assert len(files(tmp_path)) == 3


def swap_contents(path):
    """As whole pages of other tokens."""
    others = [p for p in files(path.parents[1]) if p != path and p.is_file()]
    path.write_bytes(others[0].read_bytes())


def change_model(path):
    whole = bytearray(path.read_bytes())
    whole[8:28] = bytes(20)
    path.write_bytes(whole)


def change_last_byte(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def replace(path, make):
    path.rename(path.parents[1] / f"{path.name}.moved")
    make(path)


DAMAGES = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: os.truncate(p, p.stat().st_size - 1),
    "longer": lambda p: os.truncate(p, p.stat().st_size + 1),
    "changed": change_last_byte,
    "of other tokens": swap_contents,
    "of another model": change_model,
    "fifo": lambda p: replace(p, os.mkfifo),
    "folder": lambda p: replace(p, Path.mkdir),
    "link": lambda p: replace(p, lambda q: q.symlink_to(q.parents[1] / f"{q.name}.moved")),
    "link to nothing": lambda p: replace(p, lambda q: q.symlink_to("nothing")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_rebuilt_at_once(tmp_path, caplog, damage):
    save(engine_after(tmp_path, PROMPT, [9, *PROMPT]))
    for path in files(tmp_path):
        DAMAGES[damage](path)
    with caplog.at_level(logging.WARNING, "ling"):
        e = engine_after(tmp_path, PROMPT, [9, *PROMPT])
        save(e)
    assert ["computed again" in m for m in caplog.messages] == [True]
    assert [cached(tmp_path, p) for p in (PROMPT, [9, *PROMPT])] == [3 * PAGE] * 2
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("at", range(3))
def test_one_damaged_page_costs_the_pages_behind_it_once(tmp_path, monkeypatch, at):
    e = save(engine_after(tmp_path, PROMPT))
    path = e.store.files._path(list(e.store._chain(PROMPT, ""))[at][1])
    change_last_byte(path)
    e = engine(tmp_path)
    write, written = e.store.files.write, []
    monkeypatch.setattr(
        e.store.files,
        "write",
        lambda key, name, *rest: (written.append(name), write(key, name, *rest))[1],
    )
    assert run(e, PROMPT)[0].num_cached_tokens == at * PAGE
    save(e)
    assert cached(tmp_path) == 3 * PAGE
    assert [e.store.files._path(name) for name in written] == [path]  # what is sound stays


def test_a_folder_of_somebody_in_place_of_a_page_stays_and_stops_no_other_page(tmp_path, caplog):
    e = save(engine_after(tmp_path, PROMPT))
    path = e.store.files._path(list(e.store._chain(PROMPT, ""))[1][1])
    path.unlink()
    path.mkdir()
    (path / "notes").write_text("mine")
    e = engine_after(tmp_path, PROMPT, [9, *PROMPT])
    save(e)
    assert (path / "notes").read_text() == "mine"
    assert "a folder in place of a KV page" in caplog.text
    assert [cached(tmp_path, p) for p in (PROMPT, [9, *PROMPT])] == [PAGE, 3 * PAGE]


def test_a_model_of_no_checkpoint_has_nothing_to_be_told_by(tmp_path):
    with pytest.raises(UsageError, match="opened from a checkpoint"):
        engine(tmp_path, weights_id="")


def test_a_folder_that_cannot_be_used_stops_nobody(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "ling"):
        e = engine(tmp_path / "file")
    assert e.store is None
    assert caplog.messages == [f"{tmp_path / 'file'}: KV pages are not kept: is not a folder"]
    assert run(e, PROMPT)[0].output == run(engine(None), PROMPT)[0].output
