from __future__ import annotations

import torch

from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig
from ling.model.ling import Ling
from ling.presets import preset
from ling.train.adapt import trained_table
from ling.train.lora import table
from ling.train.lora.rule import add_adapters


def network(**changes):
    with torch.device("meta"):
        return Ling(preset("ling-tiny").replace(**changes))


def test_full_fine_tuning_counts_all_that_learns():
    ling = network()
    ling.model.layers[1].mlp.gate.requires_grad_(False)
    found = table.rows(ling)
    assert sum(row.numbers for row in found.values()) == sum(p.numel() for p in ling.parameters())
    router = found["router"]
    assert (router.trained_matrices, router.matrices) == (1, 2)
    assert router.trained_numbers == 8 * 64
    assert found["experts"].matrices == 2 * 3 * 8
    assert found["mtp"].trained_numbers == found["mtp"].numbers > 0


def test_adapters_are_counted_by_kind_with_their_rank():
    ling = network()
    size = sum(p.numel() for p in ling.parameters())
    add_adapters(ling, LoRAConfig(targets=["attention", "experts"], rank=4, expert_rank=2))
    found = table.rows(ling)
    assert found["attention"].trained_matrices == 6
    assert found["attention"].ranks == {4}
    assert found["experts"].trained_matrices == 2 * 3 * 8
    assert found["experts"].trained_numbers == 2 * 8 * 3 * 2 * (64 + 32)
    trained = sum(row.trained_numbers for row in found.values())
    assert trained == sum(p.numel() for p in ling.parameters() if p.requires_grad)
    assert sum(row.numbers for row in found.values()) == size + trained
    assert {kind for kind, row in found.items() if not row.trained_numbers} == {
        "embedding",
        "dense",
        "shared",
        "router",
        "norms",
        "mtp",
        "head",
    }


def test_the_table_says_what_is_frozen():
    ling = network()
    add_adapters(ling, LoRAConfig(targets=["experts"], expert_rank=2))
    text = {line.split()[0]: line.split() for line in table.lines(ling)}
    assert text["router"][1:] == ["0", "2", "-", "0", "1,024", "frozen"]
    assert text["experts"][1:5] == ["48", "48", "2", "9,216"]
    assert text["all"][1:4] == [
        "48",
        str(sum(int(row[2]) for row in list(text.values())[1:-1])),
        "2",
    ]
    assert list(text) == [
        "trained",
        "embedding",
        "attention",
        "dense",
        "shared",
        "experts",
        "router",
        "norms",
        "mtp",
        "head",
        "all",
    ]


def test_a_share_is_of_the_kind():
    ling = network()
    assert table.lines(ling)[1].split()[-1] == "100.00%"


def test_what_a_recipe_trains_is_told_without_weights():
    full, lora = (
        {
            line.split()[0]: line.split()[1:]
            for line in trained_table(
                SFTConfig(model="x", method=method, data=ChatDataConfig(files=["x"])),
                preset("ling-tiny"),
            )
        }
        for method in ("full", "lora")
    )
    assert full["router"][-1] == lora["router"][-1] == "frozen"
    assert full["head"][-1] == "100.00%"
    assert lora["head"][-1] == "frozen"
    assert lora["experts"][:3] == ["48", "48", "4"]
