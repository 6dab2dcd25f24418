"""The OpenAPI document: everything that is served, and nothing else."""

import json

import attrs
from starlette.routing import Route

from moorage.supervisor.http.application import application
from moorage.supervisor.http.openapi import document
from moorage.supervisor.http.rest_api import BASE, ROUTES
from tests.fakes_http import serving


async def test_the_document_describes_every_route_and_no_other():
    async with serving() as server:
        described = {
            (path, method.upper())
            for path, methods in document()["paths"].items()
            for method in methods
        }
        served = {
            (route.path, method)
            for route in application(server.core, server.operations, server.admin_sessions).routes
            if isinstance(route, Route)
            for method in route.methods - {"HEAD"}
        }
        # The dashboard's parts are no interface.
        assert described == {
            (path, method)
            for path, method in served
            if path != "/" and not path.startswith("/dashboard/")
        }
        assert (await server.get("/openapi.json")).json() == json.loads(json.dumps(document()))


def test_every_reference_in_the_document_leads_somewhere():
    text = json.dumps(document())
    schemas = document()["components"]["schemas"]
    references = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    for row in ROUTES:
        for kind in (row.command.request, row.command.answer):
            names = {field.name for field in attrs.fields(kind)}
            assert set(schemas[kind.__name__].get("properties", {})) == names
    operation = document()["paths"][f"{BASE}/connections/{{connection_id}}"]["get"]
    assert [(p["name"], p["in"]) for p in operation["parameters"]] == [("connection_id", "path")]
    operations = [row for path in document()["paths"].values() for row in path.values()]
    ids = [row["operationId"] for row in operations if "operationId" in row]
    assert len(ids) == len(set(ids)) == len(ROUTES) + 1
