"""The variables that Kubernetes sets in every container for each Service, as Docker's links did.

For a Service named `moorage` they begin with `MOORAGE_`, as settings do: `MOORAGE_SERVICE_HOST`, or
`MOORAGE_PORT` with a URL as its value. Kubernetes describes them in "Service", section "Discovering
services: environment variables".
"""

import re
from collections.abc import Mapping

_SERVICE_HOST = "_SERVICE_HOST"
_OF_A_SERVICE = re.compile(
    r"_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
_URL = re.compile(r"(tcp|udp|sctp)://")


def service_variables(environment: Mapping[str, str], prefix: str) -> frozenset[str]:
    """Return the variables with that prefix that describe Services, and so are no settings.

    Only a Service has both its `…_SERVICE_HOST` and `…_SERVICE_PORT`, so a misspelt setting is not
    taken for one. `…_PORT`, which could be a setting, counts only if a URL is its value.
    """
    stems = {
        name.removesuffix(_SERVICE_HOST)
        for name in environment
        if name.startswith(prefix) and name.endswith(_SERVICE_HOST)
    }
    return frozenset(
        name
        for stem in stems
        if f"{stem}_SERVICE_PORT" in environment
        for name, value in environment.items()
        if name.startswith(stem)
        and _OF_A_SERVICE.fullmatch(name, len(stem))
        and (name != f"{stem}_PORT" or _URL.match(value))
    )
