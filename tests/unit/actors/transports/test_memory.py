import pytest
import trio
import trio.testing

from moorage.actors.transports.memory import memory_connection

settle = trio.testing.wait_all_tasks_blocked


@pytest.fixture
def ends():
    return memory_connection(10, ("alice", "bob"))


def test_each_end_knows_the_other_by_its_name(ends):
    assert [end.peer for end in ends] == ["bob", "alice"]


async def test_what_one_end_writes_the_other_reads(ends):
    near, far = ends
    with trio.testing.assert_no_checkpoints():
        assert near.write_some(b"hello") == 5
        assert far.read_some(3) == b"hel"
        assert far.read_some(3) == b"lo"
        with pytest.raises(BlockingIOError):
            far.read_some(3)
    assert far.write_some(b"back") == 4
    assert near.read_some(100) == b"back"


async def test_a_pipe_takes_what_fits(ends):
    near, far = ends
    assert near.write_some(b"x" * 15) == 10
    with pytest.raises(BlockingIOError):
        near.write_some(b"x")
    far.read_some(4)
    assert near.write_some(b"x" * 15) == 4


async def test_a_reader_waits_for_bytes_and_a_writer_for_room(ends, autojump_clock):
    near, far = ends
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.wait_readable)
            await settle()
            near.write_some(b"x" * 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_writable)
            await settle()
            far.read_some(1)


async def test_waiting_is_a_checkpoint_even_where_there_is_nothing_to_wait_for(ends):
    near, far = ends
    near.write_some(b"x")
    with trio.testing.assert_checkpoints():
        await far.wait_readable()
    with trio.testing.assert_checkpoints():
        await near.wait_writable()


async def test_after_the_end_of_output_the_rest_is_read_and_then_nothing(ends):
    near, far = ends
    near.write_some(b"last")
    near.end_output()
    await far.wait_readable()
    assert [far.read_some(10), far.read_some(10)] == [b"last", b""]
    far.write_some(b"still")
    assert near.read_some(10) == b"still"
    with pytest.raises(BrokenPipeError):
        near.write_some(b"x")


async def test_a_closed_end_is_the_end_of_the_stream_for_the_other(ends):
    near, far = ends
    near.write_some(b"last")
    near.close()
    near.close()
    assert [far.read_some(10), far.read_some(10)] == [b"last", b""]
    with pytest.raises(BrokenPipeError):
        far.write_some(b"x")
    await far.wait_writable()  # to be told so
    for operation in (lambda: near.read_some(1), lambda: near.write_some(b"x")):
        with pytest.raises(OSError, match="this end was closed"):
            operation()


@pytest.mark.parametrize("wait", ["wait_readable", "wait_writable"])
async def test_closing_an_end_wakes_who_waits_on_it(ends, wait, autojump_clock):
    near, _ = ends
    near.write_some(b"x" * 10)

    async def waiting():
        with pytest.raises(trio.ClosedResourceError):
            await getattr(near, wait)()

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await settle()
            near.close()


async def test_a_reset_breaks_both_ends_and_wakes_them(ends, autojump_clock):
    near, far = ends
    near.write_some(b"lost")
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_readable)
            await settle()
            far.reset()
    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.read_some(1)
        with pytest.raises(ConnectionResetError):
            end.write_some(b"x")
        await end.wait_writable()


async def test_while_an_end_is_stalled_nothing_of_it_arrives_not_even_its_end(ends, autojump_clock):
    near, far = ends
    near.stall()
    assert near.write_some(b"late") == 4
    near.end_output()
    with pytest.raises(BlockingIOError):
        far.read_some(10)
    with trio.move_on_after(100) as scope:
        await far.wait_readable()
    assert scope.cancelled_caught
    near.stall(False)
    await far.wait_readable()
    assert [far.read_some(10), far.read_some(10)] == [b"late", b""]


async def test_a_stalled_pipe_fills_up(ends):
    near, _ = ends
    near.stall()
    assert near.write_some(b"x" * 20) == 10
    with pytest.raises(BlockingIOError):
        near.write_some(b"x")
