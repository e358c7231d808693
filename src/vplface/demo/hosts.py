"""The names under which the page's server may be asked for.

A web site can have its own name resolve to this machine (DNS rebinding); the browser then takes the page for a page of
that site. So a request must use a name that the server was given. A numeric address cannot be made to lead elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from vplface.errors import UsageError

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Hosts:
    """Names and addresses.

    Attributes:
        names: in lower case, without a dot at the end, addresses in their shortest form.
        numeric: whether any numeric address will do, too.
    """

    names: frozenset[str]
    numeric: bool

    def __contains__(self, name: object) -> bool:
        return name in self.names or (self.numeric and numeric_address(str(name)) is not None)


def authority(text: str) -> tuple[str, str] | None:
    """Name and port (empty if there is none) of ``HOST`` or ``HOST:PORT``; None for anything else.

    The name is in lower case, without a dot at the end; an address is in its shortest form, without brackets.
    """
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    name, port = found[1], found[2] or ""
    if name.startswith("["):
        address = numeric_address(name[1:-1])
        return None if address is None else (str(address), port)
    return name.removesuffix("."), port


def named(text: str) -> str:
    """A host's name as :func:`authority` gives it; raises UsageError for anything else."""
    try:
        found = authority(text.encode("idna").decode())
    except UnicodeError:
        found = None
    if found is None or found[1]:
        raise UsageError(f"--name {text}: expected the name of a host, without a port, e.g. --name box.example.org")
    return found[0]


def numeric_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A numeric address; None for anything else."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
