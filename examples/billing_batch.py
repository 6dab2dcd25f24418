"""A billing batch with a progress bar: synchronous work in a thread, shown over WebSocket.

Run it, and in a second terminal ask for batch 42 and watch it:

    python examples/billing_batch.py
    echo '{"type": "start_batch", "id": 1, "data": {"batch_id": 42, "invoices": 200}}' |
        moorage connect ws://127.0.0.1:8765/ws --topic batch_progress_42 --listen

On a terminal, `moorage connect` shows a bar for every topic with messages of the type `progress`
that have `done` and `total`. In a third terminal, leave out the `echo`: both then show the same
bar.

This example shows:

* A batch goes on when the connection that ordered it ends. So the handler does not run the batch,
  since a handler is cancelled with its connection; it sends the order through a memory channel to a
  task of the program.
* The work is ordinary synchronous code, as most billing is. It runs in a thread, and reports
  through `supervisor.from_thread`, a `BlockingSupervisor`: its methods run those of the supervisor
  in the event loop, and wait for them.
* The channel has a limit, as every queue should: an order beyond it is refused with the code
  `unavailable`, which tells clients that they can try again later.
"""

import sys
import time

import attrs
import trio

from moorage import (
    App,
    BlockingSupervisor,
    Context,
    Envelope,
    ErrorCode,
    RemoteProtocolError,
    Settings,
    Supervisor,
    open_supervisor,
)

SECONDS_PER_INVOICE = 0.02
MOST_WAITING = 10  # batches


@attrs.frozen
class Batch:
    """An order to bill a number of invoices."""

    batch_id: int
    invoices: int

    @property
    def topic(self) -> str:
        """The topic of its progress."""
        return f"batch_progress_{self.batch_id}"


def bill(batch: Batch, supervisor: BlockingSupervisor) -> None:
    """Bill every invoice of a batch, in a thread."""
    for done in range(1, batch.invoices + 1):
        trio.from_thread.check_cancelled()  # where the server is stopped, between two invoices
        time.sleep(SECONDS_PER_INVOICE)  # the time that a database and a printer would take
        progress = {"done": done, "total": batch.invoices, "message": f"invoice {1000 + done}"}
        supervisor.broadcast_to_topic(batch.topic, "progress", progress)
    supervisor.broadcast_to_topic(batch.topic, "batch_finished", {"batch_id": batch.batch_id})


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
