"""Data in real time: a spectrum, fifty times a second, for viewers of whom some are too slow.

Run it and look:

    python examples/data_streaming.py
    moorage connect ws://127.0.0.1:8765/ws --topic spectrum.antenna_1 --json | cut -c -120

Then stop the viewer with Ctrl-Z, wait some twenty seconds, and let it go on with `fg`. You will see
the frames that the kernel had taken for it already, then a `gap` that says how many it missed, and
then the present.

What to see here:

* A mailbox is bounded in bytes, and the `overload` setting says what happens to a subscriber whose
  mailbox is full. By default it is disconnected, and comes back to a fresh start: right for what
  must not be missed unnoticed. With `latest`, only the newest message of the topic waits for it:
  right for a picture of the present. (`drop_oldest` keeps as many of the newest as fit.)
* With `latest`, what is old is dropped as soon as the subscriber's socket takes no more, long
  before the mailbox is full. What the kernels of both sides have taken, a few MB, cannot be taken
  back.
* Whatever the policy, a viewer whose socket takes nothing at all for `write_timeout` counts as
  gone, and so does one that does not answer a heartbeat. Its client will come back.
* One task publishes for all viewers. It never waits for any of them, and each frame is encoded
  once, however many there are.
"""

import math
import random
import sys

import trio

from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.supervisor import Supervisor, open_supervisor

TOPIC = "spectrum.antenna_1"
BINS = 2000  # frequencies; each frame has about 12 KB
NOISE = [round(random.gauss(0, 1), 2) for _ in range(10_000)]


def spectrum(seconds: float) -> list[float]:
    """Return the power at each frequency: noise, and one carrier that drifts."""
    power = random.choices(NOISE, k=BINS)
    power[int(BINS * (0.5 + 0.4 * math.sin(seconds / 10)))] = 20.0
    return power


async def stream(supervisor: Supervisor, rate: int) -> None:
    """Publish a frame `rate` times a second, and never fall behind."""
    frame = 0
    start = trio.current_time()
    while True:
        seconds = frame / rate
        data = {"frame": frame, "seconds": round(seconds, 3), "power": spectrum(seconds)}
        supervisor.broadcast_to_topic(TOPIC, "data", data)
        # The next frame's due time, not a pause: what one frame costs must not delay the next.
        frame += 1
        await trio.sleep_until(start + frame / rate)


async def main(port: int = 8765, rate: int = 50) -> None:
    settings = Settings(
        port=port,
        overload={"spectrum.*": "latest"},
        write_timeout=60.0,  # for the viewer that is stopped; see above
        publish_patterns=(),  # nobody but this program publishes
    )
    async with (
        open_supervisor(settings, App()) as supervisor,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream, supervisor, rate)
        await supervisor.serve_until_signal()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
