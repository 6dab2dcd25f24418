"""The HTTP listener: that it is there, fails by itself, and harms nobody."""

import asyncio
import socket
import ssl
import time

import httpx
import pytest
import trio
import trustme

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.http.http_connections import HttpConnections
from moorage.supervisor.http.rest_api import BASE
from moorage.supervisor.server import open_supervisor
from tests.fakes import RecordingLogger, open_server
from tests.fakes_http import client, serving
from tests.fakes_server import KEY


async def test_it_is_off_unless_configured():
    async with open_server() as server:
        assert server.composition.http is None
        assert list(server.supervisor.http_addresses) == []


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
    real, fail = HttpConnections.serve, trio.Event()

    async def serve(connections, listeners):
        if fail.is_set():
            await real(connections, listeners)
        else:
            await fail.wait()
            raise RuntimeError("the ASGI server has a bug")

    monkeypatch.setattr(HttpConnections, "serve", serve)
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

        def fail(request, caller):
            raise RuntimeError("a bug in stats")

        monkeypatch.setattr(server.operations, "stats", fail)
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


@pytest.mark.parametrize("error", [SystemExit(), asyncio.CancelledError(), GeneratorExit()])
async def test_a_request_that_fails_with_what_is_no_exception_ends_nothing_else(monkeypatch, error):
    """It ended the listener, and then the whole server."""
    async with serving() as server:

        def fail(request, caller):
            raise error

        monkeypatch.setattr(server.operations, "stats", fail)
        response = await server.get(f"{BASE}/stats")
        assert response.status_code == 500
        (line,) = server.log.of("http_request_failed")
        assert line["exc_info"] is error
        assert line["path"] == f"{BASE}/stats"
        assert server.log.of("http_failed") == []
        assert (await server.get("/healthz")).status_code == 200
