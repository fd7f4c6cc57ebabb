"""Who may connect: which pages, who without a key, and who counts as one caller."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit


def origin_allowed(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """Tell whether a page may connect. Programs send no origin; browsers always do.

    Args:
        origin: the page's, as its browser says.
        host: the server's name in the request.
        allowed: origins beside the server's own.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    try:
        return host is not None and urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def is_loopback(name: str | None) -> bool:
    """Tell whether an address, or a `Host` header with its port, is this machine itself.

    Also asked of the `Host`: a page elsewhere can give its own name this machine's address.
    """
    if not name:
        return False
    try:
        host = name if name.count(":") > 1 and not name.startswith("[") else None
        host = host or urlsplit(f"//{name}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def neighbourhood(address: str | None) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)
