"""`/v1/experts`: which layers have experts and how many, so that a client can draw them before a
stream with `return_routed_experts` says which of them its tokens take."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from .service import Service


class Experts(BaseModel):
    """The rows of `routed_experts`: a layer each, in this order."""

    layers: list[int]
    """Numbers of the layers that have experts; none in a dense model."""
    num_experts: int
    num_experts_per_tok: int


def add_experts(router: APIRouter, service: Service) -> None:
    """`/v1/experts`."""

    @router.get("/v1/experts")
    async def experts() -> Experts:
        """Layers and experts of the model."""
        from ..infer.routed import layers_with_experts

        cfg = service.require().config
        return Experts(
            layers=layers_with_experts(cfg) if cfg.num_experts else [],
            num_experts=cfg.num_experts,
            num_experts_per_tok=cfg.num_experts_per_tok if cfg.num_experts else 0,
        )
