from __future__ import annotations

import pytest

from ling.checkpoint.hf.save import save_model
from ling.cli.main import main
from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.convert.synth import synth
from ling.errors import UsageError
from ling.infer import memory
from ling.infer.engine import Engine
from ling.infer.open import open_runner
from ling.infer.pages import PAGE
from ling.model.ling import from_config
from ling.ops import limits, native
from ling.presets import preset

GB = 10**9
needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.fixture
def free(monkeypatch):
    def room(nbytes):
        monkeypatch.setattr(limits, "memory_available", lambda: nbytes)

    return room


@pytest.fixture
def folder(tmp_path):
    cfg = preset("ling-tiny")
    (tmp_path / "m").mkdir()
    save_model(from_config(cfg, seed=0), cfg, tmp_path / "m")
    return tmp_path / "m"


def test_weights_that_do_not_fit_are_refused_with_a_format_that_does(free):
    cfg = preset("ling-mini-2.0")
    free(20 * GB)
    with pytest.raises(UsageError, match=r'34\.\d GB in bf16, and 20\.0 GB .* `format="int8"`'):
        memory.check_packing("m", cfg, "bf16")
    memory.check_packing("m", cfg, "int8")
    free(3 * GB)
    with pytest.raises(UsageError, match="ling convert --to int4"):
        memory.check_packing("m", cfg, "int4")


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {}])
def test_nothing_is_read_when_memory_lacks(options, folder, free):
    free(1000)
    with pytest.raises(UsageError, match="GB of memory are free"):
        open_runner(folder, EngineConfig(**options))


@needs_library
def test_a_packed_folder_that_does_not_fit_names_max_memory(tmp_path, free):
    synth(preset("ling-tiny"), tmp_path / "p", to="int4", log=str)
    free(1000)
    with pytest.raises(UsageError, match="max_memory="):
        open_runner(tmp_path / "p")


def test_a_context_that_does_not_fit_says_which_does(folder, free, capsys):
    runner = open_runner(folder)
    free(5 * runner.page_bytes())
    with pytest.raises(UsageError, match=f"max_model_len={4 * PAGE}` fits"):
        runner.allocate(6)
    runner.allocate(5)
    assert main(["generate", str(folder), "-p", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@needs_library
@pytest.mark.parametrize("options", [{"dtype": "float32"}, {}])
def test_a_cache_that_would_fit_in_fewer_bits_says_so(options, folder, free):
    runner = open_runner(folder, EngineConfig(**options))
    small = open_runner(folder, EngineConfig(**options, kv_cache_dtype="int8"))
    tiny = open_runner(folder, EngineConfig(**options, kv_cache_dtype="int4"))
    free(6 * small.page_bytes())
    assert 6 * small.page_bytes() < 6 * runner.page_bytes()
    with pytest.raises(UsageError, match=r'`kv_cache_dtype="int8"` takes .* or `max_model_len='):
        runner.allocate(6)
    small.allocate(6)
    for r in (runner, small):
        with pytest.raises(
            UsageError, match=r'`kv_cache_dtype="int4"` takes .* or `max_model_len='
        ):
            r.allocate(6 * small.page_bytes() // tiny.page_bytes())
    tiny.allocate(6)
    for r in (runner, small, tiny):
        with pytest.raises(UsageError, match=r"weights: `max_model_len="):
            r.allocate(100)


@needs_library
def test_pages_take_the_bytes_that_are_announced(folder):
    for options in ({"dtype": "float32"}, {}):
        for kv in KV_CACHE_DTYPES:
            runner = open_runner(folder, EngineConfig(**options, kv_cache_dtype=kv))
            runner.allocate(3)
            if options:
                held = [x for t in runner.cache for x in (t.values, t.scales) if x is not None]
            else:
                held = [runner.kv]
            assert sum(x.nbytes for x in held) == 3 * runner.page_bytes()


@pytest.mark.parametrize("command", ["generate", "chat", "bench"])
def test_an_unknown_type_of_cache_names_those_there_are(command, folder, capsys):
    words = {"generate": ["-p", "x"], "chat": [], "bench": []}[command]
    model = ["decode", str(folder)] if command == "bench" else [str(folder)]
    assert main([command, *model, *words, "--kv-cache-dtype", "fp8"]) == 2
    error = capsys.readouterr().err
    assert "`kv_cache_dtype` is `fp8`, expected bf16, int8 or int4" in error
    assert error.count("\n") == 1


def test_the_context_that_is_named_does_fit(folder, free):
    runner = open_runner(folder)
    free(5 * runner.page_bytes())
    engine = Engine(runner, EngineConfig(max_model_len=4 * PAGE))
    assert (engine.max_model_len, engine.pool.num_pages) == (4 * PAGE, 5)
