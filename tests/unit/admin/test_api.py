"""The admin port as its clients see it: a real server on loopback, fakes behind the ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import string
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.admin.api import BODY_LIMIT_BYTES, AdminServer, Facts
from lbctl.admin.auth import LOOPBACK, Access, Network
from lbctl.admin.bodies import parse_scale
from lbctl.errors import (
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    LbctlError,
    OperationError,
    UsageError,
)
from lbctl.model import EjectionStatus, Failure, State
from tests.support.deadlines import eventually
from tests.unit.admin.fakes import (
    WHEN,
    FakeFleet,
    FakeJournal,
    FakeReloader,
    FakeRotator,
    FakeScaler,
    FakeTraffic,
    backend_status,
    synced_stats,
    traffic,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.admin.door import Bounds

TOKEN = "a" * 64
FACTS = Facts("shop", "local", "1.2.3", "127.0.0.1:8080", "127.0.0.1:9900")
SCALE = "/api/v1/scale"
RELOAD = "/api/v1/reload"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


class Admin:
    """A running admin port, what it asks, and a client."""

    def __init__(
        self,
        open_networks: tuple[Network, ...] = LOOPBACK,
        bounds: Bounds | None = None,
        reloader: FakeReloader | None = None,
    ) -> None:
        ejection = EjectionStatus(Failure.ANSWER, WHEN, lasts_s=60.0, times=2, passes=1)
        self.fleet = FakeFleet(
            backend_status("b-1"),
            backend_status("b-2", state=State.DOWN, reason="answered 503", ejection=ejection),
        )
        self.traffic = FakeTraffic(id_b_1=traffic("b-1", in_flight=2))
        self.scaler = FakeScaler()
        self.stats = synced_stats()
        access = Access(lambda: TOKEN, lambda: open_networks, names=frozenset({"lb.example"}))
        self.reloader = reloader or FakeReloader()
        self.rotator = FakeRotator()
        self.journal = FakeJournal()
        self.server = AdminServer(
            self.fleet,
            self.traffic,
            self.scaler,
            self.reloader,
            self.rotator,
            self.stats,
            FACTS,
            access,
            bounds,
            journal=self.journal,
        )
        self.session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Admin]:
        listener = socket.create_server(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await self.server.start(listener)
        async with aiohttp.ClientSession(base) as self.session:
            try:
                yield self
            finally:
                await self.server.close()

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status, and the body: parsed where it is JSON."""
        async with self.session.request(method, path, **options) as response:
            body = await response.text()
            self.headers = response.headers
            if response.content_type == "application/json":
                return response.status, json.loads(body)
            return response.status, body

    async def scale(self, body: object, **headers: str) -> tuple[int, Any]:
        return await self.change("scale", body, **headers)

    async def change(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """A change as whoever holds the token asks for it; `headers` come on top."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **AUTH, **headers}
        return await self.ask("POST", f"/api/v1/{path}", data=data, headers=sent)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with Admin().served() as served:
        yield served


@pytest.fixture
async def closed() -> AsyncIterator[Admin]:
    """One that nobody reads without the token."""
    async with Admin(open_networks=()).served() as served:
        yield served


async def test_status(admin: Admin) -> None:
    admin.scaler.replicas = 2
    status, body = await admin.ask("GET", "/api/v1/status")
    assert status == 200
    assert body == {
        "project": "shop",
        "runtime": "local",
        "version": "1.2.3",
        "address": "127.0.0.1:8080",
        "admin_address": "127.0.0.1:9900",
        "replicas": 2,
        "generation": 7,
        "updated_at": "2026-11-22T10:00:00.123Z",
        "in_rotation": 1,
        "rollout": None,
        "healing": {"state": "idle", "message": ""},
        "processes": [
            {"lb": "", "role": "supervisor", "name": "supervisor", "pid": 1, "restarts": 0,
             "started_at": "2026-11-22T10:00:00.123Z"},
            {"lb": "", "role": "worker", "name": "worker-1", "pid": 17, "restarts": 2,
             "started_at": "2026-11-22T10:00:00.123Z"},
        ],
        "history": {"state": "opening", "message": "", "lost": 0, "events": 0},
        "leader": "",
        "settings": admin.reloader.present,
        "tokens": {"rotating": False, "changed_at": "2026-11-22T10:00:00.123Z"},
        "runtime_problem": "",
        "backends": [
            {"id": "id-b-1", "name": "b-1", "ip": "127.1.0.1", "port": 8080, "weight": 1,
             "state": "up", "reason": "", "since": "2026-11-22T10:00:00.123Z", "in_flight": 2,
             "requests_per_second": 0.0, "error_ratio": None, "p50_ms": None, "p99_ms": None,
             "published_generation": 7,
             "last_check": "passed", "cause": "well", "checks": {"passed": True, "in_a_row": 9},
             "publish": True, "revision": 1, "ejection": None},
            {"id": "id-b-2", "name": "b-2", "ip": "127.1.0.1", "port": 8080, "weight": 1,
             "state": "down", "reason": "answered 503", "since": "2026-11-22T10:00:00.123Z",
             "in_flight": 0, "requests_per_second": 0.0, "error_ratio": None, "p50_ms": None,
             "p99_ms": None, "published_generation": 7, "last_check": "passed", "cause": "failing",
             "checks": {"passed": False, "in_a_row": 3}, "publish": True, "revision": 1,
             "ejection": {"failure": "5xx", "ends_at": "2026-11-22T10:00:00.123Z",
                          "lasts_s": 60.0, "times": 2, "passes": 1}},
        ],
    }  # fmt: skip
    assert await admin.ask("GET", "/api/v1/backends") == (200, {"backends": body["backends"]})


async def test_reload_hands_the_settings_on(admin: Admin) -> None:
    asked = {"headers": AUTH, "json": {"settings": {"fall": 7}}}
    status, body = await admin.ask("POST", RELOAD, **asked)
    assert (status, body["settings"]["fall"]) == (200, 7)
    assert admin.reloader.reloads == [{"fall": 7}]
    assert (await admin.ask("POST", RELOAD, headers=AUTH, json={}))[0] == 200
    assert admin.reloader.reloads == [{"fall": 7}, None]


@pytest.mark.parametrize("body", [[], {"setting": {}}, {"settings": []}, {"settings": "x"}])
async def test_a_reload_of_nonsense_is_refused(admin: Admin, body: Any) -> None:
    assert (await admin.ask("POST", RELOAD, headers=AUTH, json=body))[0] == 400
    assert admin.reloader.reloads == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("settings: fall: no"), 400),
        (OperationError("the new workers do not serve"), 409),
    ],
)
async def test_a_reload_that_fails_says_why(admin: Admin, error: Exception, expected: int) -> None:
    admin.reloader.error = error
    status, body = await admin.ask("POST", RELOAD, headers=AUTH, json={})
    assert (status, body) == (expected, {"error": str(error)})


async def test_a_reload_takes_the_token(admin: Admin) -> None:
    assert (await admin.ask("POST", RELOAD, json={}))[0] == 401
    assert admin.reloader.reloads == []


async def test_what_may_be_a_secret_is_shown_to_the_token_alone(admin: Admin) -> None:
    secret = {"probe_headers": "Host: a; X-Key: s3cret"}
    _, answer = await admin.change("reload", {"settings": secret})
    _, status = await admin.ask("GET", "/api/v1/status")
    for settings in (answer["settings"], status["settings"]):
        assert settings["probe_headers"] == "Host; X-Key"
    refused, _ = await admin.ask("GET", "/api/v1/settings")
    assert (refused, admin.headers["WWW-Authenticate"]) == (401, "Bearer")
    _, whole = await admin.ask("GET", "/api/v1/settings", headers=AUTH)
    assert whole["settings"] == admin.reloader.present
    assert whole["settings"]["probe_headers"] == secret["probe_headers"]
    assert admin.headers["Cache-Control"] == "no-store"


async def test_status_says_how_old_the_tokens_are(admin: Admin) -> None:
    admin.rotator.rotating, admin.rotator.changed_at = True, None
    _, status = await admin.ask("GET", "/api/v1/status")
    assert status["tokens"] == {"rotating": True, "changed_at": None}


async def test_addresses_may_be_known_later(admin: Admin) -> None:
    async def addresses() -> list[str]:
        _, status = await admin.ask("GET", "/api/v1/status")
        admin.server._live.beat()
        async with admin.session.get("/api/v1/live") as live:
            await live.content.readuntil(b"\nevent: status\ndata: ")
            shown = json.loads(await live.content.readline())["summary"]
        assert shown["address"] == status["address"]
        return [status["address"], status["admin_address"]]

    before = await addresses()
    admin.server.reached_at(None, None)
    assert await addresses() == before
    admin.server.reached_at("203.0.113.1:80", "127.0.0.1:9901")
    assert await addresses() == ["203.0.113.1:80", "127.0.0.1:9901"]


async def test_status_says_why_nobody_is_seen_to_come_and_go(admin: Admin) -> None:
    async def problem() -> Any:
        return (await admin.ask("GET", "/api/v1/status"))[1]["runtime_problem"]

    assert await problem() == ""
    admin.stats.discovery_problem = "no guard answers\x1b"
    assert await problem() == "no guard answers?"
    admin.stats.discovery_problem, admin.stats.discovery_synced_monotonic_s = "", None
    assert await problem() == "the runtime has not been listed yet"


async def test_what_metrics_tell_is_kept_first(admin: Admin) -> None:
    await admin.ask("GET", "/metrics")
    assert admin.traffic.kept == 1


async def test_rates_come_from_what_the_server_samples(admin: Admin) -> None:
    async def first_row() -> Any:
        return (await admin.ask("GET", "/api/v1/backends"))[1]["backends"][0]

    assert (await first_row())["requests_per_second"] == 0
    admin.traffic.backends["id-b-1"] = traffic("b-1", ok=1000)
    row = await first_row()
    assert row["requests_per_second"] > 0
    assert row["p99_ms"] == pytest.approx(0.495, abs=0.001)


async def test_replicas_are_null_while_nobody_wished(admin: Admin) -> None:
    assert (await admin.ask("GET", "/api/v1/status"))[1]["replicas"] is None


async def test_health_and_readiness(admin: Admin) -> None:
    assert await admin.ask("GET", "/healthz") == (200, "ok\n")
    assert await admin.ask("GET", "/readyz") == (200, "ready\n")
    admin.fleet.rows = admin.fleet.rows[1:]
    assert await admin.ask("GET", "/readyz") == (
        503, {"error": "no backend is in rotation (1 known)"},
    )  # fmt: skip
    admin.stats.discovery_synced_monotonic_s = None
    status, body = await admin.ask("GET", "/readyz")
    assert (status, body) == (503, {"error": "the runtime has not been listed yet"})
    # Those of before are checked and served all the same.
    admin.fleet.rows = [backend_status("shop-backend-1")]
    assert await admin.ask("GET", "/readyz") == (200, "ready\n")
    assert (await admin.ask("GET", "/healthz"))[0] == 200


async def test_metrics(admin: Admin) -> None:
    status, body = await admin.ask("GET", "/metrics")
    assert status == 200
    assert admin.headers["Content-Type"].startswith("text/plain; version=")
    assert 'lbctl_build_info{project="shop",runtime="local",version="1.2.3"} 1.0' in body


async def test_the_dashboard_links_what_there_is(admin: Admin) -> None:
    status, body = await admin.ask("GET", "/")
    assert status == 200
    for path in ("/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/backends"):
        assert f'href="{path}"' in body
        assert (await admin.ask("GET", path))[0] == 200


@pytest.mark.parametrize("path", ["/nothing", "/api/v1", "/api/v2/status", "/../etc/passwd"])
async def test_unknown_paths(admin: Admin, path: str) -> None:
    status, body = await admin.ask("GET", path)
    assert status == 404
    assert "Not Found" in body["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/metrics", {"GET", "HEAD"}), ("GET", SCALE, {"POST"}), ("PUT", SCALE, {"POST"})],
)
async def test_wrong_methods(admin: Admin, method: str, path: str, allow: set[str]) -> None:
    status, body = await admin.ask(method, path)
    assert status == 405
    assert set(admin.headers["Allow"].split(",")) == allow
    assert "Method Not Allowed" in body["error"]


async def test_every_answer_forbids_sniffing_and_storing(admin: Admin) -> None:
    for path in ("/", "/metrics", "/healthz", "/nothing", "/api/v1/status"):
        await admin.ask("GET", path)
        assert admin.headers["X-Content-Type-Options"] == "nosniff"
        assert admin.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in admin.headers["Content-Security-Policy"]


# Changes


async def test_scale(admin: Admin) -> None:
    assert await admin.scale({"replicas": 5}) == (
        200, {"replicas": 5, "previous": 1, "generation": 7},
    )  # fmt: skip
    assert admin.scaler.replicas == 5


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"3", b'"3"', b"{}", b'{"replicas": null}', b'{"replicas": "3"}',
        b'{"replicas": 3.0}', b'{"replicas": true}', b'{"replicas": 0}', b'{"replicas": -1}',
        b'{"replicas": 10001}', b'{"replicas": NaN}', b'{"Replicas": 3}', b'{"replicas ": 3}',
        b'{"replicas": 1e999}',
        b'{"replicas": 3, "x": 1}', b'{"replicas": 3, "replicas": 4}', b'{"replicas": [3]}',
        b"\xff\xfe", b"[" * 60_000, b'{"replicas": ' + b"9" * 5_000 + b"}",
    ],
)  # fmt: skip
async def test_bad_bodies(admin: Admin, body: bytes) -> None:
    status, answer = await admin.scale(body)
    assert status == 400
    assert list(answer) == ["error"]
    assert admin.scaler.replicas is None


async def test_a_body_past_the_limit(admin: Admin) -> None:
    status, answer = await admin.scale(b'{"replicas": 3}' + b" " * BODY_LIMIT_BYTES)
    assert status == 413
    assert "error" in answer
    assert admin.scaler.replicas is None


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer x", f"Basic {TOKEN}"])
async def test_changes_take_the_token(admin: Admin, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    status, answer = await admin.ask("POST", SCALE, json={"replicas": 3}, headers=headers)
    assert (status, answer) == (401, {"error": "changes need the admin token"})
    assert admin.headers["WWW-Authenticate"] == "Bearer"
    assert admin.scaler.replicas is None


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
async def test_changes_from_another_site(admin: Admin, headers: dict[str, str]) -> None:
    status, _ = await admin.scale({"replicas": 3}, **headers)
    assert status == 403
    assert admin.scaler.replicas is None


async def test_changes_from_its_own_page(admin: Admin) -> None:
    origin = str(admin.session._base_url).rstrip("/")
    status, _ = await admin.scale(
        {"replicas": 3}, **{"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    )
    assert status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_other_content_types(admin: Admin, kind: str) -> None:
    status, _ = await admin.scale({"replicas": 3}, **{"Content-Type": kind})
    assert status == 415
    assert admin.scaler.replicas is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeadlineError("b-3 lags: answered 503"), 504),
        (EngineError("start: no space left on device"), 502),
        (EngineUnavailableError("no Docker engine answers"), 502),
        (UsageError("no"), 400),
        (OperationError("overtaken by a newer wish: 5"), 409),
        (LbctlError("other"), 500),
    ],
)
async def test_errors_of_the_scaler(admin: Admin, error: LbctlError, status: int) -> None:
    admin.scaler.error = error
    assert await admin.scale({"replicas": 3}) == (status, {"error": str(error)})


async def test_a_bug_is_told_without_its_details(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    admin.scaler.error = RuntimeError("inner detail")
    status, answer = await admin.scale({"replicas": 3})
    assert status == 500
    assert "inner detail" not in answer["error"]
    assert "inner detail" in caplog.text


async def test_rollout_answers_at_once_and_status_shows_it(admin: Admin) -> None:
    status, answer = await admin.change("rollout", {"image": "web:2", "batch": 2})
    row = {
        "revision": 2, "image": "web:2", "state": "running", "replaced": 0, "total": 3,
        "message": "",
    }  # fmt: skip
    assert (status, answer) == (202, {"rollout": row})
    assert admin.scaler.rollout is not None
    assert admin.scaler.rollout.batch == 2
    assert (await admin.ask("GET", "/api/v1/status"))[1]["rollout"] == row


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"image": 3}', b'{"image": null}', b'{"image": "-x"}', b'{"image": "a b"}',
        b'{"image": "x\\n"}', b'{"batch": 0}', b'{"batch": true}', b'{"batch": "1"}',
        b'{"Image": "x"}', b'{"image": "x", "image": "y"}', b'{"image": "x", "other": 1}',
    ],
)  # fmt: skip
async def test_rollouts_that_cannot_be_meant(admin: Admin, body: bytes) -> None:
    status, answer = await admin.change("rollout", body)
    assert (status, list(answer)) == (400, ["error"])
    assert admin.scaler.rollout is None


@pytest.mark.parametrize("change", ["drain", "undrain"])
async def test_by_hand(admin: Admin, change: str) -> None:
    status, answer = await admin.change(f"backends/id-b-1/{change}", {})
    assert (status, answer["name"]) == (200, "b-1")
    assert admin.scaler.by_hand == [(change, "id-b-1")]
    assert (await admin.change(f"backends/id-b-1/{change}", {"x": 1}))[0] == 400
    for unknown in ("nobody", "..%2f..", "b-1"):
        status, answer = await admin.change(f"backends/{unknown}/{change}", {})
        assert (status, list(answer)) == (404, ["error"])
    assert len(admin.scaler.by_hand) == 1


@pytest.mark.parametrize("path", ["rollout", "backends/id-b-1/drain", "backends/id-b-1/undrain"])
async def test_every_change_takes_the_token_and_its_own_site(admin: Admin, path: str) -> None:
    assert (await admin.ask("POST", f"/api/v1/{path}", json={}))[0] == 401
    assert (await admin.change(path, {}, Origin="http://evil.example"))[0] == 403
    assert (await admin.change(path, {}, **{"Content-Type": "text/plain"}))[0] == 415
    assert (admin.scaler.by_hand, admin.scaler.rollout) == ([], None)


async def test_a_rollout_that_is_refused(admin: Admin) -> None:
    admin.scaler.error = OperationError("a rollout is under way")
    assert await admin.change("rollout", {}) == (409, {"error": "a rollout is under way"})


# Who may read


async def test_reads_from_elsewhere_take_the_token(closed: Admin) -> None:
    for path in (
        "/", "/assets/dashboard.js", "/metrics", "/healthz", "/readyz", "/api/v1/status",
        "/api/v1/backends", "/api/v1/live", "/nothing",
    ):  # fmt: skip
        status, answer = await closed.ask("GET", path)
        assert (status, list(answer)) == (401, ["error"])
    assert (await closed.ask("GET", "/api/v1/status", headers=AUTH))[0] == 200


async def test_close_does_not_wait_for_a_change() -> None:
    started = asyncio.Event()

    class Stuck(FakeScaler):
        async def scale(self, replicas: int) -> None:  # noqa: ARG002
            started.set()
            await asyncio.Event().wait()

    admin = Admin()
    admin.server._scaler = Stuck()
    with contextlib.suppress(aiohttp.ClientError):
        async with admin.served():
            waiting = asyncio.create_task(admin.scale({"replicas": 3}))
            await asyncio.wait_for(started.wait(), 5)
    await eventually(waiting.done)
    assert isinstance(waiting.exception(), aiohttp.ClientError)


async def test_closed_means_closed() -> None:
    admin = Admin()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await admin.server.start(listener)
    await admin.server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# Bodies, whatever they are


@given(st.integers(1, 10_000))
def test_every_good_number_is_taken(replicas: int) -> None:
    assert parse_scale(json.dumps({"replicas": replicas}).encode()) == replicas


@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_any_bytes_are_a_number_in_range_or_an_error(raw: bytes) -> None:
    try:
        replicas = parse_scale(raw)
    except UsageError:
        return
    assert 1 <= replicas <= 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON | JSON.map(lambda value: {"replicas": value}))
def test_any_document_is_taken_exactly_when_it_says_a_number(document: Any) -> None:
    good = (
        isinstance(document, dict)
        and list(document) == ["replicas"]
        and type(document["replicas"]) is int
        and 1 <= document["replicas"] <= 10_000
    )
    if good:
        assert parse_scale(json.dumps(document).encode()) == document["replicas"]
    else:
        with pytest.raises(UsageError) as caught:
            parse_scale(json.dumps(document).encode())
        assert "\n" not in str(caught.value)
