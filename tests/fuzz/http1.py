"""Coverage-guided fuzzing of core/http1, chunked and forwarding with atheris (docs/testing.md).

    python -m tests.fuzz.http1 -max_total_time=60 [libFuzzer's options, or inputs]

The first byte of an input says what the rest is (a request, a response, chunks, or half a
head), and the second into pieces of which size it is cut, besides the whole and single bytes.
A run starts from well-formed messages and what earlier ones found of interest, in build/fuzz;
an input that breaks a check is written there as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lbctl.core"]):
    import lbctl.core.chunked
    import lbctl.core.forwarding
    import lbctl.core.http1
    import lbctl.core.origin  # noqa: F401

from tests.fuzz.checks import check_chunks, check_head_end, check_request, check_response
from tests.fuzz.readers import HEAD_LIMIT_BYTES

_FOUND = Path("build", "fuzz")
_DICTIONARY = Path(__file__).with_name("http1.dict")
_METHODS = (b"GET", b"HEAD")

_SEEDS = (
    b"\x00\x07GET /x?y HTTP/1.1\r\nHost: site\r\nAccept: */*\r\n\r\n",
    b"\x00\x07POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1",
    b"\x00\x07\r\nPUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;a="b"\r\nhello\r\n0\r\nX: y\r\n\r\n',
    b"\x00\x07GET /chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade, x-y\r\nUpgrade: websocket\r\n"
    b"X-Y: z\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x\r\nX-Request-Id: 1\r\n\r\n",
    b"\x00\x07OPTIONS * HTTP/1.0\r\nMax-Forwards: 3\r\nVia: 1.1 lbctl-1\r\nProxy: x\r\n\r\n",
    b"\x01\x07HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
    b"\x05\x07HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\x01\x07HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    b"\x01\x07HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nto the end",
    b"\x01\x07HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x01\x07HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
    b'\x02\x05a ; b = "c\\"d" ;e\r\n0123456789\r\n000\r\nDigest: x\r\n\r\ntail',
    b"\x03\x20GET / HTTP/1.1\r\nHost: h\r\n\r\n",
)


def test_one_input(data: bytes) -> None:
    """Called by atheris for each input."""
    if len(data) < 2:
        return
    kind, number, rest = data[0], data[1], data[2:]
    sizes = (1, 2 + number % 64)
    if kind % 4 == 0:
        check_request(rest, sizes)
    elif kind % 4 == 1:
        check_response(rest, _METHODS[kind // 4 % 2], sizes)
    elif kind % 4 == 2:
        check_chunks(rest, sizes, limit_bytes=8 + number)
    else:
        check_head_end(rest, limit_bytes=8 + number)


def main() -> None:
    given = sys.argv[1:]
    options = [f"-dict={_DICTIONARY}", f"-max_len={2 * HEAD_LIMIT_BYTES}"]
    options += [f"-artifact_prefix={_FOUND}/", *given]
    if all(one.startswith("-") for one in given):  # else: inputs to be tried once
        options.append(str(_corpus()))
    atheris.Setup([sys.argv[0], *options], test_one_input)
    atheris.Fuzz()


def _corpus() -> Path:
    corpus = _FOUND / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    return corpus


if __name__ == "__main__":
    main()
