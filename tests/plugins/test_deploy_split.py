"""Sizes of the released shapes on GPUs that there are."""

from __future__ import annotations

import pytest

from ling.errors import UsageError
from ling.model.size import stored_bytes
from ling.plugins.deploy_split import (
    GPUS,
    MIN_KV_TOKENS,
    Split,
    choose_split,
    find_gpu,
    problem,
    room,
)
from ling.presets import preset

MINI, FLASH, LARGE = (preset(name) for name in ("ling-mini-2.0", "ling-flash-2.0", "ling-1t"))


@pytest.mark.parametrize(
    ("cfg", "is_fp8", "gpus", "gpu", "copies", "expected"),
    [
        (MINI, False, 1, "h100-80g", False, Split(1, 1)),
        (MINI, True, 1, "l40s-48g", False, Split(1, 1)),
        (MINI, False, 8, "h100-80g", False, Split(1, 8, True)),
        (MINI, False, 8, "h100-80g", True, Split(1, 8)),
        (MINI, False, 4, "l4-24g", False, Split(1, 4, True)),
        (FLASH, False, 8, "h100-80g", False, Split(1, 8, True)),
        (FLASH, True, 4, "h100-80g", True, Split(1, 4, True)),
        (LARGE, True, 8, "b200-180g", False, Split(2, 4, True)),
        (preset("dense-8b"), False, 4, "h100-80g", False, Split(1, 4)),
        (preset("dense-8b"), False, 2, "l4-24g", True, Split(2, 1)),
    ],
)
def test_the_least_tensor_parallelism_that_fits(cfg, is_fp8, gpus, gpu, copies, expected):
    split = choose_split(cfg, is_fp8, gpus, gpu, copies_experts=copies)
    assert split == expected
    assert split.num_gpus == gpus
    assert problem(cfg, is_fp8, split) is None
    assert room(cfg, is_fp8, split, GPUS[gpu].memory).kv_tokens >= MIN_KV_TOKENS


@pytest.mark.parametrize(
    ("cfg", "is_fp8", "gpus", "gpu", "message"),
    [
        (FLASH, False, 2, "h100-80g", "in fp8 they do"),
        (FLASH, False, 1, "h100-80g", "205.8 GB of weights do not fit on 1"),
        (LARGE, True, 8, "h100-80g", "take more or larger GPUs"),
        (MINI, False, 9, "h100-80g", "`--gpus` is 9, expected 1 to 8"),
        (MINI, False, 0, "h100-80g", "`--gpus` is 0"),
        (MINI, False, 3, "h100-80g", "3 GPUs do not divide the 256 experts"),
        (MINI, False, 1, "h100-90g", "did you mean `h100-80g`"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_size(cfg, is_fp8, gpus, gpu, message):
    with pytest.raises(UsageError, match=message):
        choose_split(cfg, is_fp8, gpus, gpu, copies_experts=False)


def test_a_tensor_parallel_size_can_be_asked_for():
    split = choose_split(MINI, False, 8, "h100-80g", copies_experts=False, tensor=4)
    assert split == Split(4, 2, True)
    with pytest.raises(UsageError, match="`--tensor-parallel` 3 does not divide `--gpus` 8"):
        choose_split(MINI, False, 8, "h100-80g", copies_experts=False, tensor=3)


def test_the_longest_request_has_room():
    """An engine refuses to start where it has none."""
    assert choose_split(FLASH, True, 8, "l4-24g", copies_experts=False) == Split(4, 2, True)
    longer = choose_split(FLASH, True, 8, "l4-24g", copies_experts=False, context=131_072)
    assert longer == Split(8, 1)
    with pytest.raises(UsageError, match="room for 1,000,000 tokens of KV cache; take more"):
        choose_split(FLASH, True, 8, "l4-24g", copies_experts=False, context=1_000_000)


def test_fp8_blocks_are_not_cut():
    assert "cuts experts of width 512 inside an fp8 block" in problem(MINI, True, Split(8))
    assert problem(MINI, True, Split(4)) is None
    assert "the shared expert" in problem(MINI, True, Split(8, 1, True))
    assert problem(MINI, False, Split(8)) is None


def test_bytes_are_those_of_the_whole_model_once_on_all_gpus():
    """Without copies the GPUs have together what is stored; with them, what is not an expert is
    there as often as there are groups."""
    whole = stored_bytes(MINI, "bf16")
    memory = find_gpu("h100-80g").memory
    assert room(MINI, False, Split(4), memory).weight_bytes == whole // 4
    parallel = room(MINI, False, Split(1, 4, True), memory).weight_bytes
    experts = 3 * 2048 * 512 * 256 * 20 * 2  # 19 layers and the MTP layer, in bf16
    assert parallel == pytest.approx(whole - experts + experts / 4, rel=1e-6)


def test_key_value_heads_are_copied_where_there_are_fewer_than_parts():
    memory = find_gpu("h100-80g").memory
    four = room(MINI, False, Split(4), memory).kv_tokens
    eight = room(MINI, False, Split(8), memory).kv_tokens
    assert eight < four * 1.2  # more free bytes, and no smaller share of the heads
