"""The access log: one line of JSON a request, whatever the request says."""

from __future__ import annotations

import json
import select

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.http1 import Request, parse_request
from lbctl.core.origin import Hop, Origin, networks
from lbctl.errors import ProtocolError
from lbctl.model import Backend
from lbctl.proxy.accesslog import AccessLog

ORIGIN = Origin(Hop("lbctl-1", "w-"), "192.0.2.7", "http")
BACKEND = Backend(id="x", name="p-backend-1", ip="10.0.0.1")


def add(
    log: AccessLog,
    request: Request | None,
    *,
    status: int = 200,
    origin: Origin = ORIGIN,
    backend: Backend | None = None,
    connect_s: float = 0.0,
    first_byte_s: float = 0.0,
    retries: int = 0,
) -> None:
    log.add(
        (1.0012, 1.0, origin, request, 42, status, 45, connect_s, first_byte_s, backend, retries)
    )


def logged(request: Request | None, origin: Origin = ORIGIN, backend: Backend = BACKEND) -> str:
    texts: list[str] = []
    log = AccessLog(texts.append)
    add(log, request, origin=origin, backend=backend)
    log.flush()
    log.flush()
    (text,) = texts
    return text


@given(st.binary(), st.binary(), st.text())
def test_no_method_target_or_name_can_forge_a_line(method: bytes, target: bytes, name: str) -> None:
    request = Request(b"", method, target, 1, b"host")
    text = logged(request, backend=Backend(id="x", name=name, ip="10.0.0.1"))
    assert text.count("\n") == 1
    assert text.endswith("}\n")
    assert text[:-1].isprintable()
    row = json.loads(text)
    assert list(row) == [
        "time", "log", "request_id", "client", "method", "target", "status", "bytes",
        "duration_ms", "connect_ms", "first_byte_ms", "backend", "retries", "tls",
    ]  # fmt: skip
    assert row["method"].encode("latin-1") == method
    assert row["target"].encode("latin-1") == target
    assert row["backend"] == name


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40))
def test_no_id_of_a_trusted_peer_can_either(given_id: str) -> None:
    trusting = Origin(Hop("lbctl-1", "w-", networks("192.0.2.0/24")), "192.0.2.7", "http")
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: %b\r\n\r\n" % given_id.encode()
    assert json.loads(logged(parse_request(head, 100), trusting))["request_id"] == given_id


@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=40))
def test_a_target_that_was_accepted_is_logged_as_it_was_sent(target: str) -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % target.encode("latin-1")
    try:
        request = parse_request(head, 100)
    except ProtocolError:
        return
    assert json.loads(logged(request))["target"] == f"/{target}"


@pytest.mark.parametrize("char", [b'"', b"\\", b"a"])
def test_the_longest_line_goes_into_a_pipe_in_one_piece(char: bytes) -> None:
    trusting = Origin(
        Hop("lbctl-1", "w-" + 8 * "f", networks("2001:db8::/32")), "2001:db8::1", "https", "TLSv1.3"
    )
    head = b"%b /%b HTTP/1.1\r\nHost: h\r\nX-Request-Id: %b\r\nX-Forwarded-For: %b\r\n\r\n" % (
        b"M" * 8_000,
        char * 8_000,
        char * 128,
        b":".join([b"ffff"] * 8),
    )
    texts: list[str] = []
    log = AccessLog(texts.append)
    for target in (None, b"/" + b"\xff" * 8_000):  # as it came, and the worst that could
        request = parse_request(head, 100)
        request.target = target or request.target
        backend = Backend(id="x", name="n" * 128, ip="10.0.0.1")  # the longest name there is
        log.add((1e9, 1.0, trusting, request, 2**63, 200, 10**18, 1e9, 1e9, backend, 99))
    log.flush()
    assert texts[0].count("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") == 2
    assert max(map(len, texts[0].encode().splitlines(keepends=True))) <= select.PIPE_BUF


def test_a_line_is_what_it_says() -> None:
    request = parse_request(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", 100)
    texts: list[str] = []
    log = AccessLog(texts.append)
    add(log, request, backend=BACKEND)
    add(log, request, backend=BACKEND, connect_s=0.0004, first_byte_s=0.0008, retries=1)
    add(log, request, status=503)
    log.flush()
    rows = [json.loads(line) for line in texts[0].splitlines()]
    assert all(row.pop("time").endswith("Z") for row in rows)
    whole = {
        "log": "access", "request_id": "w-2a", "client": "192.0.2.7", "method": "GET",
        "target": "/x", "status": 200, "bytes": 45, "duration_ms": 1.2, "connect_ms": 0.0,
        "first_byte_ms": 1.2, "backend": "p-backend-1", "retries": 0, "tls": None,
    }  # fmt: skip
    assert rows == [
        whole,  # an answer in one piece: its first byte came with its last
        whole | {"connect_ms": 0.4, "first_byte_ms": 0.8, "retries": 1},
        whole | {"status": 503, "connect_ms": None, "first_byte_ms": None, "backend": None},
    ]


def test_lines_are_written_in_batches() -> None:
    texts: list[str] = []
    log = AccessLog(texts.append)
    for _ in range(150):
        add(log, None, status=400)
    assert [text.count("\n") for text in texts] == [64, 64]
    log.flush()
    assert texts[2].count("\n") == 22


@pytest.mark.parametrize(("sample", "expected"), [(0.25, 100), (0.0, 0), (1.0, 400), (0.1, 40)])
def test_a_sample_is_that_share_and_every_error_of_the_server(sample: float, expected: int) -> None:
    texts: list[str] = []
    log = AccessLog(texts.append, sample)
    for turn in range(400):
        add(log, None, status=404)
        if turn % 100 == 0:
            add(log, None, status=502)
    log.flush()
    rows = [json.loads(line) for line in "".join(texts).splitlines()]
    assert sum(row["status"] == 502 for row in rows) == 4
    assert abs(sum(row["status"] == 404 for row in rows) - expected) <= 1
