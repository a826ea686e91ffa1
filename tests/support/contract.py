"""What a backend serves, as checks that hold for an nginx process and for a container."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from base64 import b64encode
from email.utils import formatdate
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled
from tests.support.nginx import Answer, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

MEBIBYTE = 1 << 20
LIST = b"10.0.0.1\n10.0.0.2\n"
DOCUMENT = json.dumps({"generation": 7, "updated_at": "2026-11-22T10:00:00.123Z", "backends": []})


class Backend:
    """One backend under test, by its address and the token that opens its admin port."""

    def __init__(self, ip: str, token: str) -> None:
        self.ip = ip
        self.token = token

    def get(self, target: str, fields: Mapping[str, str] | None = None) -> Answer:
        return self.public("GET", target, fields)

    def public(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        return self._ask(8080, method, target, fields, body)

    def admin(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        authorization: str | None = None,
    ) -> Answer:
        """With the right token unless another `authorization` is given; "" sends none."""
        value = f"Bearer {self.token}" if authorization is None else authorization
        return self._ask(9000, method, target, {"Authorization": value} if value else {}, body)

    def put(self, body: bytes, target: str = "/ips.txt") -> Answer:
        return self.admin("PUT", target, body)

    def _ask(
        self,
        port: int,
        method: str,
        target: str,
        fields: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Answer:
        answer = ask(self.ip, port, method, target, fields=fields, body=body)
        assert answer.fields["x-served-by"] == self.ip, (method, target, answer)
        assert answer.fields["cache-control"] == "no-store"
        assert "etag" not in answer.fields
        assert "last-modified" not in answer.fields
        return answer


def check_blank(backend: Backend) -> None:
    """Before the first list."""
    assert backend.get("/ips.txt").body == b""
    assert json.loads(backend.get("/ips.json").body) == {
        "generation": 0,
        "updated_at": None,
        "backends": [],
    }
    assert backend.get("/healthz").status == 200


def check_public(backend: Backend) -> None:
    """Every path, the negotiation, and what is refused."""
    assert backend.put(LIST).status == 204
    assert backend.put(DOCUMENT.encode(), "/ips.json").status == 204

    text = backend.get("/ips.txt")
    assert (text.status, text.body) == (200, LIST)
    assert text.fields["content-type"] == "text/plain; charset=utf-8"
    document = backend.get("/ips.json")
    assert (document.status, document.body) == (200, DOCUMENT.encode())
    assert document.fields["content-type"] == "application/json"
    assert backend.public("HEAD", "/ips.txt").fields["content-length"] == str(len(LIST))

    for accept in ("*/*", "", "application/json"):
        front = backend.get("/", {"Accept": accept})
        assert (front.status, front.body) == (200, LIST)
        assert front.fields["vary"] == "Accept"
    page = backend.get("/", {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.status == 200
    assert page.fields["content-type"] == "text/html; charset=utf-8"
    check_page(page)

    for target in (
        "/index.html", "/nginx.conf", "/tmp/", "/www/ips.txt", "/ips", "/IPS.TXT", "/..", "/%00",
        "/stub_status",
    ):  # fmt: skip
        assert backend.get(target).status in (400, 404), target
    for method in ("PUT", "POST", "DELETE", "MKCOL", "OPTIONS", "PATCH"):
        for target in ("/", "/ips.txt", "/healthz", "/nothing"):
            refused = backend.public(method, target, body=b"x")
            assert refused.status == 405
            assert refused.fields["allow"] == "GET, HEAD"
    assert backend.get("/ips.txt").body == LIST


def check_page(page: Answer) -> None:
    """The page loads nothing from elsewhere, and its policy names exactly its own parts."""
    policy = page.fields["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    markup = page.body.decode()
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", markup, re.DOTALL)
        digest = b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy, f"the hash of <{tag}> is {digest}"
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write", markup)


def check_never_stale(backend: Backend) -> None:
    """A condition or a range never brings less than the present list."""
    assert backend.put(LIST).status == 204
    future = formatdate(4_102_444_800, usegmt=True)
    for fields in (
        {"If-Modified-Since": future},
        {"If-None-Match": '"5f0-12"'},
        {"If-None-Match": 'W/"5f0-12"', "If-Modified-Since": future},
        {"Range": "bytes=0-3"},
        {"Range": "bytes=0-3", "If-Range": future},
    ):
        for target in ("/", "/ips.txt"):
            answer = backend.get(target, fields)
            assert (answer.status, answer.body) == (200, LIST), fields


def check_every_status_is_signed(backend: Backend) -> None:
    """Answers nginx makes on its own, before it has understood the request, say who answers."""
    for request, status in (
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", b"505"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", b"400"),
    ):
        with socket.create_connection((backend.ip, 8080), timeout=scaled(5)) as connection:
            connection.sendall(request)
            head = connection.recv(65_536).partition(b"\r\n\r\n")[0]
        assert head.split()[1] == status
        assert f"X-Served-By: {backend.ip}".encode() in head


def check_admin(backend: Backend) -> None:
    """401, 405, 413 and 404, and the list as it was after each of them."""
    assert backend.put(LIST).status == 204
    key, _, fingerprint = backend.token.partition(".")
    wrong = "0" * 64 if key != "0" * 64 else "1" * 64
    strangers = (
        "",
        f"Bearer {wrong}",
        f"Basic {backend.token}",
        f"bearer {backend.token}",
        f"Bearer  {backend.token}",
        f"Bearer {backend.token}0",
        f"Bearer {backend.token[:-1]}",
        f"Bearer {key.upper()}.{fingerprint}" if key.upper() != key else "Bearer",
        f"Bearer {wrong}.{fingerprint}",
        f"Bearer {key}",
        f"Bearer {key}.",
        f"Bearer .{fingerprint}",
        f"Bearer {fingerprint}.{key}",
        f"Bearer {backend.token}/",
        "Bearer .",
        "Bearer ../tokens/" + backend.token,
        "Bearer",
    )
    for authorization in strangers:
        for method, target in (
            ("PUT", "/ips.txt"), ("GET", "/ips.txt"), ("DELETE", "/ips.txt"), ("PUT", "/nothing"),
            ("POST", "/stub_status"), ("GET", "/stub_status/"), ("GET", "/stub_status.txt"),
        ):  # fmt: skip
            refused = backend.admin(method, target, b"x", authorization)
            assert refused.status == 401, (authorization, method, target)
            assert refused.fields["www-authenticate"] == "Bearer"
    # Too large and no token: nothing is said about the size.
    assert backend.admin("PUT", "/ips.txt", bytes(MEBIBYTE + 1), "").status == 401

    for method in ("GET", "HEAD", "POST", "DELETE", "MKCOL", "COPY", "MOVE", "PATCH", "OPTIONS"):
        refused = backend.admin(method, "/ips.txt")
        assert refused.status == 405, method
        assert refused.fields["allow"] == "PUT"
    for target in ("/", "/index.html", "/ips.txt/", "//ips.txt", "/x/ips.txt", "/stub_status"):
        assert backend.admin("PUT", target, b"x").status == 404, target
    assert backend.put(bytes(MEBIBYTE + 1)).status == 413
    assert backend.get("/ips.txt").body == LIST

    largest = bytes(MEBIBYTE)
    assert backend.put(largest).status == 204
    assert backend.get("/ips.txt").body == largest
    assert backend.put(b"").status == 204
    assert backend.get("/ips.txt").body == b""

    status = backend.admin("GET", "/stub_status", authorization="")
    assert status.status == 200
    assert status.body.startswith(b"Active connections: ")


def check_cut_off_write(backend: Backend) -> None:
    """A list whose writer goes away half way is no list."""
    assert backend.put(LIST).status == 204
    with socket.create_connection((backend.ip, 9000), timeout=scaled(5)) as connection:
        head = (
            f"PUT /ips.txt HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {backend.token}\r\n"
            "Content-Length: 100\r\n\r\n"
        )
        connection.sendall(head.encode() + b"10.9.9.9\n")
        # The end of what is sent, and then wait until nginx has given up too.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert backend.get("/ips.txt").body == LIST
