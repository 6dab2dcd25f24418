import trio
import trio.testing

from moorage.actors.connection.inbox import ITEM_OVERHEAD, Inbox
from tests.fakes import open_server
from tests.fakes_server import counting, ids, receive_all, welcomed

CHECK = trio.testing.wait_all_tasks_blocked


async def test_items_come_out_in_the_order_in_which_they_came():
    inbox = Inbox(1_000)
    with trio.testing.assert_no_checkpoints():
        assert inbox.put("a", 1)
        assert inbox.put("b", 1)
        assert len(inbox) == 2
        assert [inbox.take(), inbox.take(), inbox.take()] == ["a", "b", None]
    assert inbox.size == 0


async def test_what_is_unfinished_comes_first_and_weighs_nothing():
    inbox = Inbox(1_000)
    inbox.put("a", 1)
    size = inbox.size
    inbox.put_first("unfinished")
    assert inbox.size == size
    assert [inbox.take(), inbox.take()] == ["unfinished", "a"]


async def test_reading_should_stop_beyond_the_limit_and_nothing_is_refused():
    inbox = Inbox(100 + ITEM_OVERHEAD)
    assert inbox.put("fits", 100)
    assert not inbox.put("too much", 1)
    assert not inbox.put("even more", 1_000)
    assert len(inbox) == 3


async def test_empty_items_are_charged_too():
    inbox = Inbox(10 * ITEM_OVERHEAD)
    assert [inbox.put("", 0) for _ in range(11)] == [True] * 10 + [False]


async def test_room_is_there_again_once_half_of_it_is_free(nursery):
    inbox = Inbox(10 * ITEM_OVERHEAD)
    for _ in range(12):
        inbox.put("", 0)
    done = trio.Event()

    async def wait():
        await inbox.wait_for_room()
        done.set()

    nursery.start_soon(wait)
    await CHECK()
    for left in range(11, 5, -1):
        inbox.take()
        await CHECK()
        assert not done.is_set(), left
    inbox.take()
    await CHECK()
    assert done.is_set()


async def test_there_is_room_at_once_where_there_is_room():
    inbox = Inbox(100)
    inbox.put("", 0)
    inbox.take()
    await inbox.wait_for_room()


async def test_an_item_ends_the_wait_and_so_does_wake(nursery, autojump_clock):
    inbox = Inbox(100)
    for change in (lambda: inbox.put("a", 1), inbox.wake):
        with trio.fail_after(1):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(inbox.wait_for_item)
                await CHECK()
                change()
        inbox.take()


async def test_there_is_no_wait_while_there_is_an_item():
    inbox = Inbox(100)
    inbox.put("a", 1)
    await inbox.wait_for_item()


async def test_everyone_who_waits_is_woken(autojump_clock):
    """The second one to wait replaced the first one's event, which was then never set."""
    inbox = Inbox(100)
    with trio.fail_after(1):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(inbox.wait_for_item)
            waiting.start_soon(inbox.wait_for_item)
            await CHECK()
            inbox.put("a", 1)
        inbox.put("b" * 100, 100)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(inbox.wait_for_room)
            waiting.start_soon(inbox.wait_for_room)
            await CHECK()
            inbox.take()
            inbox.take()


async def test_a_cancelled_wait_does_no_harm(autojump_clock):
    inbox = Inbox(100)
    with trio.move_on_after(1):
        await inbox.wait_for_item()
    inbox.put("a", 200)
    with trio.move_on_after(1):
        await inbox.wait_for_room()
    assert inbox.take() == "a"
    await inbox.wait_for_room()


# The worker of a session, which works its inbox off


async def test_messages_that_waited_behind_many_topics_leave_turns_to_others(autojump_clock):
    """Thousands of messages in the inbox were acted on in one turn, each reply a write."""
    async with open_server(max_topics_per_connection=2_000) as server:
        peer, writes = counting(server, capacity=1_000_000)
        await welcomed(peer)
        names = [f"t{number}" for number in range(500)]
        before = len(writes)
        await peer.send(
            {"type": "subscribe", "data": {"topics": ["first", "second"]}},
            *({"type": "subscribe", "topic": name, "id": name} for name in names),
        )
        steps, count = [], 0
        for _ in range(500):
            await trio.lowlevel.checkpoint()
            steps.append(len(server.router.topics) - count)
            count = len(server.router.topics)
        assert count == 502
        assert max(steps) <= 100
        assert ids(await receive_all(peer, 502)) == [None, None, *names]
        assert len(writes) - before <= 30
