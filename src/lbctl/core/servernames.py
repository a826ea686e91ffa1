"""Which certificate a client gets: by the name it asks for (SNI; RFC 6066, section 3), matched as
it will match the certificate itself (RFC 6125, section 6.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.model import Certificate


class ServerNames:
    """The DNS names of several certificates.

    A name itself goes before a wildcard, which stands for exactly one label; of certificates that
    have the same name, the one that is first by its own name here has it.
    """

    def __init__(self, certificates: Iterable[Certificate]) -> None:
        self._exact: dict[str, str] = {}
        self._wild: dict[str, str] = {}  # by what follows the first label
        for certificate in sorted(certificates, key=lambda one: one.name):
            for name in certificate.names:
                label, _, rest = name.partition(".")
                if label == "*" and rest:
                    self._wild.setdefault(rest, certificate.name)
                elif name and "*" not in name:
                    self._exact.setdefault(name, certificate.name)

    def choose(self, asked: str) -> str | None:
        """The name of the certificate for a host; None if none of them is for it."""
        host = asked.lower().removesuffix(".")
        exact = self._exact.get(host)
        if exact is not None:
            return exact
        label, _, rest = host.partition(".")
        return self._wild.get(rest) if label else None
