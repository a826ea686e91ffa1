"""What may be asked of a Docker engine through the guard, decided on what came, byte for byte.

Theory. A filter that cleans a request has to read it as the engine will, and loses at the first
difference: an escape, a doubled slash, a key in another case, which Go's decoder takes. So nothing
here is cleaned and nothing is passed on. A request is either one of the calls below in the one
spelling that lbctl itself uses, and then only a few checked values of it are kept, from which the
guard makes a request of its own; or it is refused.

    GET    /_ping  /version                              HEAD /_ping
    GET    /containers/json?all=1&filters=               three filters, this project's
    GET    /events?since=&filters=                       one filter
    GET    /containers/ID/json                           ID: 12 to 64 hexadecimal digits
    GET    /containers/ID/logs?stdout=1&stderr=1&tail=N&follow=0
    POST   /containers/create?name=NAME                  {"Image": ..., "Labels": {revision}}
    POST   /containers/ID/start  /containers/ID/stop?t=N
    DELETE /containers/ID?force=1&v=1
    PUT    /lbctl/image                                  {"image": ...}, the guard's own
    GET    /lbctl/counters                               the guard's own

Any may have a version before it (/v1.41); it is not heeded. The fields of a query may come in any
order.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from lbctl.core.text import printable
from lbctl.model import LABEL_PROJECT, LABEL_REVISION, LABEL_ROLE, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[re.Match[str], dict[str, str], "Shapes"], "Call"]

Json = dict[str, Any]

TARGET_LIMIT: Final = 2048  # characters
BODY_LIMIT_BYTES: Final = 65_536


class RefusedError(Exception):
    """It is not on the list. `reason` is a short label for lbctl_guard_refused_total, one of
    REASONS; the text is a sentence.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


REASONS: Final = frozenset(
    {
        "target",  # not the plain spelling of any path
        "path",  # a path that is not on the list
        "method",  # one that is, asked in another way
        "query",  # or with other fields
        "body",  # or with another body
        "upgrade",  # of the connection
        "container",  # not this project's, or none that may be changed
        "image",  # not the one that backends are made from
        "token",  # not the admin token
        "http",  # no HTTP at all, which the guard finds out before it asks here
    }
)


class Verb(Enum):
    """What is asked for."""

    PING = "ping"
    VERSION = "version"
    LIST = "list the backends"
    LIST_CREATED = "list the backends that never ran"
    LIST_NAMES = "list the names that are taken"
    EVENTS = "follow the events"
    INSPECT = "inspect"
    LOGS = "read the last lines"
    CREATE = "create a backend"
    START = "start a backend"
    STOP = "stop a backend"
    REMOVE = "remove a backend"
    IMAGE = "name an image"
    COUNTERS = "tell the counters"


CHANGES: Final = frozenset({Verb.START, Verb.STOP, Verb.REMOVE})
WITH_BODY: Final = frozenset({Verb.CREATE, Verb.IMAGE})


@dataclass(frozen=True, slots=True)
class Call:
    """One request that is on the list, and all that is kept of it. `number` is the lines of a log
    or the seconds of a stop; `since` is seconds since the epoch, with nine digits behind the point.
    """

    verb: Verb
    container: str = ""  # hexadecimal digits
    name: str = ""
    number: int = 0
    since: str = ""


@dataclass(frozen=True, slots=True)
class Shapes:
    """How this project's calls look. The filters are documents as the engine reads them."""

    list_backends: Json
    list_created: Json
    list_names: Json
    events: Json
    name_prefix: str  # of a backend's name; a number follows


_PLAIN: Final = re.compile(r"(?:/v1\.[4-9][0-9])?(/[a-z0-9_/]+)(?:\?([!-~]+))?")
_KEY: Final = re.compile(r"[a-z]{1,16}")
# What needs no escape, escapes in upper case, and "+", which is a space.
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9._~!$'()*,;:@/?+-]|%[0-9A-F]{2})*")
_ESCAPE: Final = re.compile(r"%([0-9A-F]{2})")
_NEEDLESS: Final = re.compile(r"[A-Za-z0-9._~-]")
_SINCE: Final = re.compile(r"[0-9]{1,10}\.[0-9]{9}")
_LINES: Final = re.compile(r"[1-9][0-9]?")
_SECONDS: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_REVISION: Final = re.compile(r"[1-9][0-9]{0,8}")


def decide(method: str, target: str, shapes: Shapes) -> Call:
    """The call that a request line makes. `target` is what stood in it, undecoded.

    Raises RefusedError.
    """
    plain = _PLAIN.fullmatch(target) if len(target) <= TARGET_LIMIT else None
    if plain is None:
        raise RefusedError("target", "the target is not in its plain form")
    path, raw_query = plain.groups()
    known = False
    for pattern, methods, read in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if method in methods:
            return read(match, _fields(raw_query), shapes)
        known = True
    if known:
        raise RefusedError("method", f"{printable(method, 20)} is not allowed there")
    raise RefusedError("path", "the path is not on the list")


def check_owner(call: Call, facts: Mapping[str, Any], project: str) -> str:
    """The full id of the container that a call is about, if it may be; `facts` are the engine's
    inspection of what was asked for.

    Raises RefusedError where the engine found it by a name, or it is another project's, or none
    that such a call may be about.
    """
    own_id = str(facts["Id"])
    if not own_id.startswith(call.container):
        raise RefusedError("container", "that is a name, not an id")
    labels = facts["Config"].get("Labels") or {}
    if labels.get(LABEL_PROJECT) != project:
        raise RefusedError("container", "the container is not this project's")
    if call.verb is not Verb.INSPECT and labels.get(LABEL_ROLE) != "backend":
        raise RefusedError("container", "the container is not a backend")
    return own_id


def read_release(body: bytes) -> Release:
    """What a backend is to be created as. Raises RefusedError."""
    document = _document(body)
    if document.keys() != {"Image", "Labels"}:
        raise RefusedError("body", "a backend is created from Image and Labels, and nothing else")
    labels = document["Labels"]
    revision = labels.get(LABEL_REVISION) if isinstance(labels, dict) else None
    if not isinstance(revision, str) or len(labels) != 1 or not _REVISION.fullmatch(revision):
        raise RefusedError("body", f"Labels is not {LABEL_REVISION} alone")
    return Release(int(revision), _image(document["Image"]))


def read_image(body: bytes) -> str:
    """The image that is named. Raises RefusedError."""
    document = _document(body)
    if document.keys() != {"image"}:
        raise RefusedError("body", "an image is named by image, and nothing else")
    return _image(document["image"])


# Each reads what is left of a request whose path and method are known.


def _bare(verb: Verb) -> Reader:
    def read(match: re.Match[str], fields: dict[str, str], _: Shapes) -> Call:
        _expect(fields, {})
        return Call(verb, container=match[1] if match.re.groups else "")

    return read


def _list(_: re.Match[str], fields: dict[str, str], shapes: Shapes) -> Call:
    filters = _filters(fields)
    _expect(fields, {"all": "1"})
    for verb, shape in (
        (Verb.LIST, shapes.list_backends),
        (Verb.LIST_CREATED, shapes.list_created),
        (Verb.LIST_NAMES, shapes.list_names),
    ):
        if filters == shape:
            return Call(verb)
    raise RefusedError("query", "the list is not one of this project's")


def _events(_: re.Match[str], fields: dict[str, str], shapes: Shapes) -> Call:
    filters, since = _filters(fields), fields.pop("since", "")
    _expect(fields, {})
    if filters != shapes.events or not _SINCE.fullmatch(since):
        raise RefusedError("query", "the events are not this project's")
    return Call(Verb.EVENTS, since=since)


def _logs(match: re.Match[str], fields: dict[str, str], _: Shapes) -> Call:
    tail = fields.pop("tail", "")
    _expect(fields, {"stdout": "1", "stderr": "1", "follow": "0"})
    if not _LINES.fullmatch(tail):
        raise RefusedError("query", "tail is not a number from 1 to 99")
    return Call(Verb.LOGS, match[1], number=int(tail))


def _create(_: re.Match[str], fields: dict[str, str], shapes: Shapes) -> Call:
    name = fields.pop("name", "")
    _expect(fields, {})
    number = name.removeprefix(shapes.name_prefix)
    if number == name or not _NUMBER.fullmatch(number):
        raise RefusedError("query", "the name is not that of a backend")
    return Call(Verb.CREATE, name=name)


def _stop(match: re.Match[str], fields: dict[str, str], _: Shapes) -> Call:
    grace = fields.pop("t", "")
    _expect(fields, {})
    if not _SECONDS.fullmatch(grace):
        raise RefusedError("query", "t is not a number of seconds")
    return Call(Verb.STOP, match[1], number=int(grace))


def _remove(match: re.Match[str], fields: dict[str, str], _: Shapes) -> Call:
    _expect(fields, {"force": "1", "v": "1"})
    return Call(Verb.REMOVE, match[1])


_ID = "/containers/([0-9a-f]{12,64})"
_WHOLE_ID = "/containers/([0-9a-f]{64})"
_ROUTES: tuple[tuple[re.Pattern[str], tuple[str, ...], Reader], ...] = tuple(
    (re.compile(path), methods, read)
    for path, methods, read in (
        ("/_ping", ("GET", "HEAD"), _bare(Verb.PING)),
        ("/version", ("GET",), _bare(Verb.VERSION)),
        ("/events", ("GET",), _events),
        ("/containers/json", ("GET",), _list),
        ("/containers/create", ("POST",), _create),
        (f"{_ID}/json", ("GET",), _bare(Verb.INSPECT)),
        (f"{_ID}/logs", ("GET",), _logs),
        (f"{_WHOLE_ID}/start", ("POST",), _bare(Verb.START)),
        (f"{_WHOLE_ID}/stop", ("POST",), _stop),
        (_WHOLE_ID, ("DELETE",), _remove),
        ("/lbctl/image", ("PUT",), _bare(Verb.IMAGE)),
        ("/lbctl/counters", ("GET",), _bare(Verb.COUNTERS)),
    )
)


def _fields(raw: str | None) -> dict[str, str]:
    """The fields of a query. Raises RefusedError where there is more than one way to read it."""
    fields: dict[str, str] = {}
    for part in raw.split("&") if raw else ():
        key, equals, value = part.partition("=")
        if not equals or not _KEY.fullmatch(key) or key in fields or not _VALUE.fullmatch(value):
            raise RefusedError("query", "the query is not in its plain form")
        escaped = [chr(int(code, 16)) for code in _ESCAPE.findall(value)]
        if any(char > "\x7f" or _NEEDLESS.fullmatch(char) for char in escaped):
            raise RefusedError("query", "the query has an escape that it does not need")
        spaced = value.replace("+", " ")
        fields[key] = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), spaced)
    return fields


def _filters(fields: dict[str, str]) -> Any:
    try:
        return json.loads(fields.pop("filters", ""), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise RefusedError("query", "the filters are no JSON") from None


def _expect(fields: dict[str, str], exactly: dict[str, str]) -> None:
    if fields != exactly:
        raise RefusedError("query", "the query is not the one of such a request")


def _document(body: bytes) -> Json:
    if len(body) > BODY_LIMIT_BYTES:
        raise RefusedError("body", f"the body is larger than {BODY_LIMIT_BYTES} bytes")
    try:
        # Decoded here: json would take UTF-16 too.
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise RefusedError("body", "the body is no JSON") from None
    if not isinstance(document, dict):
        raise RefusedError("body", "the body is no JSON object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """An object of which no two keys are the same."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key comes twice")
    return document


def _image(image: Any) -> str:
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        raise RefusedError("body", "the image is not a reference")
    return image
