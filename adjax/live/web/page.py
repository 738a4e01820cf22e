"""The HTTP side: the page's files, and who may fetch them or open a connection."""

from __future__ import annotations

import ipaddress
import socket
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

AUDIO_PATH = "/audio"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/worklet.js": ("worklet.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@cache
def read_file(path: str) -> tuple[str, bytes] | None:
    """Content type and bytes of what is served at a path; None where nothing is."""
    if path not in _FILES:
        return None
    name, kind = _FILES[path]
    return kind, files("adjax.live.web").joinpath(name).read_bytes()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def refusal(bound: str, host_headers: list[str], origins: list[str] | None) -> str | None:
    """Why a request is not answered, or None.

    A page elsewhere can make a browser send requests here, but not choose their headers. By DNS rebinding it comes
    under a name of its own, so Host must be an address or a name of this machine. WebSockets may be opened across
    sites, so their Origin must be this very page; `origins` is None for other requests.
    """
    host = _host_name(host_headers[0]) if len(host_headers) == 1 else None
    if host is None:
        return "needs one valid Host header"
    address, loopback_only = _address(host), is_loopback(bound)
    if address is None:
        known = host in {"localhost", bound.lower()} or (not loopback_only and host == socket.gethostname().lower())
    else:
        known = address.is_loopback or not loopback_only
    if not known:
        return "is not served under this host name"
    wanted = {f"{scheme}://{host_headers[0].lower()}" for scheme in ("http", "https")}
    if origins is not None and (len(origins) != 1 or origins[0].lower() not in wanted):
        return "is only for the page that is served here (Origin header)"
    return None


def _host_name(authority: str) -> str | None:
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    plain = parts.netloc == authority and "@" not in authority and not authority.endswith(":")
    return parts.hostname if plain else None
