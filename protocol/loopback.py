"""The check of browsers' pages, and what belongs to this machine alone.

A browser says in `Origin` which site a request's page is from, and in `Host` which server the page
believes to talk to. A page cannot choose either. An attacker's page can still have this machine's
address behind its own host name (DNS rebinding); then `Host` tells.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set as AbstractSet
from typing import Final

LOOPBACK: Final = "loopback"
"""Stands among origins for all those of this machine, with any port."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens on that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def page_problem(origin: str | None, allowed: AbstractSet[str] | None) -> str | None:
    """Return why pages of an origin may not use a server; None if they may.

    `allowed` are origins in lower case, `LOOPBACK` among them or not; None: all. Programs send no
    `Origin`, and are not concerned.
    """
    if origin is None or allowed is None or origin.lower() in allowed - {LOOPBACK}:
        return None
    scheme, _, rest = origin.lower().partition("://")
    if LOOPBACK in allowed and scheme in ("http", "https") and is_loopback(_without_port(rest)):
        return None
    return f"pages of {origin[:255]!r} may not use this server; `allowed_origins` can name them"


def host_problem(host: str | None, allowed: AbstractSet[str] | None) -> str | None:
    """Return why a server may not be addressed by that `Host`; None if it may.

    Where pages of this machine are allowed by `LOOPBACK`, it has to name this machine, or the host
    of another origin that is allowed. No browser leaves it out; probes over HTTP/1.0 do.
    """
    if host is None or allowed is None or LOOPBACK not in allowed:
        return None
    name = _without_port(host.lower())
    if is_loopback(name):
        return None
    if name in {_without_port(one.partition("://")[2]) for one in allowed} - {""}:
        return None
    return (
        f"this server is for this machine only, and `Host: {host[:255]}` does not name it; "
        "use localhost, or let `allowed_origins` name the origin of that host"
    )


def _without_port(text: str) -> str:
    """Return the host of `host`, `host:port` or `[address]:port`; nothing for other forms."""
    if text.startswith("["):
        address, closed, port = text[1:].partition("]")
        return address if closed and _is_port(port) else ""
    host = text.partition(":")[0]
    return host if _is_port(text[len(host) :]) else ""


def _is_port(text: str) -> bool:
    return text == "" or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit())
