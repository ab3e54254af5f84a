"""By which names clients may call a server.

A web page can give its own name the address of this machine (DNS rebinding) and then talk to a server without keys as
if it were the page's own. It cannot change the Host header, so names that nobody has listed are refused.
"""

import ipaddress
import socket
from collections.abc import Callable, Collection

ANY = "*"


def host_rule(allowed: Collection[str], *, has_keys: bool) -> Callable[[str], bool]:
    """Whether a Host header is one of ours.

    Args:
        allowed: names without ports, ``*`` for any; empty for the default: with keys any, without them addresses,
            localhost and this machine's names.
    """
    if ANY in allowed or (has_keys and not allowed):
        return lambda header: bool(name_of(header))
    names = {name.lower() for name in allowed}
    if not allowed:
        names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    is_open = not allowed

    def is_ours(header: str) -> bool:
        name = name_of(header)
        return name in names or (is_open and (_is_address(name) or name.endswith(".localhost")))

    return is_ours


def name_of(header: str) -> str:
    """The name in a Host header, in small letters and without the port; empty for one that is malformed."""
    text = header.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or _is_port(port)) and _is_address(name) else ""
    name, colon, port = text.partition(":")
    if colon and not _is_port(colon + port):
        return ""
    return name if name and all(one.isalnum() or one in "-._" for one in name) else ""


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isdecimal() and len(text) <= 6


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
