"""The OpenAPI document is true: every route is in it, every answer is as it says, and whatever it
allows or forbids is answered with what it documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from lbctl.admin.description import openapi
from lbctl.config import LEAVES, Config, overlay, settings_of
from lbctl.core.history import Kind
from lbctl.errors import DeadlineError, EngineError, LbctlError, OperationError, UsageError
from lbctl.model import HealingState, HistoryState, RolloutState, State
from tests.support.deadlines import scaled
from tests.unit.admin.fakes import FakeReloader, backend_status
from tests.unit.admin.port import Port
from tests.unit.admin.test_api import AUTH, FACTS, Admin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hypothesis.strategies import SearchStrategy

DOCUMENT = openapi(FACTS.version)
OPERATIONS = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
]
CHANGES = [operation for operation in OPERATIONS if operation[0] == "POST"]
NO_STREAM = {"Accept": "application/json"}  # one would never end
LIVE = ("GET", "/api/v1/live")  # which is nothing but a stream
EXAMPLES = 30
by_operation = pytest.mark.parametrize(("method", "path"), OPERATIONS)
by_whole_answer = pytest.mark.parametrize(
    ("method", "path"), [each for each in OPERATIONS if each != LIVE]
)


class StrictReloader(FakeReloader):
    """Refuses what the product's own would."""

    async def reload(self, settings: Mapping[str, Any] | None) -> None:
        self.present = settings_of(overlay(Config(), settings or {}, "settings"))


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    port = Port(lambda: Admin(reloader=StrictReloader()))
    yield port
    port.close()


@functools.cache
def operation(method: str, path: str) -> schemathesis.APIOperation[Any, Any, Any, Any]:
    return schemathesis.openapi.from_dict(DOCUMENT)[path][method]


def schema_of(method: str, path: str, status: int) -> dict[str, Any] | None:
    """Of the JSON in that answer; None where the document knows no such answer, or no JSON."""
    answer = DOCUMENT["paths"][path][method.lower()]["responses"].get(str(status))
    if answer is not None and "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    if answer is None or "application/json" not in answer["content"]:
        return None
    components = {"components": DOCUMENT["components"]}
    return {**components, **answer["content"]["application/json"]["schema"]}


def assert_described(method: str, path: str, status: int, body: object) -> None:
    schema = schema_of(method, path, status)
    assert schema is not None, f"{method} {path} answered {status}, of which nothing is said"
    jsonschema_rs.validate(schema, body)


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == FACTS.version
    ids = [DOCUMENT["paths"][path][method.lower()]["operationId"] for method, path in OPERATIONS]
    assert len(set(ids)) == len(ids)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_has_the_routes_that_there_are() -> None:
    routes = {
        (route.method, resource.canonical)
        for resource in Admin().server.application().router.resources()
        for route in resource
        if route.method != "HEAD"  # comes with every GET (RFC 9110, section 9.3.2)
    }
    assert routes == set(OPERATIONS)


def test_it_has_every_word_and_every_setting() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    healing = schemas["Status"]["properties"]["healing"]["properties"]
    history = schemas["Status"]["properties"]["history"]["properties"]
    for words, kind in (
        (schemas["Backend"]["properties"]["state"]["enum"], State),
        (schemas["Rollout"]["properties"]["state"]["enum"], RolloutState),
        (healing["state"]["enum"], HealingState),
        (history["state"]["enum"], HistoryState),
        (schemas["Event"]["properties"]["kind"]["enum"], Kind),
    ):
        assert words == [word.value for word in kind]
    assert set(schemas["Settings"]["properties"]) == {
        name for name, leaf in LEAVES.items() if leaf.section != "deploy"
    }
    assert schemas["Settings"]["properties"]["balance"]["enum"] == list(LEAVES["balance"].choices)


@contextlib.asynccontextmanager
async def _served(**options: Any) -> Any:
    async with Admin(**options).served() as admin:
        yield admin


async def _ask(admin: Admin, method: str, path: str, body: object = None, **headers: str) -> Any:
    """An answer, which is as the document says; returns status and body."""
    where = path.replace("{id}", "id-b-1").replace("{file}", "dashboard.js")
    if method == "POST":
        status, answer = await admin.change(where.removeprefix("/api/v1/"), body, **headers)
    else:
        status, answer = await admin.ask(method, where, headers=AUTH | NO_STREAM | headers)
    kind = admin.headers["Content-Type"].partition(";")[0]
    if kind == "application/json":
        assert_described(method, path, status, answer)
    else:
        answers = DOCUMENT["paths"][path][method.lower()]["responses"]
        assert kind in answers[str(status)]["content"]
    return status, answer


GOOD_BODIES = {"/api/v1/scale": {"replicas": 2}, "/api/v1/rollout": {"image": "i:2", "batch": 2}}


@by_whole_answer
async def test_what_is_asked_well_is_answered_as_it_says(method: str, path: str) -> None:
    async with _served() as admin:
        admin.rotator.lagging = (("b-1", "timed out"),)
        status, _ = await _ask(admin, method, path, GOOD_BODIES.get(path, {}))
        assert status == (202 if path.endswith("rollout") else 200)


async def test_the_events_of_the_live_stream_are_as_it_says() -> None:
    async with _served() as admin, admin.session.get("/api/v1/live") as answer:
        assert answer.content_type == "text/event-stream"
        await admin.scaler.roll_out("i:2", 1)
        for name in ("status", "change", "change"):
            block = b"\n\n"
            while b"event: " not in block:
                block = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), scaled(5))
            kind, data = block.decode().strip().split("\n")
            assert kind == f"event: {name}"
            schema = DOCUMENT["components"]["schemas"][f"Live{name.capitalize()}"]
            told = json.loads(data.removeprefix("data: "))
            jsonschema_rs.validate({"components": DOCUMENT["components"], **schema}, told)
            admin.fleet.rows = [*admin.fleet.rows[1:], backend_status(f"new-{name}")]


async def test_answers_in_their_other_shapes() -> None:
    async with _served() as admin:
        admin.scaler.replicas = 3
        await admin.scaler.roll_out("i:2", 1)
        admin.rotator.changed_at = None
        admin.fleet.rows = [backend_status(f"b-{n}", state=state) for n, state in enumerate(State)]
        await _ask(admin, "GET", "/api/v1/status")
        await _ask(admin, "GET", "/api/v1/backends")
        admin.fleet.rows = []
        assert (await _ask(admin, "GET", "/readyz"))[0] == 503
        assert (await _ask(admin, "POST", "/api/v1/backends/{id}/drain", {}))[0] == 404
        assert (await admin.ask("GET", "/assets/nothing"))[0] == 404


async def test_questions_of_which_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _served() as admin:
        monkeypatch.setattr("lbctl.admin.turns.WAITING", -1)
        for path in ("/api/v1/history", "/api/v1/events"):
            assert (await _ask(admin, "GET", path))[0] == 503


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("no"), 400),
        (OperationError("no"), 409),
        (EngineError("no"), 502),
        (DeadlineError("no"), 504),
        (LbctlError("no"), 500),
        (ValueError("no"), 500),
    ],
)
@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_changes_that_fail(method: str, path: str, error: Exception, status: int) -> None:
    async with _served() as admin:
        admin.scaler.error = admin.reloader.error = admin.rotator.error = error
        assert (await _ask(admin, method, path, GOOD_BODIES.get(path, {})))[0] == status


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{", 400),
        ({}, {"x": 1}, 400),
        ({"Authorization": "Bearer x"}, {}, 401),
        ({"Origin": "http://evil.example"}, {}, 403),
        ({}, b" " * 65_537, 413),
        ({"Content-Type": "text/plain"}, {}, 415),
        ({"Content-Encoding": "gzip"}, {}, 415),
    ],
)
@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_changes_that_are_refused(
    method: str, path: str, headers: dict[str, str], body: object, status: int
) -> None:
    async with _served() as admin:
        assert (await _ask(admin, method, path, body, **headers))[0] == status


@by_operation
async def test_reads_that_are_refused(method: str, path: str) -> None:
    async with _served(open_networks=()) as admin:
        no_token = {"Authorization": "none"}
        assert (await _ask(admin, method, path, {}, **no_token))[0] == 401
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert (await _ask(admin, method, path, {}, **cross))[0] == 403


def _fuzz(
    port: Port,
    cases: SearchStrategy[schemathesis.Case[Any]],
    more: list[Any],
    headers: dict[str, str],
) -> None:
    """Whatever is sent, the answer is one that is documented."""
    checked: list[Any] = [
        checks.not_a_server_error,
        checks.CHECKS.get_one("status_code_conformance"),
        checks.CHECKS.get_one("content_type_conformance"),
        checks.CHECKS.get_one("response_headers_conformance"),
        checks.CHECKS.get_one("response_schema_conformance"),
        *more,
    ]

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=port.url, headers=headers, timeout=scaled(10))
        case.validate_response(response, checks=checked)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert list(json.loads(response.content)) == ["error"]

    ask()


@by_whole_answer
def test_what_the_document_allows(port: Port, method: str, path: str) -> None:
    accepted = [checks.CHECKS.get_one("positive_data_acceptance")]
    # A text may be one that no setting of that name can have: a list of networks, say.
    # Or one that is no time.
    more = [] if path.endswith(("reload", "drain", "history", "events")) else accepted
    cases = operation(method, path).as_strategy(GenerationMode.POSITIVE)
    _fuzz(port, cases.filter(_has_no_fraction), more, AUTH | NO_STREAM)


def _has_no_fraction(case: schemathesis.Case[Any]) -> bool:
    """2.0 is an integer to JSON Schema; the port takes it for a slip."""
    values = case.body.values() if isinstance(case.body, dict) else ()
    return not any(isinstance(value, float) for value in values)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_what_the_document_forbids(port: Port, method: str, path: str) -> None:
    rejected = [checks.CHECKS.get_one("negative_data_rejection")]
    more = [] if path.endswith("reload") else rejected  # numbers are read from texts too
    _fuzz(port, operation(method, path).as_strategy(GenerationMode.NEGATIVE), more, AUTH)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_nothing_is_changed_without_the_token(port: Port, method: str, path: str) -> None:
    wrong = {"Authorization": "Bearer " + "b" * 64}
    before = port.admin.rotator.rotations, port.admin.scaler.replicas
    _fuzz(port, operation(method, path).as_strategy(GenerationMode.POSITIVE), [], wrong)
    assert (port.admin.rotator.rotations, port.admin.scaler.replicas) == before
