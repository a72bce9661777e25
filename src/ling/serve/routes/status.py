"""What the server is and how it does: health, version and its model."""

from __future__ import annotations

from importlib import metadata

from fastapi import APIRouter

from ..admission import check_model
from ..schema.text import Model, ModelList
from ..service import Service


def add_status(router: APIRouter, service: Service) -> None:
    """`/health`, `/version`, `/v1/models` and `/v1/models/{name}`."""

    @router.get("/health")
    async def health() -> dict[str, str]:
        """200 while the model can answer, 503 while it loads, drains or when it has died."""
        service.require()
        return {"status": "ok"}

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The package's version."""
        return {"version": package_version()}

    @router.get("/v1/models")
    async def models() -> ModelList:
        """The model of this server, and its adapters."""
        return ModelList(data=[_model(service, n) for n in (service.name, *service.adapters)])

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Model:
        """The model, or an adapter, by its name."""
        check_model(service, name)
        return _model(service, name)


def package_version() -> str:
    """The release of this package that is installed."""
    try:
        return metadata.version("ling")
    except metadata.PackageNotFoundError:  # run from a source folder
        return "unknown"


def _model(service: Service, name: str) -> Model:
    llm, folder = service.require(), service.adapters.get(name)
    return Model(
        id=name,
        created=service.created,
        max_model_len=llm.max_model_len,
        root=folder or name,
        parent=None if folder is None else service.name,
    )
