"""What a backend of lbctl answers, whichever of them it is, and however many there are just now."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.support.strict import Answer

PAGE = "/ (page)"
"""The list as browsers get it, which is the largest file there is."""
ABSENT = "/absent"
TARGETS = ("/", "/ips.txt", "/ips.json", "/healthz", ABSENT)


class WrongAnswerError(Exception):
    """A whole answer, but not the one to this request."""


def get_bytes(target: str, *lines: str, method: str = "GET") -> bytes:
    """A request without a body."""
    path, _, page = target.partition(" ")
    accept = "Accept: text/html\r\n" if page else ""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\nHost: soak.test\r\n{accept}{more}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Site:
    """The backends' addresses lie in `network`; a list names `low` to `high` of them; the page
    is one of `pages`.
    """

    network: ipaddress.IPv4Network
    low: int
    high: int
    pages: frozenset[bytes]

    def check(self, target: str, answer: Answer) -> None:
        """Hold the answer to a GET against what this target has. Raises WrongAnswerError."""
        self.check_origin(answer, 404 if target == ABSENT else 200)
        if target == "/healthz":
            sound = answer.body == b"ok\n"
        elif target == PAGE:
            sound = answer.body in self.pages
        elif target == "/ips.json":
            sound = self._is_list(_addresses_of(answer.body))
        elif target == ABSENT:
            sound = b"404" in answer.body
        else:
            sound = self._is_list(answer.body.decode("latin-1").splitlines())
            sound = sound and answer.body.endswith(b"\n")
        if not sound:
            raise WrongAnswerError(f"to {target}: {answer}")

    def check_origin(self, answer: Answer, status: int) -> None:
        """Hold any answer of a backend against its status and its X-Served-By."""
        try:
            served_by = ipaddress.IPv4Address(answer.fields[b"x-served-by"].decode("latin-1"))
        except (KeyError, ValueError):
            raise WrongAnswerError(f"of no backend: {answer}") from None
        if answer.status != status or served_by not in self.network:
            raise WrongAnswerError(f"{answer}, of {served_by}; {status} was expected")

    def _is_list(self, lines: list[str]) -> bool:
        try:
            ips = [ipaddress.IPv4Address(line) for line in lines]
        except ValueError:
            return False
        return (
            self.low <= len(ips) <= self.high
            and ips == sorted(set(ips))
            and all(ip in self.network for ip in ips)
        )


def _addresses_of(body: bytes) -> list[str]:
    try:
        return [str(one["ip"]) for one in json.loads(body)["backends"]]
    except (ValueError, KeyError, TypeError):
        return []
