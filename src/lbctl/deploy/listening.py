"""Ports that somebody else has, found out before anything is made, and said in one line.

A port can be taken by a container of the same engine, by a program of this machine, or, on an
engine elsewhere, by one of that machine: then only the engine itself finds out.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import re
import socket
from typing import TYPE_CHECKING

from lbctl.core.text import printable
from lbctl.errors import OperationError, UsageError
from lbctl.runtime.containers import listed_name
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.deploy import Address
    from lbctl.runtime.containers import Json

_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})


def check_addresses(wanted: Mapping[str, Address]) -> None:
    """Refuse what can never be listened on; `wanted` is by the flag that sets its port.

    Raises UsageError for a host that is no IP address, and for one port wanted twice.
    """
    for address in wanted.values():
        try:
            ipaddress.ip_address(address.host or "0.0.0.0")
        except ValueError:
            raise UsageError(f"{address.host!r} is not an IP address to listen on") from None
    for (flag, first), (other_flag, second) in itertools.combinations(wanted.items(), 2):
        if _overlap(first, second.host, second.port):
            raise UsageError(f"{flag} and {other_flag} are both {first.port}")


def refuse_published(wanted: Mapping[str, Address], containers: Sequence[Json]) -> None:
    """Raise OperationError where one of `containers` (the engine's list) has a wanted port."""
    for flag, address in wanted.items():
        for container in containers:
            for port in container.get("Ports") or ():
                same = _overlap(address, port.get("IP", ""), port.get("PublicPort", 0))
                if same and port["Type"] == "tcp":
                    raise _taken(flag, address, f"container {listed_name(container)}")


def refuse_listened(wanted: Mapping[str, Address], *, by_engine: bool = True) -> None:
    """Raise OperationError where a program of this machine listens on a wanted port, and
    UsageError where this machine has no such address, or this user may not listen there. (An
    engine may: `by_engine` tells whether it is to listen.)
    """
    for flag, address in wanted.items():
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            # As dockerd's proxy does: connections that linger in TIME_WAIT are no hindrance.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((address.host, address.port))
                trial.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise _taken(flag, address, "another program") from None
                if error.errno == errno.EADDRNOTAVAIL:
                    raise _no_such_address(address.host) from None
                if not by_engine:
                    raise UsageError(
                        f"port {address.port}: this user may not listen there "
                        f"({error.strerror}); choose another with {flag}"
                    ) from None


@contextlib.contextmanager
def engine_finds_out(wanted: Mapping[str, Address]) -> Iterator[None]:
    """Put the engine's complaint about a port into the same words."""
    try:
        yield
    except EngineRefusedError as error:
        message = error.message
        if "cannot assign requested address" in message:
            raise _no_such_address(next(iter(wanted.values())).host) from error
        if "port is already allocated" in message or "address already in use" in message:
            for flag, address in wanted.items():
                if re.search(rf":{address.port}\b", message):
                    raise _taken(flag, address, "another program") from error
        raise


def _overlap(wanted: Address, host: str, port: int) -> bool:
    same_host = wanted.host == host or wanted.host in _EVERYWHERE or host in _EVERYWHERE
    return wanted.port == port and same_host


def _taken(flag: str, address: Address, by: str) -> OperationError:
    return OperationError(f"port {address.port} is in use by {by}; choose another with {flag}")


def _no_such_address(host: str) -> UsageError:
    return UsageError(f"this machine has no address {printable(host, 60)} to listen on")
