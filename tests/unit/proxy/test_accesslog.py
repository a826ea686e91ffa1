"""The access log: one line of JSON a request, whatever the request says."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.http1 import Request, parse_request
from lbctl.errors import ProtocolError
from lbctl.model import Backend
from lbctl.proxy.accesslog import AccessLog


def logged(request: Request | None, backend: Backend | None = None) -> str:
    texts: list[str] = []
    log = AccessLog(texts.append)
    log.add("192.0.2.7", request, 200, 45, 0.0012, backend)
    log.flush()
    log.flush()
    (text,) = texts
    return text


@given(st.binary(), st.binary(), st.text())
def test_no_method_target_or_name_can_forge_a_line(method: bytes, target: bytes, name: str) -> None:
    request = Request(b"", method, target, 1, b"host")
    text = logged(request, Backend(id="x", name=name, ip="10.0.0.1"))
    assert text.count("\n") == 1
    assert text.endswith("}\n")
    assert text[:-1].isprintable()
    row = json.loads(text)
    assert list(row) == [
        "time", "log", "client", "method", "target", "status", "bytes", "duration_ms", "backend",
    ]  # fmt: skip
    assert row["method"].encode("latin-1") == method
    assert row["target"].encode("latin-1") == target
    assert row["backend"] == name


@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=40))
def test_a_target_that_was_accepted_is_logged_as_it_was_sent(target: str) -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % target.encode("latin-1")
    try:
        request = parse_request(head, 100)
    except ProtocolError:
        return
    assert json.loads(logged(request))["target"] == f"/{target}"


def test_a_line_is_what_it_says() -> None:
    request = parse_request(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", 100)
    row = json.loads(logged(request, Backend(id="x", name="p-backend-1", ip="10.0.0.1")))
    assert row.pop("time").endswith("Z")
    assert row == {
        "log": "access", "client": "192.0.2.7", "method": "GET", "target": "/x", "status": 200,
        "bytes": 45, "duration_ms": 1.2, "backend": "p-backend-1",
    }  # fmt: skip


def test_lines_are_written_in_batches() -> None:
    texts: list[str] = []
    log = AccessLog(texts.append)
    for _ in range(1100):
        log.add("192.0.2.7", None, 400, 0, 0.0, None)
    assert [text.count("\n") for text in texts] == [512, 512]
    log.flush()
    assert texts[2].count("\n") == 76
