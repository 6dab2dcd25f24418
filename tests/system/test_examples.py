"""Each example runs as a newcomer runs it: as a process, over loopback, until a signal stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from moorage import Client, ErrorCode, open_client
from moorage.client import RequestError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds, for a busy machine; nothing here takes more than two


@attrs.define
class Program:
    """A process under test, and its output so far."""

    process: trio.Process
    printed: str = ""

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait until the program has printed something that matches the pattern."""
        while not (match := re.search(pattern, self.printed)):
            assert self.process.stdout is not None
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"it ended without {pattern!r}:\n{self.printed}"
            self.printed += chunk.decode()
        return match

    async def address(self) -> str:
        """Wait until it listens; return the URL."""
        return (await self.line(r"listening .*address=(ws://\S+)\n"))[1]


@asynccontextmanager
async def started(*arguments: str, **options) -> AsyncGenerator[trio.Process]:
    """Run Python with these arguments; the process never outlives the block."""
    command = [sys.executable, "-W", "error", *arguments]
    # Unbuffered, Python writes the end of a line apart, and a line of the log may come before it.
    buffered = {key: text for key, text in os.environ.items() if key != "PYTHONUNBUFFERED"}
    options["env"] = {**buffered, **options.get("env", {})}
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(command, cwd=ROOT, **options)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in filter(None, (process.stdin, process.stdout)):
                    await pipe.aclose()


@asynccontextmanager
async def running(name: str, *arguments: str) -> AsyncGenerator[Program]:
    """Run an example on any free port, and stop it at the end as Ctrl-C would."""
    script = str(ROOT / "examples" / name)
    async with started(
        script, *(arguments or ("0",)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        program = Program(process)
        yield program
        process.send_signal(signal.SIGINT)
        await program.line("drained")
        assert await process.wait() == 0, program.printed
        assert "Traceback" not in program.printed


async def next_of(client: Client, message_type: str):
    """Return the data of the next message of a type."""
    async for message in client.messages():
        if message.type == message_type:
            return message.data
    raise AssertionError(message_type)


def test_every_example_has_a_test_and_teaches():
    source = Path(__file__).read_text()
    for example in (ROOT / "examples").glob("*.py"):
        assert f'running("{example.name}"' in source, example.name
        text = example.read_text()
        assert f"python examples/{example.name}" in text
        assert "This example shows:" in text


async def test_minimal_endpoint_greets_and_delivers_its_topic():
    async with running("minimal_endpoint.py") as program:
        address = await program.address()
        assert address.endswith("/ws/notifications")
        async with open_client(address) as client:
            assert await next_of(client, "greeting") == {"message": "Welcome aboard!"}
            await client.publish("notifications", {"n": 1})
            assert await next_of(client, "data") == {"n": 1}


async def test_custom_messages_is_a_chat():
    async with (
        running("custom_messages.py") as program,
        open_client(await program.address()) as ann,
        open_client(await program.address()) as ben,
    ):
        with pytest.raises(RequestError) as refusal:
            await ann.request("chat", {"text": "too early"})
        assert refusal.value.code == ErrorCode.FORBIDDEN
        with pytest.raises(RequestError) as refusal:
            await ann.request("join", {"name": 7})
        assert refusal.value.code == ErrorCode.BAD_MESSAGE
        assert (await ann.request("join", {"name": "Ann"})).data == {"name": "Ann", "others": 0}
        assert (await ben.request("join", {"name": "Ben"})).data == {"name": "Ben", "others": 1}
        assert await next_of(ann, "joined") == {"name": "Ben"}
        await ann.send("roll", {"sides": 6})
        await ann.send("chat", {"text": "And?"})
        first = [await anext(ben.messages()) for _ in range(3)]
        assert [message.type for message in first] == ["subscribed", "rolled", "chat_message"]
        assert first[1].data["from"] == "Ann"
        assert 1 <= first[1].data["result"] <= 6
        assert first[2].data == {"from": "Ann", "text": "And?"}


async def test_broadcasting_service_reaches_all_all_but_one_or_one():
    async with running("broadcasting_service.py") as program:
        pasted = r"moorage connect (\S+) --token (\S+)\n"
        # The log is written by a thread, so a line of it may come between them.
        await program.line("(?s)" + f"{pasted}.*?" * 3)
        (url, ann_token), (_, ben_token), (_, captain_token) = re.findall(pasted, program.printed)
        async with (
            open_client(url, token=ann_token) as ann,
            open_client(url, token=ann_token) as ann_too,
            open_client(url, token=ben_token) as ben,
            open_client(url, token=captain_token) as captain,
        ):
            lunch = {"message": "Lunch is ready."}
            reply = await captain.request("announce", lunch)
            assert reply.data == {"recipients": 3}
            for client in (ann, ann_too, ben):
                assert await next_of(client, "system_announcement") == lunch
            reply = await captain.request("notify", {"user_id": "ann", "message": "It gets cold."})
            assert reply.data == {"recipients": 2}
            for client in (ann, ann_too):
                assert await next_of(client, "notification") == {"message": "It gets cold."}
            with pytest.raises(RequestError) as refusal:
                await ben.request("announce", lunch)
            assert refusal.value.code == ErrorCode.FORBIDDEN


async def test_connection_monitoring_tells_who_comes_who_goes_and_why():
    async with running("connection_monitoring.py", "0", "1") as program:
        async with open_client(await program.address(), topics=["news"]) as client:
            name = client.connection_id
            await program.line(rf"\+ {name} from 127\.0\.0\.1 at /ws\n")
            await program.line(r"1 connected, \d+ messages in, \d+ out; ended: none\n")
            await program.line(rf"  {name} anonymous open, topics \['news'\], heard ")
        await program.line(rf"- {name}: peer_closed \(close code 1000\)\n")
        await program.line("0 connected, .* ended: 1 peer_closed\n")


async def test_data_streaming_lets_a_slow_viewer_skip_to_the_present():
    async with running("data_streaming.py", "0", "400") as program:
        address = await program.address()
        topic = "spectrum.antenna_1"
        async with open_stalling_viewer(address) as viewer:
            await viewer.send_message(f'{{"type": "subscribe", "topic": "{topic}"}}')
            seen: list[int] = []
            async with open_client(address, topics=[topic]) as fast:
                while len(seen) < 600:  # 7 MB, which is more than the kernel takes for the other
                    seen.append((await next_of(fast, "data"))["frame"])
            assert seen == list(range(seen[0], seen[0] + len(seen)))  # it has missed nothing
            while '"type":"gap"' not in (message := await viewer.get_message()):
                pass
            assert re.search(r'"data":\{"dropped":[1-9]\d+\}', message)
            present = await viewer.get_message()
            assert '"type":"data"' in present
            assert int(re.search(r'"frame":(\d+)', present)[1]) >= seen[-1]


@asynccontextmanager
async def open_stalling_viewer(address: str) -> AsyncGenerator[WebSocketConnection]:
    """Connect a client that reads its socket only when its program asks for a message."""
    url = urlsplit(address)
    connected = trio.socket.socket()
    connected.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65_536)
    await connected.connect((url.hostname, url.port))
    async with trio.open_nursery() as nursery:
        yield await wrap_client_stream(
            nursery, trio.SocketStream(connected), url.netloc, url.path, message_queue_size=1
        )
        nursery.cancel_scope.cancel()
        connected.close()


async def test_billing_batch_moves_the_bar_of_the_terminal_client():
    order = '{"type": "start_batch", "id": 1, "data": {"batch_id": 42, "invoices": 20}}\n'
    command = "import sys; from moorage.supervisor.cli.main import main; sys.exit(main())"
    ours, theirs = os.openpty()
    async with running("billing_batch.py") as program, trio.lowlevel.FdStream(ours) as terminal:
        arguments = (await program.address(), "--topic", "batch_progress_42", "--listen")
        async with started(
            *("-c", command, "connect", *arguments),
            stdin=subprocess.PIPE,
            stdout=theirs,
            env={"TERM": "xterm", "COLUMNS": "100"},
        ) as client:
            os.close(theirs)
            await client.stdin.send_all(order.encode())
            await client.stdin.aclose()
            shown = ""
            while "batch_finished" not in shown:
                shown += (await terminal.receive_some()).decode()
    assert "batch_started" in shown
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert re.search(r"batch_progress_42 [━╸╺]+ +1/20 +invoice 1001", plain), plain
    assert re.search(r"batch_progress_42 [━╸╺]+ +20/20 +invoice 1020", plain), plain


async def test_billing_batch_outlives_whoever_ordered_it_and_refuses_nonsense():
    async with running("billing_batch.py") as program:
        address = await program.address()
        async with open_client(address, topics=["batch_progress_7"]) as watcher:
            async with open_client(address) as client:
                with pytest.raises(RequestError) as refusal:
                    await client.request("start_batch", {"batch_id": 7, "invoices": -1})
                assert refusal.value.code == ErrorCode.BAD_MESSAGE
                await client.request("start_batch", {"batch_id": 7, "invoices": 5})
            progress = [await next_of(watcher, "progress") for _ in range(5)]
            assert [step["done"] for step in progress] == [1, 2, 3, 4, 5]
            assert await next_of(watcher, "batch_finished") == {"batch_id": 7}
