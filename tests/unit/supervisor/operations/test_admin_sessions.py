"""The control socket: who is let in, what an admin session may ask, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from typing import Any

import pytest
import trio

from moorage.protocol.admin.commands import COMMANDS
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.server_lifecycle import ServerState
from tests.fakes import PING, TEXT, Peer, RecordingLogger, Server, masked, open_server
from tests.fakes_control import (
    ADMIN,
    ask,
    connect_admin,
    dial_admin,
    expired_token,
    refused,
)
from tests.fakes_server import KEY, dial_tcp, dial_unix, free_port, settle, token, welcomed

# Who is let in


async def upgrade(server: Server, bearer: str | None, **headers: str) -> tuple[int, str]:
    """Try to come in; return the status, and the code of the error."""
    peer = dial_admin(server)
    status, _, body = await peer.upgrade("/", headers | authorization(bearer))
    return status, json.loads(body)["data"]["code"] if body else ""


def authorization(bearer: str | None) -> dict[str, str]:
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


ADMINS = token("olga", role="admin")
USERS = token("olga", role="user")
EXPIRED = expired_token("olga", role="admin")


async def test_an_administrators_token_opens_a_session(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        assert admin.welcome["data"]["user_id"] == "olga"
        (line,) = server.log.of("control_connected")
        assert (line["user_id"], line["address"]) == ("olga", "198.51.100.7")


@pytest.mark.parametrize(
    ("bearer", "status", "code"),
    [
        (None, 401, "unauthorized"),
        (EXPIRED, 401, "token_expired"),
        (USERS, 403, "forbidden"),
        (token("olga", role="Admin"), 403, "forbidden"),
        (token("olga"), 403, "forbidden"),
    ],
)
async def test_without_a_good_administrators_token_nobody_is_let_in(
    bearer, status, code, autojump_clock
):
    async with open_server(**ADMIN) as server:  # clients would be let in without a token
        assert await upgrade(server, bearer) == (status, code)
        (line,) = server.log.of("control_refused")
        assert (line["status"], line["peer"]) == (status, "198.51.100.7")
        assert server.admin_sessions.sessions == {}


async def test_a_token_of_another_key_is_refused(autojump_clock):
    async with open_server(jwt_key="another key, which is long enough too") as server:
        assert await upgrade(server, ADMINS) == (401, "unauthorized")


async def test_in_development_mode_no_token_is_good(autojump_clock):
    async with open_server() as server:
        assert (await upgrade(server, ADMINS))[0] == 401
        assert (await upgrade(server, None))[0] == 401


async def test_a_page_of_another_origin_is_refused(autojump_clock):
    async with open_server(**ADMIN, allowed_origins="https://ops.example.org") as server:
        wrong = await upgrade(server, ADMINS, Origin="https://evil.example")
        assert wrong == (403, "forbidden")
        right = await upgrade(server, ADMINS, Origin="https://ops.example.org")
        assert right[0] == 101


async def test_any_origin_does_not_mean_any_page_for_administrators(autojump_clock):
    async with open_server(**ADMIN, allowed_origins="*") as server:
        assert await upgrade(server, ADMINS, Origin="https://evil.example") == (403, "forbidden")
        assert (await upgrade(server, ADMINS))[0] == 101


async def test_other_paths_are_not_served(autojump_clock):
    async with open_server(**ADMIN) as server:
        assert (await dial_admin(server).upgrade("/ws"))[0] == 404


async def test_a_session_cannot_become_a_users_by_a_token_that_is_no_administrators(
    autojump_clock,
):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        code, _ = await refused(admin, "authenticate", token=token("olga", role="user"))
        assert code == "forbidden"
        reply = await admin.request_reply(
            {"type": "authenticate", "data": {"token": token("olga", role="admin")}}
        )
        assert reply["type"] == "authenticated"


async def test_an_administrators_token_that_expires_ends_the_session(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=1e6) as server:
        admin = await connect_admin(server, ttl=60)
        assert (await admin.receive())["data"]["code"] == "token_expired"
        assert await admin.close_code() == 4004


async def test_the_clients_endpoint_knows_no_admin_commands(autojump_clock):
    async with open_server(**ADMIN) as server:
        peer = await server.connect(token=token("olga", role="admin"))
        for command in COMMANDS:
            assert (await refused(peer, command))[0] == "unknown_type"


# Sessions are no clients


async def test_sessions_are_in_no_list_and_count_towards_no_limit(autojump_clock):
    async with open_server(**ADMIN, max_total_connections=1, max_connections_per_user=1) as server:
        admin, other = await connect_admin(server), await connect_admin(server)
        await server.connect(token=token("olga"))
        stats = await ask(admin, "stats")
        assert stats["active_connections"] == 1
        assert stats["control_sessions"] == 2
        assert stats["messages_received"] == 0
        page = await ask(other, "connections")
        assert page["total"] == 1
        assert admin.id not in json.dumps(page)
        assert (await server.dial().upgrade())[0] == 503
        await connect_admin(server)  # a full server answers its operators


async def test_a_suspended_server_lets_operators_in(autojump_clock):
    async with open_server(**ADMIN) as server:
        server.supervisor.suspend()
        admin = await connect_admin(server)
        assert (await ask(admin, "resume"))["suspended"] is False


async def test_there_are_a_hundred_sessions_at_most(autojump_clock):
    async with open_server(**ADMIN) as server:
        for number in range(100):
            await connect_admin(server, f"olga{number}")
        assert (await dial_admin(server).upgrade("/"))[0] == 503


async def test_silent_sockets_do_not_lock_operators_out(autojump_clock):
    # Once a hundred of them took the places of all operators for `handshake_timeout`.
    async with open_server(**ADMIN) as server:
        crowd = [dial_admin(server, address="203.0.113.9") for _ in range(300)]
        await settle()
        admin = await connect_admin(server)
        assert (await ask(admin, "health"))["live"] is True
        assert server.admin_sessions.statistics.unanswered == len(crowd) - 99
        assert server.supervisor.statistics.unanswered == 0


async def test_what_comes_by_tcp_takes_no_place_of_the_unix_sockets_operators(tmp_path):
    path = tmp_path / "control"
    async with open_server(**ADMIN, control_socket=path) as server:
        for number in range(100):
            await connect_admin(server, f"olga{number}")
        for _ in range(100):
            dial_admin(server)
        with trio.fail_after(5):
            admin = await welcomed(await dial_unix(path), "/")
            assert (await ask(admin, "stats"))["control_sessions"] == 101
            await admin.close()


async def test_sessions_survive_a_drain_and_end_with_the_server(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        ann = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.close)
            assert (await ask(admin, "drain"))["left"] == 0
        assert (await ask(admin, "health"))["reasons"] == ["suspended"]
        await ask(admin, "watch")
        bob = dial_admin(server)
        # `stop` cancels whatever runs in the server's block; this test has to see the end.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.stop)
                assert await admin.close_code() == 1001
                admin.transport.close()
                bob.transport.close()
            assert server.admin_sessions.sessions == {}


async def test_the_end_of_the_last_client_is_told_before_the_session_ends(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        await ask(admin, "watch", events=["disconnected"])
        ann = await server.connect()
        with trio.CancelScope(shield=True):  # as above
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.stop)
                assert await ann.close_code() == 1001
                ann.transport.close()
                assert (await admin.receive())["data"]["cause"] == "stopped"
                assert await admin.close_code() == 1001
                admin.transport.close()


# Commands


async def test_every_command_is_answered_with_a_result_that_has_its_id(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        ann = await server.connect()
        data: dict[str, dict[str, Any]] = {
            "connection": {"connection_id": ann.id},
            "topic": {"topic": "news"},
            "disconnect": {"user_id": "nobody"},
            "broadcast": {"topic": "news", "message_type": "x"},
            "drain": {"timeout": 0},
            "watch": {"events": []},
        }
        for number, command in enumerate(COMMANDS):
            message = {"type": command, "id": number, "data": data.get(command, {})}
            reply = await admin.request_reply(message)
            while reply["type"] == "progress":
                reply = await admin.receive()
            assert (reply["type"], reply["id"]) == ("result", number), reply
            assert reply["timestamp"].endswith("Z")


async def test_commands_do_what_the_operations_do(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        ann = await server.connect(token=token("ann"))
        await ann.request_reply({"type": "subscribe", "topic": "news"})
        page = await ask(admin, "connections", user_id="ann", topic="news", state="open", limit=1)
        assert [entry["connection_id"] for entry in page["connections"]] == [ann.id]
        shown = await ask(admin, "connection", connection_id=ann.id)
        assert shown["topics"] == ["news"]
        assert (await ask(admin, "topics", prefix="ne"))["topics"][0]["subscribers"] == 1
        assert (await ask(admin, "topic", topic="news"))["connection_ids"] == [ann.id]
        sent = await ask(admin, "broadcast", topic="news", message_type="alert", data={"n": 1})
        assert sent == {"recipients": 1}
        alert = await ann.receive()
        assert (alert["type"], alert["topic"], alert["data"]) == ("alert", "news", {"n": 1})
        gone = await ask(admin, "disconnect", connection_ids=[ann.id, "x"], reason="bye")
        assert gone == {"disconnected": 1, "connection_ids": [ann.id], "missing": ["x"]}
        assert await ann.close_code() == 4503
        ann.transport.close()


async def test_who_did_it_is_the_tokens_user_and_address(autojump_clock):
    async with open_server(**ADMIN) as server:
        await ask(await connect_admin(server, "pete"), "disconnect", user_id="ann")
        (line,) = server.log.of("admin.disconnect")
        assert line["by"] == "pete at 198.51.100.7"


async def test_wrong_commands_are_answered_and_do_not_end_the_session(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        for _ in range(10):
            code, text = await refused(admin, "cleanup", quiet=5)
            assert (code, text) == (
                "bad_message",
                "`data` has unknown fields: 'quiet'; known are: quiet_for",
            )
            assert "`data.limit`: expected an integer" in (
                await refused(admin, "connections", limit="all")
            )
            assert (await refused(admin, "connections", state="x"))[0] == "bad_message"
            assert (await refused(admin, "topic", topic="a b"))[0] == "bad_topic"
            assert (await refused(admin, "connection", connection_id="x"))[0] == "bad_message"
        assert server.log.of("handler_failed") == []


async def test_a_command_that_there_is_not_is_refused_with_those_that_there_are(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        code, text = await refused(admin, "shutdown")
        assert code == "unknown_type"
        assert "known are: stats, connections," in text
        # The clients' own requests are not among them.
        for command in ("subscribe", "unsubscribe", "data"):
            assert (await refused(admin, command))[0] == "unknown_type"


async def test_a_topic_in_the_envelope_is_refused_with_where_it_goes(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        reply = await admin.request_reply({"type": "topic", "topic": "news"})
        assert reply["error"] == "a command has no `topic`: put its parameters into `data`"


async def test_what_is_no_message_at_all_counts_against_a_session_as_against_a_client(
    autojump_clock,
):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        await admin.send_bytes(b"".join(masked(TEXT, b"nonsense") for _ in range(20)))
        assert await admin.close_code() == 4501


async def test_a_session_pings_as_every_session_does(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        reply = await admin.request_reply({"type": "ping", "data": [1]})
        assert (reply["type"], reply["data"]) == ("pong", [1])


async def test_a_command_that_takes_its_time_does_not_hold_up_the_next(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=600, connection_timeout=900) as server:
        admin = await connect_admin(server)
        await server.connect()
        await trio.sleep(20)
        started = trio.current_time()
        await admin.send({"type": "cleanup", "id": "slow"}, {"type": "stats", "id": "fast"})
        assert (await admin.receive())["id"] == "fast"
        assert trio.current_time() == started
        assert (await admin.receive())["data"]["probed"] == 1
        assert trio.current_time() - started == pytest.approx(10)


async def test_a_drain_takes_as_long_as_it_may_and_tells_its_progress(autojump_clock):
    async with open_server(**ADMIN, close_timeout=1000, handler_timeout=5) as server:
        admin = await connect_admin(server)
        await server.connect()
        await admin.send({"type": "drain", "id": "d", "data": {"timeout": 20}})
        steps = 0
        while (message := await admin.receive())["type"] != "result":
            if message["type"] == "progress":
                steps += 1
                assert message["id"] == "d"
                assert message["data"]["left"] == 1
        assert steps == pytest.approx(40, abs=1)
        assert message["data"] == {
            "total": 1,
            "left": 1,
            "seconds": 20,
            "timeout": 20,
            "done": True,
        }


async def test_resume_behind_a_drain_ends_it_also_if_both_come_at_once(autojump_clock):
    """The resume was done first, and the server stayed suspended."""
    for _ in range(5):  # Trio runs the tasks of a turn in any order
        async with open_server(**ADMIN) as server:
            admin, client = await connect_admin(server), await server.connect()
            await admin.send({"type": "drain", "id": "d"}, {"type": "resume", "id": "r"})
            replies = [await admin.receive_type("result") for _ in range(2)]
            assert {reply["id"] for reply in replies} == {"d", "r"}
            events = [line["event"] for line in server.log.lines if "by" in line]
            assert events == ["admin.drain", "admin.resume"]
            assert server.core.state is ServerState.SERVING
            assert (await server.connect()).welcome
            client.transport.close()


async def test_too_many_unfinished_commands_are_refused(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=600) as server:
        admin = await connect_admin(server)
        await server.connect()
        await trio.sleep(20)
        for n in range(17):
            await admin.send({"type": "cleanup", "id": n})
        reply = await admin.receive()
        assert (reply["id"], reply["data"]["code"]) == (16, "rate_limited")
        assert [(await admin.receive())["type"] for _ in range(16)] == ["result"] * 16


async def test_a_session_that_leaves_takes_its_commands_along(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=600) as server:
        admin = await connect_admin(server)
        await server.connect()
        await trio.sleep(20)
        await admin.send({"type": "cleanup"})
        await settle()
        await admin.close()
        await trio.sleep(20)
        assert server.log.of("admin.cleanup")
        assert server.log.of("admin.cleaned_up") == []
        assert server.actors() == ()  # who was asked had to answer all the same


async def test_a_stuck_session_slows_nobody_and_is_closed(autojump_clock):
    async with open_server(**ADMIN) as server:
        stuck = await connect_admin(server, capacity=1000)
        for _ in range(20):
            await stuck.send({"type": "health"})
            await settle()
        peer = await server.connect()
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await trio.sleep(11)
        (line,) = server.log.of("control_disconnected")
        assert line["cause"] == "write_timeout"


async def test_a_session_that_asks_and_never_reads_does_not_fill_the_memory(autojump_clock):
    async with open_server(**ADMIN) as server:
        for _ in range(100):
            await server.connect()
        greedy = await connect_admin(server, capacity=10_000)
        request = masked(TEXT, json.dumps({"type": "connections"}).encode())
        while not server.log.of("control_disconnected"):
            with contextlib.suppress(trio.BrokenResourceError):
                await greedy.send_bytes(request * 20)
            with trio.move_on_after(6):  # close_timeout: it does not read the goodbye either
                await settle()
                await trio.sleep(0.1)
        (line,) = server.log.of("control_disconnected")
        assert line["cause"] == "slow_consumer"


async def test_a_session_answers_pings_and_is_asked_for_signs_of_life(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        opcode, _ = await admin.receive_frame()
        assert opcode == PING
        await trio.sleep(16)
        (line,) = server.log.of("control_disconnected")
        assert (line["cause"], line["code"]) == ("heartbeat_timeout", 4001)


# On real sockets


async def test_on_the_unix_socket_no_token_is_needed_and_the_process_is_known(tmp_path):
    path = tmp_path / "control.sock"
    async with open_server(**ADMIN, control_socket=path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.supervisor.control_addresses == [f"ws+unix://{path}:/"]
        admin = await dial_unix(path)
        assert (await admin.upgrade("/"))[0] == 101
        await admin.receive_type("welcome")
        await ask(admin, "suspend")
        (line,) = server.log.of("admin.suspend")
        assert line["by"] == f"uid {os.getuid()}, pid {os.getpid()}"
        listeners = [c["name"] for c in (await ask(admin, "tree"))["children"]]
        assert f"control listener on ws+unix://{path}:" in listeners
        admin.transport.close()
    assert not path.exists()


async def test_on_the_unix_socket_a_token_that_is_no_administrators_is_refused(tmp_path):
    path = tmp_path / "control.sock"
    async with open_server(**ADMIN, control_socket=path):
        for bearer, status in ((USERS, 403), (EXPIRED, 401)):
            admin = await dial_unix(path)
            assert (await admin.upgrade("/", authorization(bearer)))[0] == status
            admin.transport.close()


async def test_on_the_unix_socket_headers_of_proxies_are_not_believed(tmp_path):
    path = tmp_path / "control.sock"
    async with open_server(**ADMIN, control_socket=path, trusted_proxies="0.0.0.0/0") as server:
        admin = await dial_unix(path)
        assert (await admin.upgrade("/", {"X-Forwarded-For": "192.0.2.66"}))[0] == 101
        await admin.receive_type("welcome")
        assert server.log.of("control_connected")[0]["address"].startswith("uid ")
        admin.transport.close()


async def test_what_a_dead_server_left_is_replaced(tmp_path):
    path = tmp_path / "control.sock"
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(path))
    left_over.close()
    async with open_server(control_socket=path):
        admin = await dial_unix(path)
        assert (await admin.upgrade("/"))[0] == 101
        admin.transport.close()


async def test_a_second_server_is_told_what_to_configure(tmp_path):
    path = tmp_path / "control.sock"
    async with open_server(control_socket=path):
        with pytest.raises(ConfigurationError) as caught:
            async with open_server(control_socket=path):
                pass
        assert caught.value.setting == "control_socket"
        assert str(caught.value) == (
            f"control_socket: another server listens on {path}; allowed: a path of its own"
        )
        admin = await dial_unix(path)  # and the first goes on
        assert (await admin.upgrade("/"))[0] == 101
        admin.transport.close()


async def test_over_tcp_a_token_is_needed():
    async with open_server(**ADMIN, control_port=(port := free_port())) as server:
        assert server.supervisor.control_addresses == [f"ws://127.0.0.1:{port}/"]
        for bearer, status in ((None, 401), (USERS, 403), (EXPIRED, 401), (ADMINS, 101)):
            admin = await dial_control(port)
            assert (await admin.upgrade("/", authorization(bearer)))[0] == status
            admin.transport.close()
        peer = await dial_tcp(server)
        assert (await peer.upgrade("/"))[0] == 404  # not on the clients' listener
        peer.transport.close()


async def dial_control(port: int) -> Peer:
    from moorage.actors.transports.sockets import SocketTransport

    stream = socket.create_connection(("127.0.0.1", port))
    return Peer(SocketTransport(stream))


async def test_a_program_has_no_control_socket_unless_it_wants_one():
    async with open_server() as server:
        assert server.supervisor.control_addresses == []


async def test_without_a_key_operators_over_tcp_must_be_on_this_machine():
    with pytest.raises(ConfigurationError, match="no administrator's token can be checked"):
        Settings(control_port=9000, control_host="0.0.0.0")
    Settings(control_port=9000, control_host="0.0.0.0", jwt_key=KEY)


async def test_a_listener_that_cannot_be_opened_leaves_no_other_open(tmp_path):
    path, port = tmp_path / "missing" / "control.sock", free_port()
    with pytest.raises(ConfigurationError, match="control_socket: cannot listen"):
        async with open_supervisor(
            Settings(port=0, control_socket=path, control_port=port),
            logger=RecordingLogger(),
        ):
            pass
    async with open_server(control_port=port):  # it is free again
        pass
