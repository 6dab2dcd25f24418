"""The OpenAPI document of the HTTP interface, made of the rows and classes that serve it."""

from __future__ import annotations

from typing import Any, Final, cast

import attrs
import msgspec

from ...protocol.version import VERSION
from .publishing import PublishBatch, Published, PublishRequest
from .rest_api import ROUTES, RestRoute

_REFERENCE: Final = "#/components/schemas/{name}"

_PROBES: Final = {
    "/healthz": "Whether the process is alive.",
    "/readyz": "Whether new clients should be sent here; 503 says why not.",
    "/metrics": "Metrics for Prometheus.",
    "/openapi.json": "This document.",
    "/dashboard": "A page for operators.",
}
"""The paths that are open to everyone; each answers to GET, without parameters."""


@attrs.frozen
class Error:
    """The body of every response other than success."""

    error: str  # a sentence for people
    code: str  # a word for machines


def document() -> dict[str, Any]:
    """Return the OpenAPI document, ready for JSON."""
    kinds = [
        *(kind for row in ROUTES for kind in (row.command.request, row.command.answer)),
        *(PublishRequest, PublishBatch, Published, Error),
    ]
    # As the keys of a dict: several rows may have the same class.
    schemas, components = msgspec.json.schema_components(
        list(dict.fromkeys(kinds)), ref_template=_REFERENCE
    )
    del schemas
    paths: dict[str, Any] = {path: {"get": _probe(text)} for path, text in _PROBES.items()}
    paths["/readyz"]["get"]["responses"]["503"] = {"description": "Not ready, and why."}
    for row in ROUTES:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, components)
    paths["/api/publish"] = {"post": _publish()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Moorage",
            "summary": "Requests of operators and back ends to a running server.",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _probe(text: str) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": text}}}


def _operation(row: RestRoute, components: dict[str, Any]) -> dict[str, Any]:
    """Describe one of the admin commands."""
    command = row.command
    operation: dict[str, Any] = {
        "operationId": row.path.rsplit("/", 1)[-1].strip("{}") + f"_{row.method.lower()}",
        "summary": command.summary,
        "security": [{"token": ["admin"]}],
        "responses": _responses(command.answer, "the token's `role` is not admin"),
    }
    properties = cast("dict[str, Any]", components[command.request.__name__].get("properties", {}))
    in_path = [name for name in properties if f"{{{name}}}" in row.path]
    if in_path:
        operation["responses"]["404"] = _error("there is none")
    if row.method == "GET":
        operation["parameters"] = [
            {
                "name": name,
                "in": "path" if name in in_path else "query",
                "required": name in in_path,
                "schema": schema,
            }
            for name, schema in properties.items()
        ]
    else:
        operation["requestBody"] = {"content": _json(_reference(command.request))}
    return operation


def _publish() -> dict[str, Any]:
    responses = _responses(Published, "the token does not allow the topic")
    responses["413"] = _error("a message, or the body, is too large")
    responses["422"] = _error("the Idempotency-Key was used with another body")
    return {
        "operationId": "publish",
        "summary": "Publish one message, or many: all of them or none.",
        "security": [{"token": []}],
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key with the same body is answered as before, and "
                "nothing is published again.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        ],
        "requestBody": {
            "required": True,
            "content": _json({"oneOf": [_reference(PublishRequest), _reference(PublishBatch)]}),
        },
        "responses": responses,
    }


def _responses(answers: type[Any], forbidden: str) -> dict[str, Any]:
    return {
        "200": {"description": "Done.", "content": _json(_reference(answers))},
        "400": _error("something asked for cannot be; it is named"),
        "401": _error("the token is missing, expired or not good"),
        "403": _error(forbidden),
    }


def _error(text: str) -> dict[str, Any]:
    return {"description": f"Not done: {text}.", "content": _json(_reference(Error))}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(kind: type[Any]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
