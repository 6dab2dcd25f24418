"""A service that tells its users things: all of them, all but one, or one alone.

Run it; it prints a line to paste into another terminal for each of three users:

    python examples/broadcasting_service.py

Then, as the admin, type:

    {"type": "announce", "id": 1, "data": {"message": "Lunch is ready."}}
    {"type": "notify", "id": 2, "data": {"user_id": "ann", "message": "Yours is getting cold."}}

What to see here:

* `broadcast_to_topic` and `send_to_user` are plain functions that cannot block, whatever the
  subscribers do: a slow one fills its own mailbox, and never holds up the others. Both return how
  many connections were addressed, which is not yet a promise that each has read it.
* `exclude` leaves connections out, by id; mostly the one that the message came from.
* A user may have any number of connections; `send_to_user` reaches all of them.
* Users are known by their tokens. This program mints its own, to be complete in one file; in
  earnest whoever logs people in does that, and the server only has the key to verify them.
* What is not about one connection runs beside the server, as an ordinary task: `announce_uptime`.
"""

import secrets
import sys

import trio

from moorage.actors.session.context import Context
from moorage.actors.session.session import Session
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import mint_token
from moorage.supervisor.supervisor import Supervisor, open_supervisor

TOPIC = "announcements"
USERS = {"ann": None, "ben": None, "captain": "admin"}  # and their roles

app = App()


@app.endpoint("/ws/announcements", topics={TOPIC}, require_auth=True)
async def announcements(connection: Session) -> None:
    """Do nothing: subscribing everyone to the topic is all that this endpoint is for."""


@app.on("announce")
def announce(context: Context, message: Envelope) -> None:
    check_admin(context)
    sender = context.connection.id
    count = context.broadcast_to_topic(TOPIC, "system_announcement", message.data, exclude={sender})
    context.reply("announced", {"recipients": count})


@app.on("notify")
def notify(context: Context, message: Envelope) -> None:
    check_admin(context)
    match message.data:
        case {"user_id": str(user_id), "message": str(text)}:
            count = context.send_to_user(user_id, "notification", {"message": text})
            context.reply("notified", {"recipients": count})
        case _:
            text = "`notify` needs `data.user_id` and `data.message`"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)


def check_admin(context: Context) -> None:
    if not context.identity.is_admin:
        raise RemoteProtocolError("this is for the admin", ErrorCode.FORBIDDEN)


async def announce_uptime(supervisor: Supervisor) -> None:
    """Announce something of the server's own, once a minute."""
    minutes = 0
    while True:
        await trio.sleep(60)
        minutes += 1
        supervisor.broadcast_to_topic(
            TOPIC, "system_announcement", {"message": f"Sailing for {minutes} min."}
        )


async def main(port: int = 8765) -> None:
    key = secrets.token_urlsafe(32)
    async with (
        open_supervisor(Settings(port=port, jwt_key=key), app) as supervisor,
        trio.open_nursery() as nursery,
    ):
        for user, role in USERS.items():
            token = mint_token(key, user=user, role=role, ttl=3600)
            print(f"moorage connect {supervisor.addresses[0]} --token {token}", flush=True)
        nursery.start_soon(announce_uptime, supervisor)
        await supervisor.serve_until_signal()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
