"""A billing batch and its progress bar: synchronous work in a thread, watched over WebSocket.

Run it, and in a second terminal ask for batch 42 and watch it:

    python examples/billing_batch.py
    echo '{"type": "start_batch", "id": 1, "data": {"batch_id": 42, "invoices": 200}}' |
        moorage connect ws://127.0.0.1:8765/ws --topic batch_progress_42 --listen

On a terminal, `moorage connect` shows a bar for every topic `batch_progress_*` whose messages carry
`done` and `total`. Open a third one, without the `echo`, and both show the same bar.

What to see here:

* A batch must outlive the connection that asked for it. So the handler does not run it, since what
  a handler does is cancelled with its connection; it passes the order on through a memory channel
  to a task of the program.
* The work is ordinary synchronous code, as most billing is. It runs in a thread, and reports by
  `supervisor.from_thread`, which does in the event loop what the supervisor's own methods do.
* The channel is bounded, as everything that waits should be: one order too many is refused, with
  the code `unavailable`, which tells clients that trying again later makes sense.
"""

import sys
import time

import attrs
import trio

from moorage.actors.session.context import Context
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.supervisor import Supervisor, open_supervisor
from moorage.supervisor.threads import ThreadPort

SECONDS_PER_INVOICE = 0.02
MOST_WAITING = 10  # batches


@attrs.frozen
class Batch:
    """An order to bill so many invoices."""

    batch_id: int
    invoices: int

    @property
    def topic(self) -> str:
        """Where its progress is published."""
        return f"batch_progress_{self.batch_id}"


def bill(batch: Batch, port: ThreadPort) -> None:
    """Bill every invoice of a batch, in a thread."""
    for done in range(1, batch.invoices + 1):
        trio.from_thread.check_cancelled()  # the server is being stopped: leave between invoices
        time.sleep(SECONDS_PER_INVOICE)  # what a database and a printer would take
        progress = {"done": done, "total": batch.invoices, "message": f"invoice {1000 + done}"}
        port.broadcast_to_topic(batch.topic, "data", progress)
    port.broadcast_to_topic(batch.topic, "batch_finished", {"batch_id": batch.batch_id})


async def run_batches(orders: trio.MemoryReceiveChannel[Batch], supervisor: Supervisor) -> None:
    """Run one batch after the other."""
    async for batch in orders:
        await trio.to_thread.run_sync(bill, batch, supervisor.from_thread)


def make_app(orders: trio.MemorySendChannel[Batch]) -> App:
    """Return an app whose clients can order batches."""
    app = App()

    @app.on("start_batch")
    def start_batch(context: Context, message: Envelope) -> None:
        match message.data:
            case {"batch_id": int(batch_id), "invoices": int(invoices)} if invoices > 0:
                batch = Batch(batch_id, invoices)
            case _:
                text = "`start_batch` needs `data.batch_id` and `data.invoices`, whole numbers"
                raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        try:
            orders.send_nowait(batch)
        except trio.WouldBlock:
            text = "too many batches are waiting"
            raise RemoteProtocolError(text, ErrorCode.UNAVAILABLE) from None
        context.reply("batch_started", {"topic": batch.topic})

    return app


async def main(port: int = 8765) -> None:
    send_orders, orders = trio.open_memory_channel[Batch](MOST_WAITING)
    async with (
        open_supervisor(Settings(port=port), make_app(send_orders)) as supervisor,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(run_batches, orders, supervisor)
        await supervisor.serve_until_signal()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
