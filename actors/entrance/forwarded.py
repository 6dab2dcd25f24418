"""The address of a client that connects through proxies, and the source that it stands for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import attrs

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen
class TrustedProxies:
    """The networks of the proxies that are believed when they name their clients' addresses."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, networks: Iterable[str]) -> TrustedProxies:
        """Read networks such as `10.0.0.0/8`; ValueError if one is not a network."""
        return cls(tuple(ipaddress.ip_network(text, strict=False) for text in networks))

    def client_address(self, peer: str, forwarded_for: str) -> str:
        """Return the client's address, given the socket's peer and `X-Forwarded-For`.

        Each proxy appends the address of its own client. So the list is read from its end, for as
        long as trusted proxies have written it; any client can make up the entries before those.
        """
        if not self.networks or not self._trusts(peer):
            return peer
        client = peer
        for entry in reversed(forwarded_for.split(",")):
            address = entry.strip()
            if not _is_address(address):
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: str) -> bool:
        if not _is_address(address):
            return address == ""  # a Unix socket, which only processes of this machine can open
        parsed = ipaddress.ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self.networks)


def source_of(address: str) -> str:
    """Return the source that an address stands for: for IPv6 its /64, else the address itself.

    One customer of a network has a whole /64, and so as many addresses as it likes (RFC 6177).
    What is no IP address, such as the name of a process at a Unix socket, stands for itself.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
