"""Log lines: in either form, what must not be in them is not."""

from __future__ import annotations

import json
import sys

import pytest

from moorage.actors.transports.memory import memory_connection
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import mint_token
from moorage.supervisor.server import open_server as open_composition
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.telemetry.logs import (
    EventLog,
    configure_logging,
    default_logger,
    level_number,
)
from tests.fakes import Peer, RecordingLogger, Server
from tests.fakes_server import assert_nothing_left, settle


@pytest.mark.parametrize("log_format", ["json", "console", None])
def test_a_traceback_does_not_show_local_variables_such_as_a_token(
    log_format, structlog_as_it_comes, capsys
):
    """Once the console's tracebacks did, as rich and structlog have it by default."""
    if log_format is not None:
        configure_logging(Settings(log_format=log_format))
    token = mint_token("x" * 32, user="ann", ttl=60)
    try:
        raise ValueError("no database")
    except ValueError as error:
        default_logger().log(level_number("error"), "handshake_failed", exc_info=error)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "ValueError: no database" in printed.err
    assert token[:20] not in printed.err


async def test_a_hook_that_fails_does_not_get_the_token_into_the_log(
    structlog_as_it_comes, capsys, autojump_clock
):
    app = App()

    @app.authorize_connect
    def look_up(request):
        raise ValueError("no database")

    settings = Settings(port=0, jwt_key="x" * 32)
    async with open_supervisor(settings, app) as supervisor:
        token = mint_token("x" * 32, user="ann", ttl=60)
        near, far = memory_connection()
        supervisor.serve_transport(far)
        status, _, _ = await Peer(near).upgrade(f"/ws?token={token}")
    assert status == 500
    printed = capsys.readouterr().err
    assert "ValueError: no database" in printed
    assert token[:20] not in printed


def test_json_lines_are_json_with_the_level_and_the_time(structlog_as_it_comes, capsys):
    configure_logging(Settings(log_format="json"))
    default_logger().log(level_number("info"), "connected", address="192.0.2.1")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "connected", "level": "info", "address": "192.0.2.1"}


def test_what_is_less_severe_than_the_log_level_is_not_written(structlog_as_it_comes, capsys):
    configure_logging(Settings(log_level="warning"))
    default_logger().log(level_number("info"), "connected")
    assert capsys.readouterr().err == ""


def test_auto_means_json_where_standard_error_is_no_terminal(
    structlog_as_it_comes, capsys, monkeypatch
):
    configure_logging(Settings())
    default_logger().log(level_number("info"), "connected")
    assert json.loads(capsys.readouterr().err)["event"] == "connected"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging(Settings())
    default_logger().log(level_number("info"), "connected")
    assert "connected" in capsys.readouterr().err


async def test_a_log_that_cannot_be_written_ends_nobodys_connection(autojump_clock):
    class BrokenLogger:
        def log(self, level, event, **fields):
            raise BrokenPipeError(32, "Broken pipe")

    settings = Settings(port=0)
    async with open_composition(settings, logger=BrokenLogger()) as composition:
        server = Server(composition, RecordingLogger())
        peer, other = await server.connect(), await server.connect()
        await peer.close()
        assert (await other.request_reply({"type": "ping"}))["type"] == "pong"
        await other.close()
        await settle()
        assert_nothing_left(server)
        assert server.parts.log.lost > 0


def test_failures_of_http_requests_are_written_at_a_limited_rate():
    # Each wrong handshake at `/control` wrote two tracebacks, 9 KB in all: a flood for a disk.
    logger = RecordingLogger()
    log = EventLog(logger, lambda: 0.0)
    for _ in range(150):
        log.write("error", "http_request_failed", error="a bug")
    assert len(logger.of("http_request_failed")) == 100


@pytest.mark.parametrize("log_format", ["auto", "console"])
def test_a_process_without_standard_error_has_a_log_that_loses_its_lines(
    log_format, structlog_as_it_comes, monkeypatch
):
    # `moorage serve 2>&-` ended at once: there was nothing to ask whether it is a terminal.
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(Settings(log_format=log_format))
    default_logger().log(level_number("info"), "connected")
