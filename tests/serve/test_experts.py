"""`/v1/experts`: the rows that a stream of experts has."""

from __future__ import annotations

from ling.presets import preset


def test_a_model_with_experts_says_which_layers_have_them(client, llm):
    llm.config = preset("ling-mini-2.0")
    assert client.get("/v1/experts").json() == {
        "layers": list(range(1, 20)),
        "num_experts": 256,
        "num_experts_per_tok": 8,
    }


def test_a_dense_model_has_none(client):
    assert client.get("/v1/experts").json() == {
        "layers": [],
        "num_experts": 0,
        "num_experts_per_tok": 0,
    }
