"""Reply types whose optional fields are left out, not null, where there is nothing to tell."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_serializer

IfGiven = object()
"""Marks a field, in `Annotated`, that is left out where it is None."""


class Sparse(BaseModel):
    """A reply with such fields."""

    @model_serializer(mode="wrap")  # a type of what it returns would be the published schema
    def _given(self, handler: Any):
        fields = handler(self)
        for name, field in type(self).model_fields.items():
            if IfGiven in field.metadata and fields.get(name) is None:
                fields.pop(name, None)
        return fields
