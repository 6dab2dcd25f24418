"""The poller wakes whoever waits for a socket, and only so many of them in one turn."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, nullcontext

import pytest
import trio
import trio.testing

from moorage.actors.tick import Tick
from moorage.actors.transports.poller import PER_TURN, Poller
from moorage.actors.transports.sockets import SocketTransport
from moorage.supervisor import parts
from tests.fakes import open_server
from tests.fakes_server import dial_tcp, welcomed


@asynccontextmanager
async def running(poller: Poller) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def pairs():
    """Makes connected pairs of sockets, which are closed at the end."""
    with ExitStack() as stack:

        def make(count: int) -> list[tuple[socket.socket, socket.socket]]:
            made = [socket.socketpair() for _ in range(count)]
            for pair in made:
                for end in pair:
                    end.setblocking(False)
                    stack.enter_context(end)
            return made

        yield make


async def test_who_waits_is_woken_when_there_is_something_to_read(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    transport = SocketTransport(near, poller=poller)
    async with running(poller):
        for number in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.wait_readable)
                await trio.testing.wait_all_tasks_blocked()
                far.send(bytes([number]))
            assert transport.read_some(9) == bytes([number])


async def test_what_has_come_before_is_found_at_once(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    async with running(poller):
        far.send(b"early")
        with trio.fail_after(5):
            await poller.wait_readable(near.fileno())
            await poller.wait_readable(near.fileno())  # nobody has read it: it is there still


async def test_the_end_of_the_stream_can_be_read(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    async with running(poller):
        far.close()
        with trio.fail_after(5):
            await poller.wait_readable(near.fileno())
        assert near.recv(9) == b""


async def test_so_many_are_woken_in_one_turn_and_all_in_the_end(pairs):
    """Trio woke 10,000 in one turn, which took 81 to 188 ms if each had a message to act on."""
    poller, tick = Poller(), Tick()
    count = 3 * PER_TURN
    woken: Counter[int] = Counter()
    ends = pairs(count)

    async def wait(near: socket.socket) -> None:
        await poller.wait_readable(near.fileno())
        woken[tick.turns] += 1

    trio.lowlevel.add_instrument(tick)
    try:
        async with running(poller), trio.open_nursery() as nursery:
            for near, _ in ends:
                nursery.start_soon(wait, near)
            await trio.testing.wait_all_tasks_blocked()
            for _, far in ends:
                far.send(b"now")
    finally:
        trio.lowlevel.remove_instrument(tick)
    assert sum(woken.values()) == count
    assert max(woken.values()) <= PER_TURN


async def test_a_socket_that_always_has_more_does_not_starve_the_others(pairs):
    poller = Poller()
    ends = pairs(PER_TURN + 50)
    turns: Counter[int] = Counter()
    ahead: list[int] = []

    async def wait(number: int, near: socket.socket) -> None:
        for _ in range(20):
            await poller.wait_readable(near.fileno())  # and reads nothing
            turns[number] += 1
            ahead.append(turns[number] - min(turns[other] for other in range(len(ends))))

    for _, far in ends:
        far.send(b"more")
    async with running(poller), trio.open_nursery() as nursery:
        for number, (near, _) in enumerate(ends):
            nursery.start_soon(wait, number, near)
    assert set(turns.values()) == {20}
    assert max(ahead) < 15  # 7 or 8 here; 20 if some had to wait for the others' end


async def test_a_wait_that_is_cancelled_can_be_waited_again(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    async with running(poller):
        with trio.move_on_after(0.01) as scope:
            await poller.wait_readable(near.fileno())
        assert scope.cancelled_caught
        far.send(b"late")
        await trio.testing.wait_all_tasks_blocked()  # it is reported, and nobody waits
        with trio.fail_after(5):
            await poller.wait_readable(near.fileno())


async def test_a_second_task_that_waits_is_refused(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    async with running(poller), trio.open_nursery() as nursery:
        nursery.start_soon(poller.wait_readable, near.fileno())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await poller.wait_readable(near.fileno())
        far.send(b"for the first")


@pytest.mark.parametrize("runs", [True, False])
async def test_who_waits_is_told_that_the_socket_is_closed(pairs, runs):
    poller = Poller()
    ((near, _),) = pairs(1)
    transport = SocketTransport(near, poller=poller)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.wait_readable()

    async with running(poller) if runs else nullcontext(), trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        transport.close()
        transport.close()


async def test_a_descriptor_that_is_used_again_waits_for_its_new_socket(pairs):
    poller = Poller()
    async with running(poller):
        numbers = set()
        for _ in range(3):
            near, far = socket.socketpair()
            transport = SocketTransport(near, poller=poller)
            numbers.add(near.fileno())
            far.send(b"x")
            with trio.fail_after(5):
                await transport.wait_readable()
            assert transport.read_some(9) == b"x"
            with trio.move_on_after(0.01) as scope:
                await transport.wait_readable()
            assert scope.cancelled_caught
            transport.close()
            far.close()
        assert len(numbers) == 1


async def test_when_the_poller_ends_who_waits_goes_on_by_trios_means(pairs):
    poller = Poller()
    ((near, far),) = pairs(1)
    transport = SocketTransport(near, poller=poller)
    received = []

    async def receive() -> None:
        while not received:
            await transport.wait_readable()
            try:
                received.append(transport.read_some(99))
            except BlockingIOError:
                continue

    async with trio.open_nursery() as nursery:
        async with running(poller):
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"all the same")
    assert received == [b"all the same"]


async def test_a_servers_clients_are_heard_after_its_poller_has_failed(monkeypatch):
    class Broken(Poller):
        async def run(self) -> None:
            with trio.CancelScope() as self.scope:
                await super().run()
            raise OSError("no more descriptors")

    monkeypatch.setattr(parts, "Poller", Broken)
    async with open_server() as server:
        peer = await welcomed(await dial_tcp(server))
        server.parts.admission.poller.scope.cancel()
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        (line,) = server.log.of("service_failed")
        assert line["service"] == "poller"
        await peer.close()
