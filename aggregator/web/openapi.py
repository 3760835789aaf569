"""The OpenAPI 3.1 document of the interface, made of the same table as its routes, so that the two cannot differ."""

from __future__ import annotations

import dataclasses
import typing
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

from aggregator.web.json_schema import schema_of
from aggregator.web.operations import OPERATIONS
from aggregator.web.problems import MEDIA_TYPE
from aggregator.web.schemas import PROBLEM

if TYPE_CHECKING:
    from aggregator.web.operations import Operation

__all__ = ["API", "openapi_document"]

API = "/api/v1"
_REFUSALS = {
    "401": "no good token",
    "403": "the token's role is not enough",
    "429": "too many wrong tokens",
    "503": "the database or the disk does not answer",
}


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(API + one.route, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgefold aggregator", "version": installed_version("edgefold")},
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(one: Operation) -> dict[str, Any]:
    refusals = dict(_REFUSALS)
    if dataclasses.fields(one.path):
        refusals["404"] = "there is no such thing"
    if dataclasses.fields(one.path) or dataclasses.fields(one.query) or one.body is not None:
        refusals["422"] = "a value is not what it must be; the detail names it"
    described: dict[str, Any] = {
        "operationId": one.id,
        "summary": one.summary,
        "description": f"Needs the role {one.role}.",
        "parameters": [*_parameters(one.path, "path"), *_parameters(one.query, "query")],
    }
    if one.method == "POST":
        refusals["409"] = "the state of things does not allow it; the detail says why"
    if one.body is not None:
        refusals |= {"400": "no JSON", "413": "too long", "415": "no application/json"}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of(one.body)}},
        }
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers: dict[str, Any] = {
        str(one.status): {"description": "done", "content": {"application/json": {"schema": one.answer}}}
    }
    for status in sorted(refusals):
        answers[status] = {"description": refusals[status], "content": problem}
    return {**described, "responses": answers}


def _parameters(cls: type, place: str) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = []
    for field in dataclasses.fields(cls):
        schema = schema_of(hints[field.name])
        schema = schema["anyOf"][0] if "anyOf" in schema else schema  # a parameter is there or not, never null
        is_required = place == "path"
        parameters.append({"name": field.name, "in": place, "required": is_required, "schema": schema})
    return parameters
