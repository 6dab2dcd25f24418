"""An operator's connection: the same actor as every session, with other commands."""

from __future__ import annotations

import json
from typing import Any

import attrs
import msgspec
import pytest
import trio

from moorage.actors.entrance.endpoint import Endpoint
from moorage.actors.entrance.handshake import Accepted
from moorage.actors.session.admin_session import AdminSession, encode_answer
from moorage.actors.transports.memory import memory_connection
from moorage.protocol.admin import answers
from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.identity import ANONYMOUS, Identity
from moorage.protocol.messages.codec import encode_value
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.parts import make_parts
from tests.fakes import CLOSE, Peer, RecordingLogger
from tests.fakes_server import code_of, ids, settle


@attrs.define
class Commands:
    """Commands that a test can follow; implements `CommandPort`."""

    given: list[tuple[str, Any]] = attrs.field(factory=list)
    begun: list[str] = attrs.field(factory=list)
    ended: list[str] = attrs.field(factory=list)
    unwatched: int = 0

    def run(self, session, command, data, on_progress):
        data = msgspec.json.decode(data) if data else None
        self.given.append((command, data))
        match command:
            case "now":
                self.begun.append(command)
                return {"answer": data}
            case "refuse":
                raise RemoteProtocolError("not so", ErrorCode.BAD_MESSAGE)
            case "break":
                raise ZeroDivisionError
            case "later":
                return self.later(data, on_progress)
        raise RemoteProtocolError("no such command", ErrorCode.UNKNOWN_TYPE)

    async def later(self, seconds, on_progress):
        self.begun.append("later")
        try:
            on_progress({"left": seconds})
            await trio.sleep(seconds)
        finally:
            self.ended.append("later")
        return {"took": seconds}

    def unwatch(self, session):
        self.unwatched += 1


@attrs.define(eq=False)
class Life:
    """What is asked of the supervisor about a session's life; implements `LifePort`."""

    lines: list[str] = attrs.field(factory=list)
    causes: list[CloseCause] = attrs.field(factory=list)

    def arrived(self, connection):
        pass

    def authenticated(self, connection, before):
        pass

    def lingers(self, connection):
        pass

    def ended(self, connection, cause):
        self.causes.append(cause)

    def verify(self, token):
        raise RemoteProtocolError("no", ErrorCode.UNAUTHORIZED)

    def log_event(self, level, event, **fields):
        self.lines.append(event)


@attrs.define
class Operator:
    """An admin session, its peer, and what stands behind it."""

    session: AdminSession
    peer: Peer
    commands: Commands
    life: Life


def make_session(
    commands: Commands, life: Life, identity: Identity = ANONYMOUS, address: str = ""
) -> tuple[AdminSession, Peer]:
    near, far = memory_connection()
    shared = make_parts(Settings(close_timeout=2), App(), RecordingLogger()).shared
    accepted = Accepted(far, Endpoint("/"), identity, address, {}, None, b"")
    return AdminSession(attrs.evolve(shared, life=life), accepted, commands), Peer(near)


@pytest.fixture
async def operator(nursery):
    commands, life = Commands(), Life()
    session, peer = make_session(commands, life)
    tick = session.shared.tick
    trio.lowlevel.add_instrument(tick)
    nursery.start_soon(session.run)
    assert (await peer.receive())["type"] == "welcome"
    yield Operator(session, peer, commands, life)
    session.end(CloseCause.STOPPED)
    await peer.close_code()
    peer.transport.close()
    await settle()
    trio.lowlevel.remove_instrument(tick)


async def test_a_command_that_is_done_at_once_is_answered_with_its_result(operator, autojump_clock):
    reply = await operator.peer.request_reply({"type": "now", "data": [1]})
    assert (reply["type"], reply["data"]) == ("result", {"answer": [1]})
    assert operator.commands.given == [("now", [1])]


async def test_a_command_that_takes_its_time_tells_its_progress_and_holds_nothing_up(
    operator, autojump_clock
):
    await operator.peer.send({"type": "later", "data": 5, "id": 1}, {"type": "now", "id": 2})
    seen = [await operator.peer.receive() for _ in range(3)]
    assert [message["type"] for message in seen] == ["progress", "result", "result"]
    assert ids(seen) == [1, 2, 1]
    assert seen[2]["data"] == {"took": 5}


async def test_commands_of_one_chunk_are_begun_in_their_order(operator, autojump_clock):
    """A command that takes its time began after all commands behind it were done."""
    commands = [{"type": kind, "data": 1} for kind in ("later", "now", "later", "later", "now")]
    for _ in range(20):  # Trio runs the tasks of a turn in any order
        operator.commands.begun.clear()
        await operator.peer.send(*commands)
        await settle()
        assert operator.commands.begun == ["later", "now", "later", "later", "now"]
        await trio.sleep(2)


async def test_a_command_that_came_before_the_close_frame_is_answered(operator, autojump_clock):
    """It was begun, and its answer was lost: the connection ended at once."""
    await operator.peer.send({"type": "later", "data": 1, "id": 1})
    await operator.peer.send_frame(CLOSE, (1000).to_bytes(2))
    answer = await operator.peer.receive_type("result")
    assert answer["id"] == 1
    assert operator.session.cause is None or operator.session.cause is CloseCause.PEER_CLOSED


async def test_wrong_commands_are_answered_however_many_they_are(operator, autojump_clock):
    for _ in range(50):
        assert code_of(await operator.peer.request_reply({"type": "refuse"})) == "bad_message"
        assert code_of(await operator.peer.request_reply({"type": "x"})) == "unknown_type"
    assert operator.session.is_open


async def test_a_command_is_about_no_topic(operator, autojump_clock):
    reply = await operator.peer.request_reply({"type": "now", "topic": "t"})
    assert (code_of(reply), "`data`" in reply["error"]) == ("bad_message", True)
    assert operator.commands.given == []


async def test_a_command_that_breaks_is_answered_and_logged(operator, autojump_clock):
    assert code_of(await operator.peer.request_reply({"type": "break"})) == "internal"
    assert operator.life.lines == ["handler_failed"]
    assert (await operator.peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_only_so_many_commands_are_under_way_at_one_time(operator, autojump_clock):
    await operator.peer.send(*({"type": "later", "data": 9, "id": n} for n in range(18)))
    seen = [await operator.peer.receive() for _ in range(18)]
    refused = [message for message in seen if message["type"] == "error"]
    assert ids(refused) == [16, 17]
    assert {code_of(message) for message in refused} == {"rate_limited"}
    assert operator.commands.ended == []  # and what was refused was never begun
    await trio.sleep(10)
    assert len(operator.commands.ended) == 16
    await operator.peer.send({"type": "later", "data": 0, "id": "again"})
    while (message := await operator.peer.receive()).get("id") != "again":
        assert message["type"] == "result"
    assert message["type"] == "progress"


async def test_a_session_that_ends_takes_its_commands_along_and_watches_no_more(
    operator, autojump_clock
):
    await operator.peer.send({"type": "later", "data": 100})
    await operator.peer.receive_type("progress")
    await operator.peer.close()
    await settle()
    assert operator.commands.ended == ["later"]
    assert operator.commands.unwatched == 1
    assert operator.life.causes == [CloseCause.PEER_CLOSED]


async def test_client_requests_are_no_commands(operator, autojump_clock):
    for request in ("subscribe", "unsubscribe", "data"):
        reply = await operator.peer.request_reply({"type": request, "data": {"topics": ["t"]}})
        assert code_of(reply) == "unknown_type"


@pytest.mark.parametrize(
    ("user_id", "address", "who"),
    [
        ("olga", "192.0.2.1", "olga at 192.0.2.1"),
        ("olga", "", "olga"),
        (None, "process 7", "process 7"),
    ],
)
async def test_the_log_is_told_who_acts_here(user_id, address, who):
    identity = ANONYMOUS if user_id is None else attrs.evolve(ANONYMOUS, user_id=user_id)
    session, _ = make_session(Commands(), Life(), identity, address)
    assert session.operator == who


def connection(number: int) -> answers.ConnectionSummary:
    fields = attrs.fields(answers.ConnectionSummary)
    values = {"str": "é", "int": number, "float": 0.5, "str | None": None, "float | None": None}
    return answers.ConnectionSummary(*(values[str(field.type)] for field in fields))


def tree(number: int) -> answers.Actor:
    leaves = tuple(answers.Actor(f"c{n}", "connection", "open") for n in range(number))
    return answers.Actor(
        "supervisor", "supervisor", "serving",
        children=(answers.Actor("listener", "listener", "accepting", children=leaves),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        answers.ConnectionsPage(tuple(map(connection, range(number))), number, cursor)
        for number in (0, 1, 200, 201, 1000)
        for cursor in (None, "1.5:x")
    ]
    + [tree(number) for number in (0, 3, 700)]
    + [{"a": [1, 2]}, None, [3]],
)
async def test_an_answer_that_is_encoded_in_turns_is_the_same(answer):
    assert json.loads(await encode_answer(answer)) == json.loads(encode_value(answer))


@pytest.mark.parametrize(
    "answer", [answers.ConnectionsPage((connection(1),) * 1000, 1), tree(1000)]
)
async def test_others_have_turns_while_a_long_answer_is_encoded(answer):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await encode_answer(answer)
        nursery.cancel_scope.cancel()
    assert turns >= 2  # once a page of 1,000 took one turn of 7 ms
