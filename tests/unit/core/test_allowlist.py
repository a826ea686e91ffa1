"""What may be asked through the guard: a table, and whatever else comes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.allowlist import (
    BODY_LIMIT_BYTES,
    REASONS,
    Call,
    RefusedError,
    Verb,
    check_owner,
    decide,
    read_image,
    read_release,
)
from lbctl.model import Release
from lbctl.runtime.containers import Names
from lbctl.runtime.docker import shapes

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = shapes(Names("my-shop"))
OTHER = shapes(Names("my-shop2"))
ID = "0123456789abcdef" * 4
SHORT = ID[:12]
SINCE = "1764237600.123456789"


def filters(document: Any) -> str:
    return "filters=" + quote(json.dumps(document), safe="")


LISTED = f"/containers/json?all=1&{filters(SHAPES.list_backends)}"
CREATED = f"/containers/json?all=1&{filters(SHAPES.list_created)}"
TAKEN = f"/containers/json?all=1&{filters(SHAPES.list_names)}"
EVENTS = f"/events?since={SINCE}&{filters(SHAPES.events)}"
LOGS = f"/containers/{SHORT}/logs?stdout=1&stderr=1&tail=5&follow=0"

ALLOWED = [
    ("GET", "/_ping", Call(Verb.PING)),
    ("HEAD", "/_ping", Call(Verb.PING)),
    ("GET", "/version", Call(Verb.VERSION)),
    ("GET", LISTED, Call(Verb.LIST)),
    ("GET", CREATED, Call(Verb.LIST_CREATED)),
    ("GET", TAKEN, Call(Verb.LIST_NAMES)),
    ("GET", EVENTS, Call(Verb.EVENTS, since=SINCE)),
    ("GET", f"/containers/{ID}/json", Call(Verb.INSPECT, ID)),
    ("GET", f"/containers/{SHORT}/json", Call(Verb.INSPECT, SHORT)),
    ("GET", LOGS, Call(Verb.LOGS, SHORT, number=5)),
    (
        "POST",
        "/containers/create?name=my-shop-backend-7",
        Call(Verb.CREATE, name="my-shop-backend-7"),
    ),
    ("POST", f"/containers/{ID}/start", Call(Verb.START, ID)),
    ("POST", f"/containers/{ID}/stop?t=0", Call(Verb.STOP, ID, number=0)),
    ("POST", f"/containers/{ID}/stop?t=15", Call(Verb.STOP, ID, number=15)),
    ("DELETE", f"/containers/{ID}?force=1&v=1", Call(Verb.REMOVE, ID)),
    ("PUT", "/lbctl/image", Call(Verb.IMAGE)),
    ("GET", "/lbctl/counters", Call(Verb.COUNTERS)),
]

REFUSED = [
    # What else the engine has.
    ("path", "GET", "/info"),
    ("path", "GET", "/images/json"),
    ("path", "POST", "/images/create?fromImage=alpine"),
    ("path", "POST", "/build"),
    ("path", "POST", "/session"),
    ("path", "POST", "/auth"),
    ("path", "GET", "/networks"),
    ("path", "POST", "/networks/create"),
    ("path", "GET", "/volumes"),
    ("path", "DELETE", "/volumes/shop"),
    ("path", "POST", "/swarm/init"),
    ("path", "POST", "/containers/prune"),
    ("path", "POST", f"/containers/{ID}/exec"),
    ("path", "POST", f"/exec/{ID}/start"),
    ("path", "POST", f"/containers/{ID}/attach?stream=1"),
    ("path", "GET", f"/containers/{ID}/attach/ws"),
    ("path", "GET", f"/containers/{ID}/archive?path=/etc"),
    ("path", "GET", f"/containers/{ID}/export"),
    ("path", "POST", f"/containers/{ID}/kill"),
    ("path", "POST", f"/containers/{ID}/restart"),
    ("path", "POST", f"/containers/{ID}/update"),
    ("path", "POST", f"/containers/{ID}/rename?name=x"),
    ("path", "POST", f"/containers/{ID}/wait"),
    ("path", "GET", f"/containers/{ID}/top"),
    ("path", "PUT", "/lbctl"),
    # Known paths, otherwise.
    ("method", "POST", "/_ping"),
    ("method", "HEAD", "/version"),
    ("method", "DELETE", f"/containers/{ID}/start"),
    ("method", "GET", f"/containers/{ID}"),
    ("method", "PUT", f"/containers/{ID}?force=1&v=1"),
    ("method", "get", "/version"),
    ("method", "POST", "/lbctl/image"),
    ("method", "CONNECT", "/version"),
    # Whom it is about.
    ("path", "GET", "/containers/shop/json"),
    ("target", "GET", "/containers/my-shop-backend-1/json"),
    ("path", "GET", f"/containers/{ID[:11]}/json"),
    ("path", "GET", f"/containers/{ID}0/json"),
    ("path", "GET", f"/containers/g{ID[1:]}/json"),
    ("target", "GET", f"/containers/{ID.upper()}/json"),
    ("path", "POST", f"/containers/{SHORT}/start"),
    ("path", "POST", f"/containers/{SHORT}/stop?t=1"),
    ("path", "DELETE", f"/containers/{SHORT}?force=1&v=1"),
    # Spelling of the path.
    ("target", "GET", "/%76ersion"),
    ("target", "GET", f"/containers/{ID}%2Fjson"),
    ("target", "GET", f"/containers/{ID}%2fjson"),
    ("target", "GET", f"/containers/%2e%2e/{ID}/json"),
    ("target", "GET", f"/containers/../containers/{ID}/json"),
    ("target", "GET", f"/containers/./{ID}/json"),
    ("path", "GET", f"/containers//{ID}/json"),
    ("path", "GET", f"//containers/{ID}/json"),
    ("path", "GET", f"/containers/{ID}/json/"),
    ("path", "GET", "/version/"),
    ("target", "GET", "/Version"),
    ("target", "GET", "/version\x00"),
    ("target", "GET", "/version\n"),
    ("target", "GET", "/version "),
    ("target", "GET", "\\version"),
    ("target", "GET", "/version#x"),
    ("target", "GET", "/version;x=1"),
    ("target", "GET", "version"),
    ("target", "GET", ""),
    ("target", "OPTIONS", "*"),
    ("target", "GET", "http://localhost/version"),
    ("target", "GET", "http://localhost/v1.41/version"),
    ("target", "CONNECT", "localhost:80"),
    ("target", "GET", "/ver\u0455ion"),
    ("target", "GET", "/version\udcff"),
    ("target", "GET", "/version" + "/" * 3000),
    # Versions.
    ("target", "GET", "/v1.39/version"),
    ("target", "GET", "/v1.4/version"),
    ("target", "GET", "/v1.041/version"),
    ("target", "GET", "/v1.410/version"),
    ("target", "GET", "/v2.41/version"),
    ("target", "GET", "/v1.41/v1.41/version"),
    ("target", "GET", "/V1.41/version"),
    ("target", "GET", "/v1\u0664.41/version"),
    ("path", "GET", "/v1.41//version"),
    ("target", "GET", "/v1.41"),
    # Queries.
    ("target", "GET", "/version?"),
    ("query", "GET", "/version?x=1"),
    ("query", "GET", f"/containers/{ID}/json?size=1"),
    ("query", "POST", f"/containers/{ID}/start?detachKeys=x"),
    ("query", "GET", "/containers/json"),
    ("query", "GET", "/containers/json?all=1"),
    ("query", "GET", LISTED.replace("all=1", "all=true")),
    ("query", "GET", LISTED.replace("all=1", "all=01")),
    ("query", "GET", LISTED.replace("all=1", "All=1")),
    ("query", "GET", LISTED.replace("all=1", "all=1&all=1")),
    ("query", "GET", LISTED.replace("all=1", "all=1&all=0")),
    ("query", "GET", LISTED.replace("all=1", "all=1&size=1")),
    ("query", "GET", LISTED.replace("all=1", "all=1&")),
    ("query", "GET", LISTED.replace("all=1", "all=1;x=1")),
    ("query", "GET", LISTED.replace("all=1", "all=%31")),
    ("query", "GET", LISTED.replace("all=1", "%61ll=1")),
    ("query", "GET", LISTED.replace("all=1&", "")),
    ("query", "GET", LISTED.replace("%7B", "%7b")),
    ("query", "GET", LISTED + "%"),
    ("query", "GET", LISTED + "%2"),
    ("query", "GET", LISTED + "%00"),
    ("query", "GET", LISTED + "%FF"),
    ("query", "GET", "/containers/json?all=1&filters="),
    ("query", "GET", "/containers/json?all=1&filters=%7B%7D"),
    ("query", "GET", "/containers/json?all=1&filters=1"),
    ("query", "GET", "/containers/json?all=1&filters=" + "%5B" * 600),
    ("query", "GET", f"/containers/json?all=1&{filters(OTHER.list_backends)}"),
    ("query", "GET", f"/containers/json?all=1&{filters(OTHER.list_names)}"),
    ("query", "GET", f"/containers/json?all=1&{filters({'label': ['lbctl.project=my-shop']})}"),
    ("query", "GET", f"/containers/json?all=1&{filters({'name': ['.*']})}"),
    ("query", "GET", "/events"),
    ("query", "GET", f"/events?since={SINCE}"),
    ("query", "GET", f"/events?{filters(SHAPES.events)}"),
    ("query", "GET", EVENTS.replace(SINCE, "1764237600")),
    ("query", "GET", EVENTS.replace(SINCE, "-5m")),
    ("query", "GET", EVENTS + "&until=1"),
    ("query", "GET", LOGS.replace("follow=0", "follow=1")),
    ("query", "GET", LOGS.replace("follow=0", "follow=false")),
    ("query", "GET", LOGS.replace("&follow=0", "")),
    ("query", "GET", LOGS.replace("tail=5", "tail=all")),
    ("query", "GET", LOGS.replace("tail=5", "tail=0")),
    ("query", "GET", LOGS.replace("tail=5", "tail=100")),
    ("query", "GET", LOGS.replace("tail=5", "tail=05")),
    ("query", "GET", LOGS.replace("tail=5", "tail=%2B5")),
    ("query", "GET", LOGS.replace("tail=5", "tail=5&timestamps=1")),
    ("query", "POST", "/containers/create"),
    ("query", "POST", "/containers/create?name="),
    ("query", "POST", "/containers/create?name=my-shop-lb-a"),
    ("query", "POST", "/containers/create?name=my-shop-guard"),
    ("query", "POST", "/containers/create?name=my-shop2-backend-1"),
    ("query", "POST", "/containers/create?name=my-shop-backend-01"),
    ("query", "POST", "/containers/create?name=my-shop-backend-0"),
    ("query", "POST", "/containers/create?name=my-shop-backend-1&platform=linux"),
    ("query", "POST", "/containers/create?name=my-shop-backend-1&name=my-shop-backend-2"),
    ("query", "POST", "/containers/create?Name=my-shop-backend-1"),
    ("query", "POST", f"/containers/{ID}/stop"),
    ("query", "POST", f"/containers/{ID}/stop?t=-1"),
    ("query", "POST", f"/containers/{ID}/stop?t=1.5"),
    ("query", "POST", f"/containers/{ID}/stop?t=1&signal=9"),
    ("query", "DELETE", f"/containers/{ID}"),
    ("query", "DELETE", f"/containers/{ID}?force=1"),
    ("query", "DELETE", f"/containers/{ID}?force=1&v=1&link=1"),
    ("query", "DELETE", f"/containers/{ID}?force=true&v=1"),
]


def refusal(method: str, target: str) -> str:
    with pytest.raises(RefusedError) as caught:
        decide(method, target, SHAPES)
    assert str(caught.value).isprintable()
    return caught.value.reason


@pytest.mark.parametrize("version", ["", "/v1.40", "/v1.41", "/v1.52"])
@pytest.mark.parametrize(("method", "target", "call"), ALLOWED)
def test_what_is_on_the_list(version: str, method: str, target: str, call: Call) -> None:
    assert decide(method, version + target, SHAPES) == call


@pytest.mark.parametrize(("reason", "method", "target"), REFUSED)
def test_what_is_not(reason: str, method: str, target: str) -> None:
    assert refusal(method, target) == reason
    assert reason in REASONS


def test_the_order_of_fields_is_nobody_s_business() -> None:
    path, _, query = LOGS.partition("?")
    turned = "&".join(reversed(query.split("&")))
    assert decide("GET", f"{path}?{turned}", SHAPES) == decide("GET", LOGS, SHAPES)


def test_a_filter_whose_key_comes_twice() -> None:
    twice = json.dumps(SHAPES.list_backends)[:-1] + ', "label": ["lbctl.project=my-shop"]}'
    assert refusal("GET", f"/containers/json?all=1&filters={quote(twice)}") == "query"


# The fuzz. `canonical` says with what a call would be asked for by lbctl itself, in its own way.


def canonical(call: Call) -> tuple[str, str, dict[str, str]]:
    """Method (of GET and HEAD the first), path and query."""
    one = f"/containers/{call.container}"
    listed = {
        Verb.LIST: SHAPES.list_backends,
        Verb.LIST_CREATED: SHAPES.list_created,
        Verb.LIST_NAMES: SHAPES.list_names,
    }
    if call.verb in listed:
        query = {"all": "1", "filters": json.dumps(listed[call.verb])}
        return "GET", "/containers/json", query
    logs = {"stdout": "1", "stderr": "1", "tail": str(call.number), "follow": "0"}
    events = {"since": call.since, "filters": json.dumps(SHAPES.events)}
    table: dict[Verb, tuple[str, str, dict[str, str]]] = {
        Verb.PING: ("GET", "/_ping", {}),
        Verb.VERSION: ("GET", "/version", {}),
        Verb.EVENTS: ("GET", "/events", events),
        Verb.INSPECT: ("GET", f"{one}/json", {}),
        Verb.LOGS: ("GET", f"{one}/logs", logs),
        Verb.CREATE: ("POST", "/containers/create", {"name": call.name}),
        Verb.START: ("POST", f"{one}/start", {}),
        Verb.STOP: ("POST", f"{one}/stop", {"t": str(call.number)}),
        Verb.REMOVE: ("DELETE", one, {"force": "1", "v": "1"}),
        Verb.IMAGE: ("PUT", "/lbctl/image", {}),
        Verb.COUNTERS: ("GET", "/lbctl/counters", {}),
    }
    return table[call.verb]


def told(method: str, target: str) -> Call | None:
    """The decision; None is a refusal. Nothing else may come of anything."""
    try:
        return decide(method, target, SHAPES)
    except RefusedError:
        return None


def is_what_it_says(method: str, target: str, call: Call) -> bool:
    """Whether a target says, read by somebody else, exactly what the call means."""
    wanted_method, path, wanted = canonical(call)
    said, _, query = target.partition("?")
    fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    read = {key: json.loads(value) if key == "filters" else value for key, value in fields}
    if "filters" in wanted:
        wanted |= {"filters": json.loads(wanted["filters"])}
    return (
        method in ({"GET", "HEAD"} if call.verb is Verb.PING else {wanted_method})
        and re.sub(r"^/v1\.\d\d(?=/)", "", said) == path
        and len(fields) == len(read)
        and read == wanted
        and told(wanted_method, f"{path}?{urlencode(canonical(call)[2])}".rstrip("?")) == call
    )


METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
TARGETS = st.sampled_from([target for _, target, _ in ALLOWED])
PIECES = st.sampled_from(
    [
        "/", "//", "/.", "/..", "%2e", "%2E", "%2f", "%2F", "\\", "\x00", "\n", " ", "?", "&", "=",
        "#", ";", "+", "%", "v1.41", "/v1.41", "containers", "json", "create", "exec", "logs",
        "version", "all=1", "name=my-shop-backend-1", "force=1", "v=1", "t=1", ID, SHORT, "1",
        "http://x", "/lbctl/image", "/_ping", "filters=%7B%7D", "\u0660", "\udc80", "true",
    ]
)  # fmt: skip


@given(METHODS, st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_whatever_comes_is_refused_or_means_what_it_says(method: str, target: str) -> None:
    call = told(method, target)
    assert call is None or is_what_it_says(method, target, call)


@given(METHODS, TARGETS, st.data())
def test_what_is_nearly_right_is_refused_or_means_what_it_says(
    method: str, target: str, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(target)))
        to = data.draw(st.integers(at, min(len(target), at + 3)))
        target = target[:at] + data.draw(st.one_of(PIECES, st.characters())) + target[to:]
    call = told(method, target)
    assert call is None or is_what_it_says(method, target, call)


OTHER_SPELLINGS: list[Callable[[str, int], str]] = [
    lambda path, at: path[:at] + f"%{ord(path[at]):02X}" + path[at + 1 :],
    lambda path, at: path[:at] + f"%{ord(path[at]):02x}" + path[at + 1 :],
    lambda path, at: path[:at] + path[at:].replace("/", "//", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/./", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/x/../", 1),
    lambda path, at: path[:at] + path[at].upper() + path[at + 1 :],
    lambda path, at: path[:at] + path[at:].replace("/", "\\", 1),
    lambda path, _: path + "/",
    lambda path, _: path + "\x00",
    lambda path, _: "http://localhost" + path,
]


@given(st.sampled_from(ALLOWED), st.sampled_from(OTHER_SPELLINGS), st.data())
def test_another_spelling_of_the_path_never_widens_the_list(
    entry: tuple[str, str, Call], spell: Callable[[str, int], str], data: st.DataObject
) -> None:
    """Decoding, lower case and single slashes would make it the path that is on the list."""
    method, target, _ = entry
    path, mark, query = target.partition("?")
    other = spell(path, data.draw(st.integers(0, len(path) - 1)))
    if other != path:
        assert told(method, other + mark + query) is None


@given(TARGETS, METHODS)
def test_what_decodes_to_something_allowed_is_not_decoded(target: str, method: str) -> None:
    twice = quote(target)
    if unquote(twice) == target and twice != target:
        call = told(method, twice)
        assert call is None or is_what_it_says(method, twice, call)


# Bodies.


def body(**changes: Any) -> bytes:
    document = {"Image": "web:2", "Labels": {"lbctl.revision": "7"}} | changes
    return json.dumps(document).encode()


def test_a_release_is_read() -> None:
    assert read_release(body()) == Release(7, "web:2")
    digest = f"reg.example:5000/a/b@sha256:{'0' * 64}"
    assert read_release(body(Image=digest)).image == digest


PRIVILEGED = {"Privileged": True, "Binds": ["/:/host"]}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"1", b"[" * 60_000, b"1" * 5000, b"\xff{}",
        "{}".encode("utf-16"), b"\xef\xbb\xbf" + body(),
        b'{"Image": "web:2"}',
        b'{"Labels": {"lbctl.revision": "7"}}',
        body(HostConfig=PRIVILEGED), body(hostconfig=PRIVILEGED), body(HOSTCONFIG=PRIVILEGED),
        body(Binds=["/:/host"]), body(Env=[]), body(Cmd=["sh"]), body(Entrypoint=["sh"]),
        body(User="0"), body(Volumes={}), body(NetworkingConfig={}), body(image="evil:1"),
        body(IMAGE="evil:1"), json.dumps({"\u0131mage": "evil:1"}).encode(),
        body(Labels={}), body(Labels=None), body(Labels=["lbctl.revision"]),
        body(Labels={"lbctl.revision": "7", "lbctl.role": "lb"}),
        body(Labels={"lbctl.revision": 7}), body(Labels={"lbctl.revision": "0"}),
        body(Labels={"lbctl.revision": "7\n"}), body(Labels={"lbctl.Revision": "7"}),
        body(Labels={"lbctl.revision": "\u0667"}),
        body(Image=""), body(Image=None), body(Image=["web:2"]), body(Image="a b"),
        body(Image="web:2\n"), body(Image="-x"), body(Image="x" * 256), body(Image="w\u0435b"),
        body()[:-1] + b', "Image": "evil:1"}',
        body() + b" " * BODY_LIMIT_BYTES,
    ],
)  # fmt: skip
def test_a_backend_is_created_from_two_values_and_no_more(raw: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read_release(raw)
    assert caught.value.reason == "body"


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["Image", "image", "Labels", "HostConfig", "lbctl.revision"]) | st.text(),
        inner,
    ),
))  # fmt: skip
def test_whatever_document_comes_is_refused_or_a_release(document: Any) -> None:
    try:
        release = read_release(json.dumps(document).encode())
    except RefusedError:
        return
    wanted = {"Image": release.image, "Labels": {"lbctl.revision": str(release.revision)}}
    assert document == wanted


def test_an_image_is_read() -> None:
    assert read_image(b'{"image": "web:2"}') == "web:2"


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b'{"Image": "web:2"}', b'{"image": "web:2", "x": 1}', b'{"image": 1}']
)
def test_an_image_that_is_not(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        read_image(raw)


# Whose it is.


def facts(role: str = "backend", project: str = "my-shop", **labels: str) -> dict[str, Any]:
    own = {"lbctl.project": project, "lbctl.role": role}
    return {"Id": ID, "Config": {"Labels": own | labels}}


def test_the_whole_id_goes_on() -> None:
    assert check_owner(Call(Verb.INSPECT, SHORT), facts(), "my-shop") == ID
    assert check_owner(Call(Verb.INSPECT, SHORT), facts("pod"), "my-shop") == ID
    assert check_owner(Call(Verb.STOP, ID), facts(), "my-shop") == ID


@pytest.mark.parametrize("verb", [Verb.LOGS, Verb.START, Verb.STOP, Verb.REMOVE])
@pytest.mark.parametrize("role", ["pod", "lb", "guard", "", "Backend", "backend "])
def test_only_backends_are_changed(verb: Verb, role: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_owner(Call(verb, ID), facts(role), "my-shop")
    assert caught.value.reason == "container"


@pytest.mark.parametrize("verb", [Verb.INSPECT, Verb.LOGS, Verb.START, Verb.STOP, Verb.REMOVE])
@pytest.mark.parametrize(
    "theirs",
    [
        facts(project="my-shop2"),
        facts(project="my-sho"),
        facts(project="MY-SHOP"),
        facts(project="", **{"lbctl.Project": "my-shop"}),
        {"Id": ID, "Config": {"Labels": None}},
        {"Id": ID, "Config": {"Labels": {}}},
        {"Id": ID, "Config": {}},
        facts() | {"Id": "f" * 64},  # found by its name, which looks like an id
    ],
)
def test_strangers_are_nobody_s_business(verb: Verb, theirs: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as caught:
        check_owner(Call(verb, ID), theirs, "my-shop")
    assert caught.value.reason == "container"
