"""HTTP/1.x heads, read strictly (RFC 9112, RFC 9110); core/chunked.py reads bodies in chunks.

Rules of this module:

- A message that two parsers could read in two ways is refused, never repaired: ProtocolError,
  and the connection is closed. That holds for clients (400 ...) and for backends (502).
- A head is checked by one compiled expression over the whole block; a second one finds the
  fields that need thought. Possessive quantifiers keep both linear in the input.
- Most heads need no thought at all: `plain` says that their bytes may be passed on as they
  are. The others carry their fields.
- Line ends are CRLF only, field names are tokens, values hold no control characters, there is
  no obs-fold, no space before a colon. Empty lines before a head are skipped (section 2.2).
- What a body is follows section 6.3: its length in bytes, or one of NO_BODY (0), CHUNKED and
  UNTIL_CLOSE.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.errors import ProtocolError

if TYPE_CHECKING:
    from lbctl.core.memo import Memo

NO_BODY = 0
CHUNKED = -1
UNTIL_CLOSE = -2

HEAD_END = b"\r\n\r\n"
_SAYS_KEEP_ALIVE = b"\r\nConnection: keep-alive\r\n"

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELDS = rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"++) ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n").match
_FIELD_BLOCK = re.compile(_FIELDS).fullmatch
_RESPONSE = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( [\t\x20-\x7e\x80-\xff]*+)?+\r\n" + _FIELDS
).fullmatch
_FIELD = re.compile(rb"(" + TOKEN + rb"++):[\t ]*+([^\r]*)\r\n").findall

# The fields that decide about framing, connection or trust. Names with an underscore are
# aliases of those with a dash in whatever maps headers to variables (CGI and its heirs).
_THOUGHT_REQUEST = re.compile(
    rb"\r\n(?i:(host): *+([^\r]*)"  # a tab there is legal, but not everybody's idea of space
    rb"|(?:connection|keep-alive|content[-_]length|transfer[-_]encoding|expect|upgrade|te"
    rb"|trailer|http2-settings|proxy[^:\r]*+|x[-_]forwarded[^:\r]*+|forwarded|via"
    rb"|x[-_]request[-_]id|max-forwards):)"
).findall
_THOUGHT_RESPONSE = re.compile(
    rb"\r\n(?i:content-length:[\t ]*+([0-9]{1,18})[\t ]*+(?=\r)"
    rb"|(?:connection|keep-alive|content[-_]length|transfer[-_]encoding|upgrade|te|trailer"
    rb"|proxy-connection):)"
).findall

_AUTHORITY = rb"(?:\[[0-9A-Fa-f:.vV]++\]|[0-9A-Za-z\-._~!$&'()*+,;=%]++)(?::[0-9]{0,5})?"
_HOST_VALUE = re.compile(rb"(?:" + _AUTHORITY + rb")?").fullmatch  # empty: none is asked for
_ABSOLUTE = re.compile(rb"(?i:https?)://(" + _AUTHORITY + rb")([/?].*)?").fullmatch
_CODED_AND_CHUNKED = re.compile(rb"(?i)(?!chunked\b)[a-z-]+, chunked").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+").match
_VERSION = re.compile(rb"[^\r\n ]++ [^\r\n ]++ HTTP/([0-9]\.[0-9])\r\n").match

Fields = list[tuple[bytes, bytes]]


# Methods that may be done twice with the effect of once (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


class Request:
    """The head of a request.

    `raw` is the head's bytes up to and including the empty line; where `plain` is true they
    may be passed on as they stand. `length` is the body's: bytes, or CHUNKED. `target` is in
    origin-form, or `*`. `upgrade` holds the protocols that the client would rather speak.

    Derived once, for whoever handles the same request often: `repeatable`, whether it may be
    sent again if no byte of an answer came; `simple`, whether a whole answer of known length
    can go to the client as it is, or with one line that says close. `forwarded` and `logged` are
    what the serialiser and the access log keep here for the next time.
    """

    __slots__ = (
        "_fields",
        "forwarded",
        "host",
        "keep_alive",
        "length",
        "logged",
        "method",
        "minor",
        "plain",
        "raw",
        "repeatable",
        "simple",
        "target",
        "upgrade",
    )

    def __init__(
        self,
        raw: bytes,
        method: bytes,
        target: bytes,
        minor: int,
        host: bytes,
        length: int = NO_BODY,
        *,
        keep_alive: bool = True,
        fields: Fields | None = None,
    ) -> None:
        self.raw = raw
        self.method = method
        self.target = target
        self.minor = minor
        self.host = host
        self.length = length
        self.keep_alive = keep_alive
        self.plain = fields is None
        self._fields = fields
        self.upgrade: frozenset[bytes] = frozenset()
        self.repeatable = length == NO_BODY and method in _IDEMPOTENT
        self.simple = minor == 1 and method != b"HEAD"
        self.forwarded = b""
        self.logged = ""

    @property
    def fields(self) -> Fields:
        """Lower-case names, values without outer white space."""
        return _split(self.raw) if self._fields is None else self._fields

    def release_fields(self) -> None:
        """Read them again when they are asked for: they take ten times the room of `raw`."""
        self._fields = None


class Response:
    """The head of a response; `raw`, `plain`, `fields` as in Request.

    `length` is the body's: bytes, CHUNKED or UNTIL_CLOSE. `keep_alive` tells whether the
    backend's connection may carry another request after this. `closing` is what the serialiser
    keeps here: the head for a client whose connection ends with it.
    """

    __slots__ = ("closing", "fields", "keep_alive", "length", "minor", "plain", "raw", "status")

    def __init__(
        self,
        raw: bytes,
        status: int,
        minor: int,
        length: int,
        *,
        keep_alive: bool = True,
        fields: Fields | None = None,
    ) -> None:
        self.raw = raw
        self.closing = b""
        self.status = status
        self.minor = minor
        self.length = length
        self.keep_alive = keep_alive
        self.plain = fields is None
        self.fields: Fields = fields or []


def without_empty_lines(data: bytes) -> bytes:
    """`data` from the start of its first line that says something (section 2.2)."""
    match = _EMPTY_LINES(data)
    return data[match.end() :] if match else data


def has_bare_lf(data: bytes) -> bool:
    """Whether a line ends without CR. Counting is many times cheaper than a look-behind, which
    matters where a peer sends its head byte by byte.
    """
    return data.count(b"\n") != data.count(b"\r\n")


def head_end(data: bytes, limit_bytes: int) -> int:
    """Where the head ends in `data` (after its empty line), or 0 if it is not all there yet.

    Raises ProtocolError 414 or 431 past the limit, 400 as soon as a line ends without CR.
    """
    end = data.find(HEAD_END) + 4
    if end > 3:
        if end > limit_bytes:
            raise _too_long(data, limit_bytes)
        return end
    if len(data) >= limit_bytes:
        raise _too_long(data, limit_bytes)
    if has_bare_lf(data):
        raise ProtocolError(400, "bare_lf")
    return 0


def _too_long(data: bytes, limit_bytes: int) -> ProtocolError:
    if data.find(b"\r\n", 0, limit_bytes) < 0:
        return ProtocolError(414, "target_too_long")
    return ProtocolError(431, "head_too_large")


def parse_request(raw: bytes, limit_fields: int, hosts: Memo[bytes] | None = None) -> Request:
    """Read one whole request head, `raw` ending with its empty line.

    A client that asks for one thing after the other sends the same fields with another first
    line. `hosts` remembers blocks of fields that need no thought, by their bytes, with the host
    they name: they are not looked at twice.

    Raises ProtocolError with the status for the client: 400, 431, 501 or 505.
    """
    match = _REQUEST_LINE(raw)
    if match is None:
        raise _why_no_request(raw)
    method, target, minor = match.groups()
    block = raw[match.end() :]
    host = hosts.get(block) if hosts is not None else None
    if host is None:
        if not _FIELD_BLOCK(block):
            raise _why_no_request(raw)
        if block.count(b"\r\n") > limit_fields + 1:
            raise ProtocolError(431, "too_many_fields")
        host = _host_of_plain_fields(raw)
        if host is not None and hosts is not None:
            hosts.keep(block, host)
    if host is None or minor != b"1" or target[0] != 0x2F or method == b"CONNECT":
        return _careful_request(raw, method, target, int(minor))
    return Request(raw, method, target, 1, host)


def _host_of_plain_fields(raw: bytes) -> bytes | None:
    """The value of Host, if that is the one field that needs thought, and is clear."""
    thought = _THOUGHT_REQUEST(raw)
    if len(thought) != 1:
        return None
    name, host = thought[0]
    return host if name and _HOST_VALUE(host) else None


def _why_no_request(raw: bytes) -> ProtocolError:
    version = _VERSION(raw)
    if version and version.group(1) not in (b"1.0", b"1.1"):
        return ProtocolError(505, "http_version")
    return ProtocolError(400, "malformed_head")


def _split(raw: bytes) -> Fields:
    """The fields of a checked head: lower-case names, values without outer white space."""
    start = raw.index(b"\r\n") + 2
    return [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD(raw, start)]


def _careful_request(raw: bytes, method: bytes, target: bytes, minor: int) -> Request:
    fields = _split(raw)
    host, target = _host(fields, method, target, minor)
    length = _request_length(fields, minor)
    options = connection_options(fields)
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    request = Request(
        raw, method, target, minor, host, length, keep_alive=keep_alive, fields=fields
    )
    if b"upgrade" in options and minor == 1 and length == NO_BODY:
        request.upgrade = upgrade_protocols(fields)
    return request


def _host(fields: Fields, method: bytes, target: bytes, minor: int) -> tuple[bytes, bytes]:
    """The host asked for and the target in origin-form (RFC 9112, sections 3.2 and 3.3)."""
    if method == b"CONNECT":
        raise ProtocolError(501, "connect")
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (minor == 1 and not hosts):
        raise ProtocolError(400, "host")
    host = hosts[0] if hosts else b""
    if not _HOST_VALUE(host):
        raise ProtocolError(400, "host")
    if target[0] == 0x2F:
        return host, target
    if target == b"*":
        if method != b"OPTIONS":
            raise ProtocolError(400, "target")
        return host, target
    absolute = _ABSOLUTE(target)
    if absolute is None:
        raise ProtocolError(400, "target")
    authority, rest = absolute.groups()
    if hosts and authority.lower() != host.lower():
        raise ProtocolError(400, "host_disagrees")
    if not rest:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, rest if rest[0] == 0x2F else b"/" + rest


def _lengths(fields: Fields, status: int) -> tuple[int | None, bool]:
    """Content-Length (None: absent) and whether the body is chunked (section 6.3).

    Raises ProtocolError `status` for everything that leaves a choice.
    """
    length: int | None = None
    chunked = False
    for name, value in fields:
        if name == b"content-length":
            if length is not None or not _LENGTH(value):
                raise ProtocolError(status, "content_length")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                clear = not chunked and _CODED_AND_CHUNKED(value)  # but we know no codings
                raise ProtocolError(501 if clear and status == 400 else status, "transfer_encoding")
            chunked = True
        elif name in (b"content_length", b"transfer_encoding"):
            raise ProtocolError(status, "framing_alias")
    if chunked and length is not None:
        raise ProtocolError(status, "two_lengths")
    return length, chunked


def _request_length(fields: Fields, minor: int) -> int:
    length, chunked = _lengths(fields, 400)
    if chunked:
        if minor == 0:
            raise ProtocolError(400, "transfer_encoding")
        return CHUNKED
    return length or NO_BODY


def connection_options(fields: Fields) -> set[bytes]:
    """The connection options, in lower case (RFC 9110, section 7.6.1)."""
    options: set[bytes] = set()
    for name, value in fields:
        if name == b"connection":
            options.update(option.strip(b" \t").lower() for option in value.split(b","))
    return options


def upgrade_protocols(fields: Fields) -> frozenset[bytes]:
    """What the Upgrade fields name, in lower case (RFC 9110, section 7.8)."""
    return frozenset(
        protocol.strip(b" \t").lower()
        for name, value in fields
        if name == b"upgrade"
        for protocol in value.split(b",")
        if protocol.strip(b" \t")
    )


def parse_response(raw: bytes, request_method: bytes, limit_fields: int) -> Response:
    """Read one whole response head, `raw` ending with its empty line.

    `request_method` decides whether there is a body. Raises ProtocolError 502.
    """
    match = _RESPONSE(raw)
    if match is None or raw.count(b"\r\n") > limit_fields + 2:
        raise ProtocolError(502, "bad_response")
    status = int(match.group(2))
    if match.group(1) == b"1" and match.group(3):
        # nginx says so with every response; on HTTP/1.1 it means nothing, and ends here.
        at = raw.find(_SAYS_KEEP_ALIVE)
        if at > 0:
            raw = raw[: at + 2] + raw[at + len(_SAYS_KEEP_ALIVE) :]
        thought = _THOUGHT_RESPONSE(raw)
        if len(thought) == 1 and thought[0] and status >= 200 and status != 204:
            bodiless = request_method == b"HEAD" or status == 304
            return Response(raw, status, 1, NO_BODY if bodiless else int(thought[0]))
    return _careful_response(raw, status, int(match.group(1)), request_method)


def _careful_response(raw: bytes, status: int, minor: int, request_method: bytes) -> Response:
    fields = _split(raw)
    length, chunked = _lengths(fields, 502)
    if chunked and minor == 0:
        raise ProtocolError(502, "transfer_encoding")
    options = connection_options(fields)
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    body = CHUNKED if chunked else UNTIL_CLOSE if length is None else length
    if request_method == b"HEAD" or status < 200 or status in (204, 304):
        body = NO_BODY
    if body == UNTIL_CLOSE:
        keep_alive = False
    return Response(raw, status, minor, body, keep_alive=keep_alive, fields=fields)
