"""The exposures: what the settings leave open, which is convenient and can be abused.

`moorage config check` prints all of them. A server that other machines can reach logs those that
are `serious` when it starts.
"""

import attrs

from ...protocol.loopback import is_loopback
from .settings import Settings


@attrs.frozen
class Exposure:
    """Something that the settings leave open."""

    # The name of the setting that closes it.
    setting: str
    # What it means, and what would be safer.
    meaning: str
    # Whether strangers can abuse it: others than clients with a token, or who listens on the way.
    serious: bool = False


def exposures(settings: Settings) -> tuple[Exposure, ...]:
    """Return what the settings leave open, in the order of the settings."""
    found: list[Exposure] = []
    reachable = not is_loopback(settings.host)
    if settings.query_token:
        cleartext = reachable and settings.tls_certificate is None
        found.append(
            Exposure(
                "query_token",
                "tokens may stand in URLs, which proxies, browsers and their histories keep"
                + (", and here no TLS hides them on the way" if cleartext else "")
                + "; set it to false if your clients can send their token otherwise",
                serious=cleartext,
            )
        )
    # Without a key, `*` means the pages that this machine serves.
    if "*" in settings.allowed_origins and not settings.development:
        found.append(
            Exposure(
                "allowed_origins",
                "pages of every site may connect"
                + (", and need no token" if settings.anonymous else " with a token that they have")
                + "; name the origins of your own",
                serious=reachable and settings.anonymous,
            )
        )
    if "**" in settings.publish_patterns:
        found.append(
            Exposure(
                "publish_patterns",
                f"every client{_with_or_without_token(settings)} may publish to every topic for "
                "which no rule says `client_publish = false`, unless its token's `topics` narrow "
                "that; name the topics that clients may publish to",
                serious=reachable and settings.anonymous,
            )
        )
    return tuple(found)


def _with_or_without_token(settings: Settings) -> str:
    return ", with or without a token," if settings.anonymous else ""
