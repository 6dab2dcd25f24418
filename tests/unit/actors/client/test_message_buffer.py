"""A bounded buffer that drops the oldest messages, and tells its reader."""

import pytest
import trio
import trio.testing

from moorage.actors.client.message_buffer import MessageBuffer
from moorage.protocol.messages.envelope import Envelope
from tests.fakes_client import connect, wait_until


def filled(count, **limits):
    buffer = MessageBuffer(**{"max_messages": 10, "max_bytes": 1000, **limits})
    for number in range(count):
        buffer.put(Envelope("data", data=number), 10)
    return buffer


async def test_putting_passes_no_checkpoint_and_keeps_the_order():
    with trio.testing.assert_no_checkpoints():
        buffer = filled(3)
    assert len(buffer) == 3
    assert [(await buffer.get()).data for _ in range(3)] == [0, 1, 2]


async def test_the_gap_comes_before_the_messages_that_are_left():
    buffer = filled(5, max_messages=2, topic="t")
    gap = await buffer.get()
    assert (gap.type, gap.topic) == ("gap", "t")
    assert gap.data == {"dropped": 3, "cause": "overflow"}
    assert [(await buffer.get()).data for _ in range(2)] == [3, 4]


async def test_one_message_fits_however_large():
    buffer = MessageBuffer(max_messages=5, max_bytes=10)
    buffer.put(Envelope("data", data="large"), 1_000)
    assert (await buffer.get()).data == "large"
    assert buffer.dropped == 0


async def test_after_the_end_the_rest_is_read_and_then_the_iteration_stops():
    buffer = filled(2)
    buffer.end()
    buffer.put(Envelope("data", data="late"), 4)
    assert [message.data async for message in buffer] == [0, 1]
    assert buffer.ended


async def test_the_first_end_counts_and_its_error_is_made_anew_for_each_reader():
    buffer = filled(0)
    buffer.end(lambda: KeyError("first"))
    buffer.end(lambda: KeyError("second"))
    raised = []
    for _ in range(2):
        with pytest.raises(KeyError, match="first") as caught:
            await buffer.get()
        raised.append(caught.value)
    assert raised[0] is not raised[1]


async def test_several_readers_share_the_messages(autojump_clock, nursery):
    buffer, got = filled(0), []

    async def read():
        got.append((await buffer.get()).data)

    for _ in range(3):
        nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    for number in range(3):
        buffer.put(Envelope("data", data=number), 1)
    await wait_until(lambda: len(got) == 3)
    assert sorted(got) == [0, 1, 2]


async def test_a_cancelled_reader_takes_no_message(autojump_clock):
    buffer = filled(0)
    with trio.move_on_after(1):
        await buffer.get()
    buffer.put(Envelope("data", data=1), 1)
    assert (await buffer.get()).data == 1


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(autojump_clock, server):
    async with connect(server) as client:
        async with client.subscribe("t", max_messages=3) as subscription:
            for number in range(10):
                await server.connections[0].send("data", topic="t", data=number)
            await wait_until(lambda: subscription.dropped == 7)
            gap = await anext(subscription)
            assert (gap.type, gap.topic) == ("gap", "t")
            assert gap.data == {"dropped": 7, "cause": "overflow"}
            assert [(await anext(subscription)).data for _ in range(3)] == [7, 8, 9]
            await server.connections[0].send("data", topic="t", data=10)
            assert (await anext(subscription)).data == 10
        assert client.statistics().messages_dropped == 7


async def test_a_buffer_is_bounded_in_bytes_too(autojump_clock, server):
    async with (
        connect(server, max_buffered_bytes=5_000) as client,
        client.subscribe("t") as subscription,
    ):
        for _ in range(10):
            await server.connections[0].send("data", topic="t", data="x" * 2_000)
        await wait_until(lambda: subscription.dropped == 8)


async def test_a_slow_reader_holds_up_nobody_else(autojump_clock, server):
    async with (
        connect(server) as client,
        client.subscribe("slow", max_messages=1),
        client.subscribe("fast") as fast,
    ):
        for number in range(100):
            await server.connections[0].send("data", topic="slow", data=number)
        await server.connections[0].send("data", topic="fast", data="here")
        assert (await anext(fast)).data == "here"
        await client.publish("t")
