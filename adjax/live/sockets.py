"""UDP sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adjax.errors import AdjaxError

SEND_TIMEOUT_S = 0.5
Address = Any  # what socket.recvfrom gives


@contextmanager
def udp_socket(host: str, port: int, bind: bool = False) -> Iterator[tuple[socket.socket, Address]]:
    """A UDP socket and the address of `host`, bound to it or for sending to it.

    Raises AdjaxError, which names the command line's option, for hosts that are not found and ports that are taken.
    """
    option = "--bind" if bind else "--host"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise AdjaxError(f"{option} {host}: {getattr(error, 'strerror', None) or error}") from None
    with sock:
        try:
            if bind:
                sock.bind(address)
        except OSError as error:
            raise AdjaxError(f"{option} {host}, --port {port}: {error.strerror or error}") from None
        yield sock, address
