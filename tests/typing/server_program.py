"""A server, written against the public names alone. It is type-checked strictly, and never run."""

from typing import assert_type

import trio

import moorage
from moorage import (
    App,
    BlockingSupervisor,
    CloseCause,
    CloseCode,
    ConfigurationError,
    Context,
    Endpoint,
    Envelope,
    ErrorCode,
    Identity,
    LocalProtocolError,
    MoorageError,
    OverloadPolicy,
    ProtocolError,
    RawConnection,
    RemoteProtocolError,
    Session,
    Settings,
    Supervisor,
    TopicRule,
    UpgradeRequest,
    configure_logging,
    mint_token,
    open_supervisor,
)

app = App()


@app.endpoint("/ws/notifications", topics={"notifications", "user:{user_id}"}, require_auth=True)
async def notifications(connection: Session) -> None:
    assert_type(connection.send("greeting", {"text": "Welcome aboard!"}), bool)
    assert_type(connection.subscribe("news"), bool)
    assert_type(connection.unsubscribe("news"), bool)
    assert_type(connection.id, str)
    assert_type(connection.user_id, str | None)
    assert_type(connection.identity, Identity)
    assert_type(connection.address, str)
    assert_type(connection.path, str)
    assert_type(connection.connected_at, float)
    assert_type(connection.last_heard, float)
    assert_type(connection.rtt, float | None)
    assert_type(connection.messages_in, int)
    assert_type(connection.waiting_bytes, int)
    assert_type(connection.is_open, bool)
    assert_type(connection.close_code, int | None)
    topics = [topic.upper() for topic in connection.topics]
    assert_type(topics, list[str])
    await trio.sleep(3600)
    connection.disconnect("an hour is enough", reconnect_after=60)


@app.endpoint("/echo", raw=True, subprotocols=["echo.v1"])
async def echo(connection: RawConnection) -> None:
    async for message in connection:
        assert_type(message, str | bytes)
        await connection.send(message)
    connection.disconnect(CloseCode.NORMAL, "done")


assert_type(app.add_endpoint("/ws/plain", max_message_size=4096), Endpoint)


@app.on("whisper")
def whisper(context: Context, message: Envelope) -> None:
    match message.data:
        case {"to": str(user_id), "text": str(text)}:
            count = context.send_to_user(user_id, "whispered", {"text": text})
            assert_type(count, int)
            context.reply("whispering", {"recipients": count})
        case _:
            raise RemoteProtocolError("`to` and `text` are needed", ErrorCode.BAD_MESSAGE)


@app.on("look_up")
async def look_up(context: Context, message: Envelope) -> None:
    assert_type(message.topic, str | None)
    assert_type(context.connection, Session)
    await trio.sleep(0.1)
    context.reply("found", {"rows": []})


@app.authorize_connect
async def known_device(request: UpgradeRequest) -> bool:
    request.metadata["device"] = request.headers.get("user-agent", "")
    return request.address != "192.0.2.66"


@app.authorize_subscribe
async def may_read(connection: Session, topic: str) -> bool:
    return not topic.startswith("internal.") or connection.identity.role == "staff"


@app.authorize_publish
def may_write(connection: Session, topic: str) -> bool:
    return bool(topic) and not connection.identity.is_anonymous


@app.connected
async def arrived(connection: Session | RawConnection) -> None:
    connection.metadata["since"] = trio.current_time()


@app.disconnected
def left(connection: Session | RawConnection, cause: CloseCause) -> None:
    assert_type(connection.close_code, int | None)
    assert_type(cause.value, str)


def bill(supervisor: BlockingSupervisor) -> None:
    """Report from a thread."""
    assert_type(supervisor.broadcast_to_topic("batch", "data", {"done": 1}), int)
    assert_type(supervisor.run(len, "text"), int)


def settings() -> Settings:
    """Put the settings together."""
    rules = {
        "orders.**": TopicRule(overload=OverloadPolicy.LATEST),
        "log.**": TopicRule(overload="drop_oldest"),
    }
    try:
        return Settings(port=0, topics=rules, jwt_key="a secret of thirty-two bytes or more")
    except ConfigurationError as error:
        assert_type(error.setting, str)
        raise SystemExit(2) from error


async def main() -> None:
    """Serve until a signal."""
    chosen = settings()
    configure_logging(chosen)
    assert_type(mint_token("a secret of thirty-two bytes or more", user="ann"), str)
    async with open_supervisor(chosen, app) as supervisor:
        assert_type(supervisor, Supervisor)
        assert_type(supervisor.addresses, list[str])
        assert_type(supervisor.broadcast_to_topic("news", "data", {"n": 1}), int)
        assert_type(supervisor.send_to_user("ann", "data", 1), int)
        assert_type(supervisor.send_to_connection("id", "data"), bool)
        for connection in supervisor.connections():
            assert_type(connection.id, str)
        await trio.to_thread.run_sync(bill, supervisor.from_thread)
        assert_type(await supervisor.drain(10), int)
        await supervisor.serve_until_signal()


def told(error: MoorageError) -> str:
    """Name whose mistake an error was."""
    match error:
        case RemoteProtocolError():
            return f"theirs: {error.code}"
        case LocalProtocolError():
            return "ours"
        case ProtocolError():
            return "somebody's"
        case _:
            return "another"


assert_type(moorage.__version__, str)
# A misspelt name is an error, although the names are imported when they are first looked up.
_ = moorage.Aap  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
