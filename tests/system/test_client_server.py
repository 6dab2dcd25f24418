"""The client against the real server, over loopback and a Unix socket. Real time: no waiting."""

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from moorage import App, CloseCause, Settings, open_supervisor
from moorage.client import ClientClosed, ConnectError, ConnectionRefused, RequestError, open_client
from tests.fakes import RecordingLogger
from tests.fakes_server import KEY, token


@asynccontextmanager
async def running(app=None, **settings):
    """Run a server on loopback; yields it and the URL."""
    options = {"port": 0, **settings}
    async with open_supervisor(Settings(**options), app, logger=RecordingLogger()) as supervisor:
        yield supervisor, supervisor.addresses[0]


async def until(condition):
    while not condition():  # noqa: ASYNC110 - a client tells by its state, and time is real here
        await trio.sleep(0.01)


async def test_two_clients_talk_through_the_server():
    with trio.fail_after(10):
        async with (
            running() as (_, url),
            open_client(url) as alice,
            open_client(url) as bob,
            bob.subscribe("orders") as orders,
        ):
            for number in range(100):
                await alice.publish("orders", {"id": number})
            assert [(await anext(orders)).data["id"] for _ in range(100)] == list(range(100))
            assert alice.connection_id != bob.connection_id


async def test_it_lives_on_a_unix_socket_too(tmp_path):
    path = tmp_path / "moorage.sock"
    with trio.fail_after(10):
        async with (
            running(unix_socket=path),
            open_client("ws://localhost/ws", unix_socket=path) as one,
            open_client(f"ws+unix://{path}:/ws") as two,
            two.subscribe("t") as subscription,
        ):
            await one.publish("t", "hello")
            assert (await anext(subscription)).data == "hello"


async def test_tls_is_checked(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=number > 0)
    issued.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with trio.fail_after(10):
        async with running(tls_certificate=certificate, tls_key=key) as (_, url):
            assert url.startswith("wss://")
            async with open_client(url, ssl_context=trusting) as client:
                await client.publish("t")
            with pytest.raises(ConnectError, match="certificate"):
                async with open_client(url):
                    pass


async def test_refusals_carry_what_the_server_says():
    with trio.fail_after(10):
        async with running(jwt_key=(KEY,)) as (_, url):
            with pytest.raises(ConnectionRefused) as caught:
                async with open_client(url, token="no.good.token"):
                    pass
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
            with pytest.raises(ConnectionRefused) as caught:
                async with open_client(url.replace("/ws", "/elsewhere"), token=token("7")):
                    pass
            assert caught.value.status == 404


async def test_a_full_server_is_tried_again():
    with trio.fail_after(10):
        async with running(max_total_connections=1) as (_, url), open_client(url):
            with pytest.raises(ConnectError) as caught:
                async with open_client(url, connect_deadline=0.2):
                    pass
            assert caught.value.__cause__.status == 503


async def test_the_user_and_a_topic_that_is_not_allowed():
    with trio.fail_after(10):
        async with running(jwt_key=(KEY,)) as (_, url):
            allowed = token("7", subscribe=("news.*",))
            async with open_client(url, token=allowed, topics=["news.today"]) as client:
                assert client.user_id == "7"
                with pytest.raises(RequestError) as caught:
                    await anext(client.subscribe("secrets"))
                assert caught.value.code == "forbidden"


async def test_a_message_type_of_the_programs_own_is_answered():
    app = App()

    @app.on("add")
    async def add(context, message):
        context.reply("sum", sum(message.data))

    with trio.fail_after(10):
        async with running(app) as (_, url), open_client(url) as client:
            assert (await client.request("add", [1, 2, 3])).data == 6
            with pytest.raises(RequestError) as caught:
                await client.request("subtract", [1])
            assert caught.value.code == "unknown_type"


async def test_an_expired_token_is_renewed_within_the_grace():
    given = []

    def fetch():
        given.append(token("7", ttl=2 if not given else 3600))
        return given[-1]

    with trio.fail_after(10):
        async with running(jwt_key=(KEY,)) as (_, url), open_client(url, token=fetch) as client:
            first = client.connection_id
            await until(lambda: client.statistics().renewals)
            await client.publish("t")
            assert client.connection_id == first
            assert len(given) == 2


@pytest.mark.parametrize(
    ("cause", "comes_back"), [(CloseCause.RECONNECT, True), (CloseCause.DISCONNECTED, False)]
)
async def test_disconnected_by_the_server(cause, comes_back):
    with trio.fail_after(10):
        async with running() as (supervisor, url), open_client(url, topics=["t"]) as client:
            first = client.connection_id
            supervisor._hub.by_id[first].end(cause)  # as an operator's command does
            # It may be back before this task runs again: being away is not always seen.
            await until(lambda: client.connection_id != first)
            if comes_back:
                await client.wait_connected()
                assert client.connection_id != first
                assert (await anext(client.messages())).data["cause"] == "reconnected"
            else:
                with pytest.raises(ClientClosed) as caught:
                    await client.wait_connected()
                assert caught.value.code == cause.code
