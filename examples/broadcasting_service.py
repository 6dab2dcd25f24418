"""A service that sends messages to its users: to all, to all but one, or to a single one.

Run it; for each of three users it prints a command to run in another terminal:

    python examples/broadcasting_service.py

Then, in the terminal of `captain`, who is the admin, type:

    {"type": "announce", "id": 1, "data": {"message": "Lunch is ready."}}
    {"type": "notify", "id": 2, "data": {"user_id": "ann", "message": "Yours is getting cold."}}

This example shows:

* `broadcast_to_topic` and `send_to_user` are plain functions that cannot block, whatever the
  subscribers do: a slow one fills its own mailbox, and does not delay the others. Both return the
  number of connections that they address, which is no promise that each client has read it.
* `exclude` leaves connections out, by id; mostly the sender's.
* A user may have any number of connections; `send_to_user` reaches all of them.
* Tokens identify users. This program makes its own, to be complete in one file; in a real system
  the service where people log in makes them, and the server only has the key to verify them.
* Work that does not belong to one connection runs beside the server, in an ordinary task:
  `announce_uptime`.
"""

import secrets
import sys

import trio

from moorage import (
    App,
    Context,
    Envelope,
    ErrorCode,
    RemoteProtocolError,
    Session,
    Settings,
    Supervisor,
    mint_token,
    open_supervisor,
)

TOPIC = "announcements"
USERS = {"ann": None, "ben": None, "captain": "admin"}  # and their roles

app = App()


@app.endpoint("/ws/announcements", topics={TOPIC}, require_auth=True)
async def announcements(connection: Session) -> None:
    """Do nothing: this endpoint only subscribes everyone to the topic."""


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
    """Announce once a minute how long the server has been running."""
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
