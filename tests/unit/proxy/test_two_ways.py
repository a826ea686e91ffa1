"""The short way and the long way are one behaviour.

The first time a head comes it goes the long way; the same bytes again go the short one, and in
two pieces always the long one. Both protocols run here on wires that only take notes.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

from hypothesis import example, given
from hypothesis import strategies as st

from lbctl.config import Balancing, Limits
from lbctl.model import Backend, Snapshot
from lbctl.proxy.downstream import Downstream
from lbctl.proxy.forwarder import Forwarder
from lbctl.proxy.upstream import Upstream
from tests.support.scripted import config

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN_ID = re.compile(rb"X-Request-Id: [0-9a-f]{16}-[0-9a-f]+")
_DATE = re.compile(rb"Date: [^\r]+GMT")


class Wire(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__(
            extra={
                "socket": Mock(getsockopt=Mock(return_value=0)),
                "peername": ("192.0.2.7", 50_000),
            }
        )
        self.sent = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    abort = close
    write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@dataclass(frozen=True)
class Outcome:
    """What everybody saw of one exchange."""

    backend_got: bytes
    client_got: bytes
    client_stays: bool
    backend_stays: bool
    codes: list[int]
    refused: dict[str, int]
    logged: list[tuple[Any, ...]]


class Worker:
    """A forwarder with one backend that is always connected."""

    def __init__(self, balancing: Balancing | None = None, limits: Limits | None = None) -> None:
        self.log = Mock()
        settings = config(balancing=balancing or Balancing(), limits=limits)
        self.forwarder = Forwarder(settings, access_log=self.log)
        backend = Backend("id-a", "a", "192.0.2.80")
        self.forwarder.apply(Snapshot(revision=1, generation=1, routes=(backend,)))
        self.pool = self.forwarder.pools["id-a"]

    def exchange(self, request: bytes, answer: bytes, *, cut: bool = False) -> Outcome:
        forwarder, pool = self.forwarder, self.pool
        pool.codes = [0] * 5
        forwarder.refused.clear()
        self.log.reset_mock()
        front, back = Wire(), Wire()
        downstream = forwarder.client()
        downstream.connection_made(front)
        upstream = Upstream(forwarder, pool)
        upstream.connection_made(back)
        pool.idle.clear()
        pool.idle.append(upstream)

        for part in _parts(request, cut):
            downstream.data_received(part)
        waiting = upstream.downstream is not None
        for part in _parts(answer, cut) if waiting else ():
            if not back.ended:
                upstream.data_received(part)
        outcome = Outcome(
            _OWN_ID.sub(b"", back.sent),
            _DATE.sub(b"", front.sent),
            client_stays=not front.ended,
            backend_stays=upstream in pool.idle,
            codes=pool.codes,
            refused=dict(forwarder.refused),
            logged=[call.args[0][5:7] + call.args[0][9:] for call in self.log.add.mock_calls],
        )
        downstream.connection_lost(None)
        assert pool.in_flight == 0
        return outcome


def _parts(data: bytes, cut: bool) -> Sequence[bytes]:
    middle = len(data) // 2
    return [part for part in (data[:middle], data[middle:]) if part] if cut else [data]


def compared(
    request: bytes,
    answer: bytes,
    balancing: Balancing | None = None,
    limits: Limits | None = None,
) -> Outcome:
    async def run() -> list[Outcome]:
        first, second = Worker(balancing, limits), Worker(balancing, limits)
        try:
            return [
                first.exchange(request, answer),
                first.exchange(request, answer),
                first.exchange(request, answer),
                second.exchange(request, answer, cut=True),
                second.exchange(request, answer),
                second.exchange(request, answer, cut=True),
            ]
        finally:
            first.forwarder.close()
            second.forwarder.close()

    outcomes = asyncio.run(run())
    for outcome in outcomes[1:]:
        assert outcome == outcomes[0]
    return outcomes[0]


_REQUEST_NAMES = st.sampled_from(
    ["Accept", "Cookie", "X-Y", "x_y", "Range", "Connection", "Keep-Alive", "TE", "Upgrade", "Via",
     "X-Forwarded-For", "Forwarded", "X-Request-Id", "Proxy", "Max-Forwards", "Content-Length",
     "Expect", "Transfer-Encoding", "Host"]
)  # fmt: skip
_ANSWER_NAMES = st.sampled_from(
    ["Date", "ETag", "Connection", "Keep-Alive", "Transfer-Encoding", "Server", "Upgrade"]
)
_VALUES = st.sampled_from(
    ["", "0", "2", "a", "close", "keep-alive", "Keep-Alive", "x-y, te", "upgrade", "chunked", '"q"']
)
_METHODS = st.sampled_from(["GET", "HEAD", "DELETE", "OPTIONS", "POST", "get", "CONNECT"])
_VERSIONS = st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"])
_STATUS = st.sampled_from([100, 101, 200, 204, 206, 304, 404, 500])
_BODIES = st.sampled_from([b"", b"ok", b"okay", b"0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n"])


def _head(start: str, fields: list[tuple[str, str]]) -> bytes:
    return "".join([start, "\r\n", *(f"{k}: {v}\r\n" for k, v in fields), "\r\n"]).encode()


_REQUESTS = st.builds(
    lambda method, version, fields, body: (
        _head(f"{method} /x HTTP/{version}", [("Host", "site"), *fields]) + body
    ),
    _METHODS, _VERSIONS, st.lists(st.tuples(_REQUEST_NAMES, _VALUES), max_size=2), _BODIES,
)  # fmt: skip
_ANSWERS = st.builds(
    lambda status, version, length, fields, body: (
        _head(f"HTTP/{version} {status} Fine", [*length, *fields]) + body
    ),
    _STATUS, st.sampled_from(["1.1", "1.1", "1.0"]),
    st.sampled_from([[("Content-Length", "2")], [("Content-Length", "2")], []]),
    st.lists(st.tuples(_ANSWER_NAMES, _VALUES), max_size=2), _BODIES,
)  # fmt: skip

PLAIN = b"GET /x HTTP/1.1\r\nHost: site\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"


@given(_REQUESTS, _ANSWERS)
@example(PLAIN, WHOLE)
@example(PLAIN, WHOLE + b"more")
@example(PLAIN.replace(b"GET", b"HEAD"), WHOLE)
@example(PLAIN + PLAIN, WHOLE)
def test_the_same_bytes_have_the_same_outcome_whichever_way_they_go(
    request_bytes: bytes, answer: bytes
) -> None:
    compared(request_bytes, answer)


@given(_REQUESTS, _ANSWERS)
@example(PLAIN, WHOLE)
@example(PLAIN + PLAIN, WHOLE)
def test_limits_that_nobody_reaches_change_nothing(request_bytes: bytes, answer: bytes) -> None:
    limits = Limits(rate_limit=1e6, rate_burst=10**6, deny_networks="198.51.100.0/24")
    with_limits = compared(request_bytes, answer, limits=limits)
    assert with_limits == compared(request_bytes, answer)


@given(st.lists(st.tuples(_ANSWER_NAMES, _VALUES), max_size=2), _STATUS)
def test_an_answer_to_head_never_serves_a_get_or_the_other_way_round(
    fields: list[tuple[str, str]], status: int
) -> None:
    head = _head(f"HTTP/1.1 {status} Fine", [("Content-Length", "2"), *fields])
    get = PLAIN, head + b"ok"
    asked_for_head = PLAIN.replace(b"GET", b"HEAD"), head

    async def run(*exchanges: tuple[bytes, bytes]) -> list[Outcome]:
        worker = Worker()
        try:
            return [worker.exchange(*one) for one in exchanges]
        finally:
            worker.forwarder.close()

    one, other = asyncio.run(run(get, asked_for_head)), asyncio.run(run(asked_for_head, get))
    assert one == other[::-1]


def test_a_whole_answer_does_go_the_short_way_the_second_time() -> None:
    async def run() -> list[int]:
        worker = Worker()
        counts = []
        with patch.object(
            Downstream, "answered", autospec=True, side_effect=Downstream.answered
        ) as short:
            for cut in (False, False, False, True):
                worker.exchange(PLAIN, WHOLE, cut=cut)
                counts.append(short.call_count)
        worker.forwarder.close()
        return counts

    assert asyncio.run(run()) == [0, 1, 2, 2]


def test_where_answers_may_have_to_carry_a_cookie_none_does() -> None:
    outcome = compared(PLAIN, WHOLE, Balancing(sticky_cookie="lb"))
    assert outcome.client_got.count(b"Set-Cookie: lb=") == 1
