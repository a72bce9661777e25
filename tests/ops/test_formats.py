"""The table of number formats: what a row says of its size, and how the table is listed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ling.ops.formats import (
    BF16,
    EMBEDDING_INT8,
    FORMATS,
    INT3_LEVELS,
    INT4_LEVELS,
    INT8,
    TILE,
    by_size,
    format_names,
    integer_formats,
)


@pytest.mark.parametrize(
    ("name", "bits", "stored_bytes"),
    [  # a bfloat16 scale for each group; FP8: a float32 scale for each tile, or each block
        ("int3", 3 + 16 / 128, 3 / 8 + 2 / 128),
        ("int4", 4 + 16 / 64, 0.5 + 2 / 64),
        ("int4_g32", 4 + 16 / 32, 0.5 + 2 / 32),
        ("int8", 8 + 16 / 64, 1 + 2 / 64),
        ("bf16", 16, 2),
        ("fp8", 8 + 32 / (128 * 16), 1 + 4 / (128 * 128)),
    ],
)
def test_bits_in_memory_and_bytes_in_a_file(name, bits, stored_bytes):
    assert FORMATS[name].bits == bits
    assert FORMATS[name].stored_bytes == stored_bytes


# Of formats that somebody adds, the tests below hold too.
OURS = ("int3", "int4", "int4_g32", "int8", "fp8", "bf16")


def test_every_row_of_the_table_is_under_its_name():
    assert all(fmt.name == name for name, fmt in FORMATS.items())
    assert integer_formats() == [f for f in FORMATS.values() if f.encoding in ("levels", "int8")]
    assert [f.name for f in integer_formats() if f.name in OURS] == list(OURS[:4])


def test_help_lists_integers_first_and_each_kind_by_size():
    names = format_names().split(", ")
    assert [f.name for f in by_size()] == names
    assert set(names) == set(FORMATS)
    assert [n for n in names if n in OURS] == list(OURS)
    for integer in (True, False):
        bits = [FORMATS[n].bits for n in names if FORMATS[n].integer == integer]
        assert bits == sorted(bits)
    assert sorted(names, key=lambda n: not FORMATS[n].integer) == names


def test_matrices_whose_errors_cost_most_have_a_wider_format():
    up = "model.layers.1.mlp.experts.gate_up_proj"
    for name, head, projection in (
        ("int4", FORMATS["int4"], FORMATS["int4"]),
        ("int4_g32", INT8, FORMATS["int4_g32"]),
        ("fp8", BF16, BF16),
    ):
        fmt = FORMATS[name]
        assert fmt.of_matrix("lm_head") == head
        assert fmt.of_matrix("model.layers.3.eh_proj") == projection
        assert fmt.of_matrix(up) == fmt
    int3, int4 = FORMATS["int3"], FORMATS["int4"]
    for name in ("lm_head", "model.layers.0.mlp.down_proj", "model.layers.3.attention.dense"):
        assert int3.of_matrix(name) == int4
    shared = int3.of_matrix("model.layers.1.mlp.shared_experts.gate_up_proj")
    assert (shared.value_bits, shared.group) == (4, int3.group)
    assert int3.of_matrix(up) is int3
    assert FORMATS["int4"].embedding is EMBEDDING_INT8
    assert FORMATS["bf16"].embedding is None


def test_groups_are_whole_tiles_of_the_layout():
    for fmt in FORMATS.values():
        assert TILE * fmt.group * fmt.value_bits % 8 == 0
        assert fmt.integer == (fmt.encoding in ("levels", "int8"))
        assert bool(fmt.levels) == bool(fmt.clips) == (fmt.encoding == "levels")
        assert len(fmt.levels) in (0, 2**fmt.value_bits)


def test_tiles_are_sixteen_rows():
    assert TILE == 16
    for levels, count in ((INT3_LEVELS, 8), (INT4_LEVELS, 16)):
        assert len(levels) == count
        assert list(levels) == sorted(levels)


def test_the_table_is_read_without_torch():
    code = "import sys, ling.ops.formats; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
