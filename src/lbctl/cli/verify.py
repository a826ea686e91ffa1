"""`lbctl verify`: the run on the terminal, as a document, and how it ends."""

from __future__ import annotations

import contextlib
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from rich.live import Live
from rich.table import Table
from rich.text import Text

from lbctl import paths
from lbctl.cli import up
from lbctl.cli.client import AdminClient, WrongTokenError, redirects
from lbctl.cli.session import ended_by_sigterm
from lbctl.core.text import printable
from lbctl.deploy import Address
from lbctl.errors import OperationError, UsageError
from lbctl.verify.hands import DockerHands, LocalHands
from lbctl.verify.run import Options, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from lbctl.cli.screen import Screen
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.deploy import FoundStack
    from lbctl.verify.load import Load
    from lbctl.verify.ports import Hands
    from lbctl.verify.promises import Row, Verdict

T = TypeVar("T")

_CHANGE_TIMEOUT_S: Final = 60.0
_REFRESH_PER_S: Final = 4
_HELD, _BROKEN, _SKIPPED = "held", "BROKEN", "n/a"
_COLUMNS: Final = (
    # heading, width where it is fixed, side
    ("disturbance", 28, "<"), ("requests", 8, ">"), ("failed", 6, ">"), ("allowed", 16, ">"),
    ("retried", 7, ">"), ("gap ms", 7, ">"), ("slowest", 8, ">"), ("lists ms", 8, ">"),
    ("", 0, "<"),
)  # fmt: skip


class AdminOf:
    """Implements verify's ports.Admin on one admin port. `read_token` is asked again where the
    token was rotated while the run went on.
    """

    def __init__(
        self, client: AdminClient, token: str, read_token: Callable[[], Awaitable[str]]
    ) -> None:
        self._client = client
        self._token = token
        self._read_token = read_token
        self.status_text = client.status_text
        self.metrics_text = client.metrics_text

    async def scale(self, replicas: int) -> None:
        await self._change(lambda token: self._client.scale(replicas, token, _CHANGE_TIMEOUT_S))

    async def drain(self, backend_id: str) -> None:
        await self._by_hand("drain", backend_id)

    async def undrain(self, backend_id: str) -> None:
        await self._by_hand("undrain", backend_id)

    async def rollout(self) -> int:
        row = await self._change(lambda token: self._client.roll_out("", 1, token))
        return row["revision"]

    async def reload(self, settings: Mapping[str, Any]) -> None:
        await self._change(lambda token: self._client.reload(dict(settings), token))

    async def _by_hand(self, change: Literal["drain", "undrain"], backend_id: str) -> None:
        await self._change(
            lambda token: self._client.by_hand(change, backend_id, token, _CHANGE_TIMEOUT_S)
        )

    async def _change(self, ask: Callable[[str], Awaitable[T]]) -> T:
        try:
            return await ask(self._token)
        except WrongTokenError:
            self._token = await self._read_token()
            return await ask(self._token)


async def run(
    session: Session,
    settings: Config,
    *,
    seconds: float,
    connections: int,
    rate: float,
    target: str | None,
    restart_engine: str | None,
    as_json: bool,
) -> int:
    """Exit status 0 if every promise was held, 1 if not."""
    screen = session.screen
    aim = None if target is None else _address(target)
    restart = () if restart_engine is None else _words(restart_engine)
    if restart and aim is None:
        raise UsageError(
            "--restart-engine needs --target: what comes through a published port on 127.0.0.1 is "
            "carried by the engine itself\n"
            "docs/verify.md has an address that is not"
        )
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
        _hands(found, partial(up.replace_lbs, stack, found, client, settings), restart) as hands,
        ended_by_sigterm(),
    ):
        if found.tls and redirects(found, await client.status()):
            raise OperationError(
                "verify speaks plain HTTP, which this stack redirects\n"
                "lbctl reload --tls-redirect off, and then again"
            )
        admin = AdminOf(client, await stack.admin_token(), stack.admin_token)
        host, port = aim or found.traffic.reached
        options = Options(host, port, seconds, connections, rate)
        with _timeline(screen, as_json=as_json) as timeline:
            verdict = await verify(options, admin, hands, timeline)
    if as_json:
        screen.document(document(found, options, verdict))
    else:
        _conclude(screen, verdict)
    return 0 if verdict.held else 1


def _address(text: str) -> Address:
    """HOST:PORT; an IPv6 address is in brackets. Raises UsageError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UsageError(f"--target is HOST:PORT, not {printable(text)!r}")
    return Address(host, int(port))


def _words(command: str) -> Sequence[str]:
    """As a shell parts them. Raises UsageError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--restart-engine: {str(error).lower()}") from None
    if not words:
        raise UsageError("--restart-engine names no command")
    return words


@contextlib.asynccontextmanager
async def _hands(
    found: FoundStack, upgrade: Callable[[], Awaitable[object]], restart: Sequence[str]
) -> AsyncIterator[Hands]:
    if found.runtime == "local":
        yield LocalHands(paths.local(found.project))
        return
    from lbctl.runtime.engine import Engine

    engine = await Engine.connect()
    try:
        yield DockerHands(engine, found.project, upgrade if found.managed else None, restart)
    finally:
        await engine.close()


@contextlib.contextmanager
def _timeline(screen: Screen, *, as_json: bool) -> Iterator[_Plain | _InPlace]:
    if as_json:
        yield _Plain(screen, None)
    elif not screen.out.is_terminal or screen.out.is_dumb_terminal:
        yield _Plain(screen, screen)
    else:
        # The table stays on the screen as it was at the end.
        view = _InPlace(screen)
        with Live(
            get_renderable=view.render, console=screen.out, refresh_per_second=_REFRESH_PER_S
        ):
            yield view
            view.ended()


class _Plain:
    """A line a row, when it is known. Implements verify's Timeline."""

    def __init__(self, screen: Screen, out: Screen | None) -> None:
        self._screen = screen
        self._out = out
        self._headed = False

    def begins(self, title: str, load: Load) -> None:  # noqa: ARG002 - the Timeline's
        if self._out is not None and not self._headed:
            self._out.say(_line(tuple(heading for heading, _, _ in _COLUMNS)))
            self._headed = True

    def row(self, row: Row) -> None:
        if self._out is not None:
            self._out.say(_line(_cells(row)))

    def warn(self, text: str) -> None:
        self._screen.tell(text, "yellow")


class _InPlace:
    """A table that grows, its last line counting. Implements verify's Timeline."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._rows: list[Row] = []
        self._now: tuple[str, Load] | None = None

    def begins(self, title: str, load: Load) -> None:
        self._now = title, load

    def row(self, row: Row) -> None:
        self._rows.append(row)

    def warn(self, text: str) -> None:
        self._screen.tell(text, "yellow")

    def ended(self) -> None:
        self._now = None

    def render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading, _, side in _COLUMNS:
            table.add_column(heading, justify="right" if side == ">" else "left", no_wrap=True)
        for row in self._rows:
            table.add_row(*(Text(cell, style=_style(row)) for cell in _cells(row)))
        if self._now is not None:
            title, load = self._now
            window = load.window
            cells = (title, f"{window.requests}", f"{len(window.failures)}", *[""] * 5, "...")
            table.add_row(*(Text(printable(cell), style="cyan") for cell in cells))
        return table


def _style(row: Row) -> str:
    if row.skipped:
        return "dim"
    return "bold red" if row.broken else ""


def _cells(row: Row) -> tuple[str, ...]:
    """One row in words, in the order of the columns."""
    seen = row.seen
    if seen is None:
        return (row.title, *["-"] * 7, printable(f"{_SKIPPED}: {row.skipped}"))
    window = seen.window
    return (
        row.title,
        f"{window.requests}",
        f"{len(window.failures)}",
        row.promise.allowed,
        f"{seen.retried}",
        f"{window.longest_gap_s * 1000:.0f}",
        f"{window.slowest_s * 1000:.0f}",
        "-" if seen.lists_s is None else f"{seen.lists_s * 1000:.0f}",
        _BROKEN if row.broken else _HELD,
    )


def _line(cells: tuple[str, ...]) -> str:
    fixed = (
        f"{cell:{side}{width}}" for cell, (_, width, side) in zip(cells, _COLUMNS, strict=True)
    )
    return "  ".join(fixed).rstrip()


def _conclude(screen: Screen, verdict: Verdict) -> None:
    screen.say("")
    for line in verdict.broken:
        screen.say(f"broken: {line}")
    counts = (
        f"{verdict.requests} requests, {verdict.failed} failed, {verdict.retried} retried; "
        f"longest gap {verdict.longest_gap_s * 1000:.0f} ms"
    )
    broken = len(verdict.broken)
    promises = "every promise was held" if verdict.held else f"{broken} promises were broken"
    screen.say(f"{promises.replace('1 promises were', '1 promise was')}: {counts}")


def document(found: FoundStack, options: Options, verdict: Verdict) -> dict[str, Any]:
    """What `--json` prints; docs/verify.md describes it."""
    return {
        "project": found.project,
        "runtime": found.runtime,
        "held": verdict.held,
        "broken": list(verdict.broken),
        "connections": options.connections,
        "rate": options.rate,
        "requests": verdict.requests,
        "failed": verdict.failed,
        "retried": verdict.retried,
        "longest_gap_ms": _ms(verdict.longest_gap_s),
        "disturbances": [_row(row) for row in verdict.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    named = {"key": row.key, "title": row.title}
    if row.seen is None:
        return named | {"skipped": row.skipped}
    window, promise = row.seen.window, row.promise
    return named | {
        "skipped": None,
        "requests": window.requests,
        "failed": len(window.failures),
        "allowed": promise.in_flight,
        "retried": row.seen.retried,
        "longest_gap_ms": _ms(window.longest_gap_s),
        "slowest_ms": _ms(window.slowest_s),
        "lists_ms": _ms(row.seen.lists_s),
        "lists_within_ms": _ms(promise.lists_within_s),
        "failures": [
            {
                "kind": one.kind.name.lower(),
                "detail": one.detail,
                "backend": one.backend,
                "count": one.count,
            }
            for one in row.groups
        ],
        "broken": list(row.broken),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
