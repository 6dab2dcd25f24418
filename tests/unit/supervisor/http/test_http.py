"""The HTTP listener: probes, who may ask, the REST face, publishing; and that it harms nobody."""

import json
import socket
import ssl
import time
from contextlib import asynccontextmanager

import attrs
import httpx
import jwt
import pytest
import trio
import trustme
from starlette.routing import Route

from moorage.protocol.admin import answers
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.http import service
from moorage.supervisor.http.application import application
from moorage.supervisor.http.idempotency import KEPT_FOR, MAX_BYTES, MAX_ENTRIES, IdempotencyMemory
from moorage.supervisor.http.inputs import MAX_BODY
from moorage.supervisor.http.openapi import document
from moorage.supervisor.http.refusals import Refused
from moorage.supervisor.http.rest import BASE, ENDPOINTS
from moorage.supervisor.supervisor import open_supervisor
from tests.fakes import RecordingLogger, Server
from tests.fakes_server import KEY, token


@attrs.define
class HttpServer(Server):
    """A server under test, and an HTTP client of it that shows an administrator's token."""

    http: httpx.AsyncClient
    url: str

    async def get(self, path, **options):
        return await self.http.get(path, **options)

    async def post(self, path, body=None, **options):
        return await self.http.post(path, json=body, **options)


@asynccontextmanager
async def serving(app=None, **settings):
    log = RecordingLogger()
    options = {"port": 0, "http_port": 0, "jwt_key": KEY, "close_timeout": 0.5, **settings}
    async with open_supervisor(Settings(**options), app, logger=log) as supervisor:
        (url,) = supervisor.http_addresses
        headers = {"Authorization": f"Bearer {token('root', role='admin')}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            yield HttpServer(supervisor, log, http, url)


def bearer(user, **claims):
    return {"Authorization": f"Bearer {token(user, **claims)}"}


async def client(server, user="alice", *topics):
    peer = await server.connect(token=token(user))
    if topics:
        await peer.send({"type": "subscribe", "data": {"topics": list(topics)}})
        for _ in topics:
            await peer.receive_type("subscribed")
    return peer


# --- The listener


async def test_it_is_off_unless_configured():
    async with open_supervisor(Settings(port=0), logger=RecordingLogger()) as supervisor:
        assert supervisor.http is None
        assert supervisor.http_addresses == []


async def test_a_taken_port_is_an_error_that_names_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=0, http_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="http_port: cannot listen"):
            async with open_supervisor(settings, logger=RecordingLogger()):
                pass


def test_without_a_key_it_serves_this_machine_only():
    with pytest.raises(ConfigurationError, match="http_host"):
        Settings(http_port=1, http_host="0.0.0.0")
    assert Settings(http_port=1, http_host="0.0.0.0", jwt_key=KEY).http_host == "0.0.0.0"


async def test_it_serves_https_with_the_servers_certificate(tmp_path):
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "server.pem"
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(tls_certificate=tmp_path / "server.pem", http_tls=True) as server:
        assert server.url.startswith("https://")
        async with httpx.AsyncClient(base_url=server.url, verify=context) as http:
            assert (await http.get("/healthz")).status_code == 200


def test_https_needs_a_certificate():
    with pytest.raises(ConfigurationError, match="http_tls: there is no certificate"):
        Settings(http_tls=True)


async def test_a_failure_of_the_listener_is_logged_and_mended_and_leaves_connections_alone(
    monkeypatch,
):
    real, fail = service.serve, trio.Event()

    async def serve(app, config):
        if fail.is_set():
            await real(app, config)
        else:
            await fail.wait()
            raise RuntimeError("the ASGI server has a bug")

    monkeypatch.setattr(service, "serve", serve)
    async with serving() as server:
        peer = await client(server)
        fail.set()
        with trio.fail_after(5):
            response = await server.get("/healthz")  # waits in the backlog for the restart
        assert response.status_code == 200
        (line,) = server.log.of("http_failed")
        assert str(line["exc_info"]) == "the ASGI server has a bug"
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_a_failing_request_is_answered_and_logged_and_the_next_one_is_served(monkeypatch):
    async with serving() as server:

        def fail():
            raise RuntimeError("a bug in stats")

        monkeypatch.setattr(server.supervisor.operations, "stats", fail)
        response = await server.get(f"{BASE}/stats")
        assert response.status_code == 500
        assert response.json() == {
            "error": "the server failed; its log says how",
            "code": "internal",
        }
        assert (await server.get("/healthz")).status_code == 200
        (line,) = server.log.of("http_request_failed")
        assert "a bug in stats" in repr(line["exc_info"])


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end():
    # Hypercorn shields its writes; what ends this one is the kernel, after `write_timeout`.
    async with serving(write_timeout=1.0) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        greedy = socket.socket()
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect((host, int(port)))
        greedy.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with trio.move_on_after(1.0):
            while True:
                try:
                    greedy.send(request)
                except BlockingIOError:
                    await trio.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    greedy.close()


async def test_it_serves_while_draining_and_ends_with_the_server():
    async with serving(drain_timeout=0.2) as server:
        await server.supervisor.drain()
        assert (await server.get("/readyz")).status_code == 503
        port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


# --- Probes


async def test_the_probes_need_no_token():
    async with serving() as server, httpx.AsyncClient(base_url=server.url) as stranger:
        assert (await stranger.get("/healthz")).json() == {"status": "alive"}
        assert (await stranger.get("/readyz")).json() == {"status": "ready", "reasons": []}


async def test_readiness_goes_red_with_the_reason():
    async with serving(max_total_connections=1) as server:
        server.supervisor.suspend()
        response = await server.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"status": "not ready", "reasons": ["suspended"]}
        assert (await server.get("/healthz")).status_code == 200
        server.supervisor.resume()
        assert (await server.get("/readyz")).status_code == 200
        await client(server)
        assert (await server.get("/readyz")).json()["reasons"] == ["full"]


async def test_every_response_tells_browsers_to_be_careful():
    async with serving() as server:
        for path in ("/healthz", "/dashboard", "/nowhere", f"{BASE}/stats"):
            headers = (await server.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


# --- Who may ask

GUARDED = [(row.method, row.path.format(connection_id="x")) for row in ENDPOINTS]
PUBLISH = ("POST", "/api/publish")
EXPIRED = jwt.encode({"sub": "root", "role": "admin", "exp": 1_600_000_000}, KEY)


@pytest.mark.parametrize(("method", "path"), [*GUARDED, PUBLISH])
async def test_without_a_good_token_nothing_is_done(method, path):
    async with serving() as server:
        for headers, code, challenge in (
            ({"Authorization": ""}, "unauthorized", 'Bearer realm="moorage"'),
            ({"Authorization": "Basic eDp5"}, "unauthorized", 'Bearer realm="moorage"'),
            ({"Authorization": "Bearer x.y.z"}, "unauthorized", "invalid_token"),
            ({"Authorization": f"Bearer {EXPIRED}"}, "token_expired", "invalid_token"),
        ):
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 401
            assert set(response.json()) == {"error", "code"}
            assert response.json()["code"] == code
            assert challenge in response.headers["www-authenticate"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_user_is_no_administrator(method, path):
    async with serving() as server:
        for headers in (bearer("mallory"), bearer("mallory", role="user")):
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 403
            assert response.json()["code"] == "forbidden"
            assert "admin" in response.json()["error"]


@pytest.mark.parametrize(("method", "path"), [*GUARDED, PUBLISH])
async def test_pages_of_other_origins_are_refused_even_with_a_token(method, path):
    async with serving() as server:
        headers = {"Origin": "https://evil.example"}
        response = await server.http.request(method, path, headers=headers)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


async def test_its_own_pages_and_those_that_are_named_may_ask():
    async with serving(allowed_origins=("https://ops.example",)) as server:
        for origin in (server.url, "https://ops.example"):
            response = await server.get(f"{BASE}/stats", headers={"Origin": origin})
            assert response.status_code == 200
        for origin in ("null", "*", server.url + "0"):
            response = await server.get(f"{BASE}/stats", headers={"Origin": origin})
            assert response.status_code == 403


# --- What is wrong with a request


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "said"),
    [
        ("GET", "/nowhere", 404, "not_found", "/openapi.json"),
        ("POST", "/healthz", 405, "method_not_allowed", "POST"),
        ("GET", f"{BASE}/connections/none", 404, "not_found", "no connection"),
        ("GET", f"{BASE}/connections?user=1", 400, "bad_message", "'user'; known are: user_id"),
        ("GET", f"{BASE}/connections?limit=many", 400, "bad_message", "`limit`"),
        ("GET", f"{BASE}/connections?limit=0", 400, "bad_message", "from 1 to 1000"),
        ("GET", f"{BASE}/connections?state=odd", 400, "bad_message", "`state`"),
        ("GET", f"{BASE}/connections?cursor=odd", 400, "bad_message", "`cursor`"),
        ("GET", f"{BASE}/connections?topic=a&topic=b", 400, "bad_message", "once"),
        ("GET", f"{BASE}/stats?x=1", 400, "bad_message", "known are: none"),
        ("POST", f"{BASE}/disconnect?user_id=1", 400, "bad_message", "user_id"),
    ],
)
async def test_a_wrong_request_is_answered_with_what_is_wrong(method, path, status, code, said):
    async with serving() as server:
        response = await server.http.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"error", "code"}
        assert response.json()["code"] == code
        assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("disconnect", {}, "exactly one of"),
        ("disconnect", {"user": "x"}, "unknown fields: 'user'"),
        ("disconnect", {"connection_ids": "x"}, "`connection_ids`: "),
        ("disconnect", {"user_id": "x", "code": 99}, "`code`: 99 cannot be sent"),
        ("cleanup", {"quiet_for": -1}, "`quiet_for`"),
        ("broadcast", {"topic": "x"}, "`message_type`: is required"),
        ("broadcast", {"topic": "a b", "message_type": "x"}, "topic"),
        ("broadcast", {"topic": "a", "message_type": "not legal!"}, "type"),
        ("broadcast", [], "the body must be an object"),
    ],
)
async def test_a_wrong_body_is_answered_with_the_field_that_is_wrong(path, body, said):
    async with serving() as server:
        response = await server.post(f"{BASE}/{path}", body)
        assert response.status_code == 400
        assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b" " * (MAX_BODY + 1), "application/json", 413),
    ],
)
async def test_a_body_that_is_no_json_or_too_large_is_refused(content, kind, status):
    async with serving() as server:
        headers = {"Content-Type": kind}
        response = await server.http.post("/api/publish", content=content, headers=headers)
        assert response.status_code == status
        assert set(response.json()) == {"error", "code"}


# --- The REST face


async def test_connections_are_listed_filtered_paged_and_shown_whole():
    async with serving() as server:
        alice = await client(server, "alice", "news")
        await client(server, "bob", "news", "sport")
        everyone = (await server.get(f"{BASE}/connections")).json()
        assert [entry["user_id"] for entry in everyone["connections"]] == ["alice", "bob"]
        assert everyone["total"] == 2
        by_user = (await server.get(f"{BASE}/connections?user_id=alice&topic=news")).json()
        assert [entry["connection_id"] for entry in by_user["connections"]] == [alice.id]
        by_topic = (await server.get(f"{BASE}/connections?user_id=&topic=sport")).json()
        assert [entry["user_id"] for entry in by_topic["connections"]] == ["bob"]
        first = (await server.get(f"{BASE}/connections?limit=1")).json()
        following = {"cursor": first["cursor"], "limit": 1}
        second = (await server.get(f"{BASE}/connections", params=following)).json()
        assert [page["connections"][0]["user_id"] for page in (first, second)] == ["alice", "bob"]
        whole = (await server.get(f"{BASE}/connections/{alice.id}")).json()
        assert whole["topics"] == ["news"]
        assert set(whole) == {field.name for field in attrs.fields(answers.ConnectionDetail)}


async def test_stats_topics_and_health_say_what_the_operations_say():
    async with serving() as server:
        await client(server, "alice", "news")
        stats = (await server.get(f"{BASE}/stats")).json()
        assert (stats["active_connections"], stats["subscriptions"]) == (1, 1)
        topics = (await server.get(f"{BASE}/topics?prefix=ne")).json()
        assert topics["topics"] == [{"topic": "news", "subscribers": 1, "published": 0}]
        health = (await server.get(f"{BASE}/health")).json()
        assert health["ready"]
        assert health["connections"]["used"] == 1


async def test_disconnecting_a_user_closes_its_connections_with_the_reason():
    async with serving() as server:
        alice, bob = await client(server, "alice"), await client(server, "bob")
        body = {"user_id": "alice", "reason": "maintenance"}
        answer = (await server.post(f"{BASE}/disconnect", body)).json()
        assert answer == {"disconnected": 1, "connection_ids": [alice.id], "missing": []}
        with pytest.raises(EOFError) as closed:
            await alice.receive()
        assert closed.value.args == (4503, "maintenance")
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"
        (line,) = server.log.of("admin.disconnect")
        assert line["by"] == "root at 127.0.0.1"


async def test_cleanup_probes_and_reports():
    async with serving(pong_timeout=0.3) as server:
        await client(server)  # which does not answer
        answer = (await server.post(f"{BASE}/cleanup", {"quiet_for": 0})).json()
        assert (answer["probed"], answer["alive"], answer["closed"]) == (1, 0, 1)


async def test_cleanup_needs_no_body():
    async with serving(pong_timeout=0.1) as server:
        answer = (await server.http.post(f"{BASE}/cleanup")).json()
        assert answer == {"probed": 0, "alive": 0, "closed": 0, "closed_ids": []}


async def test_a_broadcast_reaches_the_topics_subscribers():
    async with serving() as server:
        alice = await client(server, "alice", "news")
        body = {"topic": "news", "message_type": "headline", "data": {"n": 1}}
        assert (await server.post(f"{BASE}/broadcast", body)).json() == {"recipients": 1}
        message = await alice.receive()
        assert (message["type"], message["topic"], message["data"]) == (
            "headline",
            "news",
            {"n": 1},
        )


# --- The OpenAPI document


async def test_the_document_describes_every_route_and_no_other():
    async with serving() as server:
        described = {
            (path, method.upper())
            for path, methods in document()["paths"].items()
            for method in methods
        }
        served = {
            (route.path, method)
            for route in application(server.supervisor).routes
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
    for row in ENDPOINTS:
        for kind in (row.asks, row.answers):
            names = {field.name for field in attrs.fields(kind)}
            assert set(schemas[kind.__name__].get("properties", {})) == names
    operation = document()["paths"][f"{BASE}/connections/{{connection_id}}"]["get"]
    assert [(p["name"], p["in"]) for p in operation["parameters"]] == [("connection_id", "path")]
    operations = [row for path in document()["paths"].values() for row in path.values()]
    ids = [row["operationId"] for row in operations if "operationId" in row]
    assert len(ids) == len(set(ids)) == len(ENDPOINTS) + 1


# --- Publishing


async def test_one_message_or_many_are_published_in_order():
    async with serving() as server:
        alice = await client(server, "alice", "news", "sport")
        answer = await server.post("/api/publish", {"topic": "news", "data": {"n": 1.0}})
        assert answer.json() == {"published": 1, "recipients": [1]}
        many = [{"topic": "sport", "data": 2}, {"topic": "nobody"}, {"topic": "sport"}]
        answer = await server.post("/api/publish", {"messages": many})
        assert answer.json() == {"published": 3, "recipients": [1, 0, 1]}
        got = [await alice.receive() for _ in range(3)]
        assert [(m["type"], m["topic"], m["data"]) for m in got] == [
            ("data", "news", {"n": 1.0}),
            ("data", "sport", 2),
            ("data", "sport", None),
        ]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"topic": "a b"}, 400, "the body: "),
        ({"data": 1}, 400, "`topic`: is required"),
        ({"topic": "x", "colour": 1}, 400, "'colour'"),
        ({"messages": []}, 400, "at least one"),
        ({"messages": {"topic": "x"}}, 400, "a list"),
        ({"messages": [{"topic": "x"}], "topic": "y"}, 400, "`topic`"),
        (
            {"messages": [{"topic": "x"}, {"topic": 5}]},
            400,
            "`messages[1].topic`: expected a string",
        ),
        ({"messages": [{"topic": "x"}, {"topic": "x", "data": "y" * 70_000}]}, 413, "messages[1]"),
        ({"messages": [{"topic": "x"}] * 1001}, 413, "1000 messages"),
        ([{"topic": "x"}], 400, "must be an object"),
    ],
)
async def test_of_a_wrong_request_nothing_is_published(body, status, said):
    async with serving() as server:
        response = await server.post("/api/publish", body)
        assert response.status_code == status
        assert said in response.json()["error"]
        assert server.supervisor.statistics.traffic.published == 0


async def test_a_token_publishes_what_its_permissions_allow():
    async with serving(publish_patterns=("orders.**", "chat.*")) as server:
        headers = bearer("shop", publish=["orders.*"])
        ok = await server.post("/api/publish", {"topic": "orders.new"}, headers=headers)
        assert ok.status_code == 200
        for topic in ("chat.lobby", "orders.eu.new", "$events", "user:alice"):
            response = await server.post("/api/publish", {"topic": topic}, headers=headers)
            assert response.status_code == 403, topic
            assert response.json()["code"] == "forbidden"
        other_type = {"topic": "orders.new", "message_type": "goodbye"}
        assert (await server.post("/api/publish", other_type, headers=headers)).status_code == 403
        # An administrator is bound by none of it.
        assert (await server.post("/api/publish", {"topic": "user:alice"})).status_code == 200


async def test_where_the_program_decides_about_publications_only_an_administrator_publishes():
    app = App()
    app.authorize_publish(lambda _connection, _topic: True)
    async with serving(app) as server:
        response = await server.post("/api/publish", {"topic": "x"}, headers=bearer("shop"))
        assert response.status_code == 403
        assert (await server.post("/api/publish", {"topic": "x"})).status_code == 200


async def test_a_repeated_key_is_answered_as_before_and_publishes_nothing():
    async with serving() as server:
        alice = await client(server, "alice", "news")
        key = {"Idempotency-Key": "order-17"}
        body = {"topic": "news", "data": 1}
        first = await server.post("/api/publish", body, headers=key)
        await alice.close()
        second = await server.post("/api/publish", body, headers=key)
        assert first.content == second.content
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert server.supervisor.statistics.traffic.published == 1
        other = await server.post("/api/publish", {"topic": "news", "data": 2}, headers=key)
        assert other.status_code == 422
        assert other.json()["code"] == "idempotency_key_reused"
        # Another user's key of the same name is another key.
        again = await server.post("/api/publish", body, headers={**key, **bearer("bob")})
        assert again.status_code == 200
        assert "idempotency-replayed" not in again.headers


async def test_a_refused_request_may_be_mended_under_the_same_key():
    async with serving() as server:
        key = {"Idempotency-Key": "k"}
        assert (await server.post("/api/publish", {"topic": "a b"}, headers=key)).status_code == 400
        assert (await server.post("/api/publish", {"topic": "a"}, headers=key)).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_not_everything_is_an_idempotency_key(key):
    with pytest.raises(Refused, match="Idempotency-Key is"):
        IdempotencyMemory(lambda: 0.0).recall("alice", key, b"")


def test_answers_are_forgotten_with_time():
    now = 0.0
    memory = IdempotencyMemory(lambda: now)
    memory.remember("alice", "k", b"body", b"answer")
    now = KEPT_FOR - 1
    assert memory.recall("alice", "k", b"body") == b"answer"
    now = KEPT_FOR
    assert memory.recall("alice", "k", b"other") is None
    assert len(memory) == 0


def test_the_memory_is_bounded_in_entries_and_in_bytes():
    memory = IdempotencyMemory(lambda: 0.0)
    for number in range(MAX_ENTRIES + 5):
        memory.remember("alice", str(number), b"", b"")
    assert len(memory) == MAX_ENTRIES
    assert memory.recall("alice", "4", b"") is None
    assert memory.recall("alice", "5", b"") == b""
    for number in range(20):
        memory.remember("alice", f"large {number}", b"", bytes(MAX_BYTES // 10))
    assert len(memory) == 9
    assert memory.recall("alice", "large 19", b"") is not None
