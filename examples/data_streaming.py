"""Data in real time: a spectrum, fifty times a second, for viewers some of which are too slow.

Run it, and start a viewer:

    python examples/data_streaming.py
    moorage connect ws://127.0.0.1:8765/ws --topic spectrum.antenna_1 --json | cut -c -120

Then stop the viewer with Ctrl-Z, wait some twenty seconds, and let it go on with `fg`. It prints
the frames that were already in the kernel's buffers, then a `gap` that says how many it missed, and
then current frames.

This example shows:

* A mailbox has a limit in bytes, and the topic's rule says what happens to a subscriber whose
  mailbox is full. By default it is disconnected, and its client reconnects: that fits messages
  whose loss must be noticed. With `latest`, only the newest message of the topic waits for it: that
  fits data of which only the present counts. (`drop_oldest` keeps as many of the newest as fit.)
* With `latest`, old messages are dropped as soon as the subscriber's socket takes no more, long
  before the mailbox is full. What is in the kernel's buffers on both sides, a few MB, is still
  delivered.
* With any policy, a viewer whose socket takes nothing at all for `write_timeout` is closed, and so
  is one that does not answer a heartbeat. Its client will reconnect.
* One task publishes for all viewers. It never waits for any of them, and each frame is encoded
  once, for any number of viewers.
"""

import math
import random
import sys

import trio

from moorage import App, Settings, Supervisor, TopicRule, open_supervisor

TOPIC = "spectrum.antenna_1"
BINS = 2000  # frequencies; each frame has about 12 KB
NOISE = [round(random.gauss(0, 1), 2) for _ in range(10_000)]


def spectrum(seconds: float) -> list[float]:
    """Return the power at each frequency: noise, and one carrier that drifts."""
    power = random.choices(NOISE, k=BINS)
    power[int(BINS * (0.5 + 0.4 * math.sin(seconds / 10)))] = 20.0
    return power


async def stream(supervisor: Supervisor, rate: int) -> None:
    """Publish a frame `rate` times a second, without falling behind."""
    frame = 0
    start = trio.current_time()
    while True:
        seconds = frame / rate
        data = {"frame": frame, "seconds": round(seconds, 3), "power": spectrum(seconds)}
        supervisor.broadcast_to_topic(TOPIC, "data", data)
        # Until the next frame is due: a pause of fixed length would add the time of each frame.
        frame += 1
        await trio.sleep_until(start + frame / rate)


async def main(port: int = 8765, rate: int = 50) -> None:
    settings = Settings(
        port=port,
        topics={"spectrum.*": TopicRule(overload="latest")},
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
