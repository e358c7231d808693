"""Host names that the demo's server accepts.

With DNS rebinding a web site lets its own name resolve to this machine, so that the browser treats the demo as part
of that site. Therefore a request must use a configured name. Numeric addresses cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from vplface.errors import UsageError

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Hosts:
    """Accepted host names and addresses.

    Attributes:
        names: in lower case, without a trailing dot; addresses in their shortest form.
        numeric: whether every numeric address is accepted too.
    """

    names: frozenset[str]
    numeric: bool

    def __contains__(self, name: object) -> bool:
        return name in self.names or (self.numeric and numeric_address(str(name)) is not None)


def parse_authority(text: str) -> tuple[str, str] | None:
    """Name and port of ``HOST`` or ``HOST:PORT``; the port is empty if missing. None for any other text.

    The name is in lower case, without a trailing dot; an address is in its shortest form, without brackets.
    """
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    name, port = match[1], match[2] or ""
    if name.startswith("["):
        address = numeric_address(name[1:-1])
        return None if address is None else (str(address), port)
    return name.removesuffix("."), port


def parse_host_name(text: str) -> str:
    """Host name as :func:`parse_authority` returns it; raises UsageError for any other text."""
    try:
        match = parse_authority(text.encode("idna").decode())
    except UnicodeError:
        match = None
    if match is None or match[1]:
        raise UsageError(f"--name {text}: expected a host name without a port, e.g. --name box.example.org")
    return match[0]


def numeric_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse a numeric IP address; None for any other text."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
