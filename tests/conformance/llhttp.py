"""The vectors of nodejs/llhttp against core/http1 and chunked: what one takes, does the other?

Every request and response of its test/request/*.md and test/response/*.md is read the way the
proxy reads a connection: message after message, bodies included. llhttp is a parser and no
server, so it asks for no Host; where one is all that is missing, it is added first. Vectors
that break off where llhttp has refused already are completed: here a head is judged as a whole.

    python -m tests.conformance.llhttp --checkout DIR [--all]

Fails if llhttp, in its strict mode, sees another number of messages, or refuses something that
is taken here and not listed in TAKEN_KNOWINGLY, with the reason.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from lbctl.core.chunked import ChunkedBody
from lbctl.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    head_end,
    parse_request,
    parse_response,
    without_empty_lines,
)
from lbctl.errors import ProtocolError
from tests.conformance import targets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIMIT_BYTES, _LIMIT_FIELDS = 32_768, 100

_VECTOR = re.compile(
    r'<!-- *meta=\{ *"type": *"(?P<type>[\w-]+)"(?P<more>[^}]*)\} *-->'
    r"\s*```http\n(?P<input>.*?)^```"
    r"(?:(?!```|<!--).)*^```log\n(?P<log>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]+)|([0-7]{1,3})|([rntf]))")
_LETTERS = {"r": "\r", "n": "\n", "t": "\t", "f": "\f"}
_ERROR = re.compile(r'error code=(\d+) reason="([^"]*)"')
_HOST = re.compile(rb"(?i)\r\nhost:").search
_AUTHORITY = re.compile(rb"[^ ]+ \w+://([^/? ]+)").match
_PAUSES = ("21", "22", "23")  # it stops and hands over, which is no refusal

_NO_LIST = "a method is any token (RFC 9110, section 9.1); the backend says which it knows"
TAKEN_KNOWINGLY = {
    "Data after `Connection: close`": "never read: the connection ends with the message before",
    "Invalid method for HTTP/x.x request": _NO_LIST,
    "Expected space after method": _NO_LIST,
}
"""By llhttp's reason for refusing: why it may be taken here."""


class Vector(NamedTuple):
    """One input of llhttp's, and what it says to it."""

    where: str
    kind: str  # request or response
    mode: str  # "" for strict, else what is not
    data: bytes
    refusal: str  # "" if it takes the whole of it
    messages: int  # that it has seen to their end


class Verdict(NamedTuple):
    """What core/http1 and core/chunked say to the same bytes."""

    messages: int  # taken whole; a body that ends with the connection has no end yet
    refusal: str  # "" if none
    incomplete: bool  # more bytes would be waited for


def _input(text: str) -> bytes:
    """The bytes that a vector's text stands for.

    A newline is CRLF, and none where it is escaped; then come the escapes of single bytes.
    """
    text = re.sub(r"\\\n", "", text.removesuffix("\n")).replace("\n", "\r\n")

    def byte(match: re.Match[str]) -> str:
        if match[3]:
            return _LETTERS[match[3]]
        return chr(int(match[1], 16) if match[1] else int(match[2], 8))

    return _ESCAPE.sub(byte, text).encode("utf-8")


def vectors(checkout: Path) -> Iterator[Vector]:
    """Every vector of the suite. Ends the driver rather than leave one out."""
    for kind in ("request", "response"):
        for path in sorted((checkout / "test" / kind).glob("*.md")):
            text = path.read_text(encoding="utf-8")
            matches = list(_VECTOR.finditer(text))
            if len(matches) != text.count("\n```http\n"):
                raise SystemExit(f"{path}: not every vector was understood")
            for match in matches:
                line = text.count("\n", 0, match.start()) + 1
                error = _ERROR.search(match["log"])
                refused = error is not None and error[1] not in _PAUSES
                mode = match["type"].removeprefix(kind).removeprefix("-").removeprefix("finish")
                if "skipBody" in match["more"]:
                    mode = "skip-body"
                yield Vector(
                    where=f"{kind}/{path.name}:{line}",
                    kind=kind,
                    mode=mode,
                    data=_input(match["input"]),
                    refusal=error[2] if error and refused else "",
                    messages=match["log"].count(" message complete"),
                )


def read(kind: str, data: bytes) -> Verdict:
    """Reads a connection's bytes, message after message."""
    messages = 0
    try:
        while data := without_empty_lines(data):
            end = head_end(data, _LIMIT_BYTES)
            if not end:
                return Verdict(messages, "", incomplete=True)
            length, last = _head(kind, data[:end])
            rest = _after_body(data[end:], length)
            if rest is None:
                return Verdict(messages, "", incomplete=True)
            data = rest
            messages += length != UNTIL_CLOSE
            if last:
                break
    except ProtocolError as error:
        return Verdict(messages, f"{error.status} {error.reason}", incomplete=False)
    return Verdict(messages, "", incomplete=False)


def _head(kind: str, raw: bytes) -> tuple[int, bool]:
    """The body's length, and whether nothing that follows will be read as a message."""
    if kind == "response":
        response = parse_response(raw, b"GET", _LIMIT_FIELDS)
        return response.length, response.status == 101 or not response.keep_alive
    try:
        request = parse_request(raw, _LIMIT_FIELDS)
    except ProtocolError as error:
        if error.reason != "host" or _HOST(raw):
            raise
        authority = _AUTHORITY(raw)
        host = authority[1] if authority else b"a"
        line = raw.index(b"\r\n") + 2
        request = parse_request(raw[:line] + b"Host: %b\r\n" % host + raw[line:], _LIMIT_FIELDS)
    return request.length, not request.keep_alive


def _after_body(data: bytes, length: int) -> bytes | None:
    """What follows the message; None if its body is not complete."""
    if length == UNTIL_CLOSE:
        return b""
    if length == CHUNKED:
        chunks = ChunkedBody(400, _LIMIT_BYTES)
        chunks.feed(data)
        return chunks.rest if chunks.done else None
    return data[length:] if len(data) >= length else None


def judged(vector: Vector) -> Verdict:
    verdict = read(vector.kind, vector.data)
    if (vector.refusal or vector.mode) and verdict.incomplete:
        verdict = read(vector.kind, vector.data + b"\r\n\r\n")
    return verdict


def show(title: str, rows: list[tuple[Vector, Verdict]]) -> None:
    print(f"\n{title}: {len(rows)}")
    for vector, verdict in rows:
        ours = verdict.refusal or ("waits for more" if verdict.incomplete else "taken")
        theirs = vector.refusal or "taken"
        mode = f" ({vector.mode})" if vector.mode else ""
        print(f"  {vector.where}{mode}: llhttp: {theirs}; here: {ours}")
        print(f"      {vector.data[:160]!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=targets.existing, required=True, help="where llhttp is")
    parser.add_argument("--all", action="store_true", help="also show what is only stricter here")
    options = parser.parse_args()
    found = [(vector, judged(vector)) for vector in vectors(options.checkout)]
    if not found:
        parser.error(f"no vectors in {options.checkout}")
    strict = [row for row in found if not row[0].mode]
    both = [row for row in strict if bool(row[0].refusal) == bool(row[1].refusal)]
    laxer = [row for row in strict if row[0].refusal and not row[1].refusal]
    stricter = [row for row in strict if not row[0].refusal and row[1].refusal]
    split = [row for row in both if not row[0].refusal and row[0].messages != row[1].messages]
    lenient = [row for row in found if row[0].mode and not row[1].refusal]
    dangerous = [row for row in laxer if row[0].refusal not in TAKEN_KNOWINGLY]
    print(f"{len(found)} vectors, {len(strict)} of them for llhttp's strict mode:")
    print(f"  {len(both)} alike, {len(laxer)} refused only by llhttp, {len(stricter)} only here")
    show("taken by both, but split into other messages", split)
    show("refused only by llhttp, and not known", dangerous)
    for reason, count in Counter(row[0].refusal for row in laxer if row not in dangerous).items():
        print(f"  known: {count} x {reason}: {TAKEN_KNOWINGLY[reason]}")
    show("for llhttp's other modes, and taken here", lenient)
    if options.all:
        show("refused only here", stricter)
    else:
        reasons = Counter(row[1].refusal for row in stricter)
        print(f"\nrefused only here: {', '.join(f'{n} x {one}' for one, n in reasons.items())}")
    return int(bool(dangerous or split))


if __name__ == "__main__":
    targets.entry(main)
