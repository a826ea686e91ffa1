"""`lbctl verify` as typed: what it prints of a run, and how it ends."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, ClassVar, cast

import pytest
from rich.console import Console

from lbctl.cli import verify as command
from lbctl.cli.client import WrongTokenError
from lbctl.cli.screen import Screen
from lbctl.cli.verify import _InPlace
from lbctl.errors import OperationError
from lbctl.verify.answers import Kind
from lbctl.verify.load import Load
from lbctl.verify.promises import NOTHING_FAILS, Promise, Row, Seen, Verdict, judged
from lbctl.verify.tally import Failure, Window

if TYPE_CHECKING:
    from lbctl.cli.client import AdminClient
    from lbctl.verify.ports import Admin, Hands
    from lbctl.verify.run import Options, Timeline
    from tests.unit.cli.machine import Machine

CALM = judged("calm", "nothing", NOTHING_FAILS, Seen(Window(1000, [], 0.003, 0.0214), 0), {})
SKIPPED = Row("kill-lb", "kill -9 one lb", skipped="there is one \x1b[31mlb")
WORKER = judged(
    "kill-worker", "kill -9 a worker", Promise(in_flight=32),
    Seen(Window(500, [Failure(Kind.RESET, "", "", 1, 0, 1)], 0.027, 0.009), 4, 0.0041), {},
)  # fmt: skip
BROKEN = judged(
    "drain", "drain and undrain a backend", NOTHING_FAILS,
    Seen(Window(9, [Failure(Kind.STATUS, "500", "127.0.0.9", 1, 0, 1)], 0.5, 0.4), 0, 1.5),
    {"127.0.0.9": "web-1"},
)  # fmt: skip


class Run:
    """Stands in for the run itself: these rows, or this error."""

    def __init__(self, *rows: Row, error: Exception | None = None) -> None:
        self.rows = rows
        self.error = error
        self.options: list[Options] = []

    async def __call__(
        self, options: Options, admin: Admin, hands: Hands, timeline: Timeline
    ) -> Verdict:
        self.options.append(options)
        await admin.status_text()
        assert not await hands.has_guard()
        if self.error is not None:
            raise self.error
        load = Load(options.host, options.port, connections=1, rate=1)
        for row in self.rows:
            timeline.begins(row.title, load)
            timeline.row(row)
        timeline.warn("mind that")
        return Verdict(self.rows)


@pytest.fixture
def local(machine: Machine) -> Machine:
    """Its stack is one of processes: no hands but signals."""
    machine.stacks["local"].there = True
    return machine


def played(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    monkeypatch.setattr(command, "verify", run)
    return run


def test_a_line_a_row_and_a_verdict(local: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = played(monkeypatch, Run(CALM, WORKER, SKIPPED))
    typed = local.type("verify")
    assert typed.status == 0
    assert typed.out.splitlines() == [
        "disturbance                   requests  failed           allowed  retried"
        "   gap ms   slowest  lists ms",
        "nothing                           1000       0                 0        0"
        "        3        21         -  held",
        "kill -9 a worker                   501       1  in flight (<= 32)        4"
        "       27         9         4  held",
        "kill -9 one lb                       -       -                 -        -"
        "        -         -         -  n/a: there is one ?[31mlb",
        "",
        "every promise was held: 1501 requests, 1 failed, 4 retried; longest gap 27 ms",
    ]
    assert typed.err == "mind that\n"
    assert run.options[0].port == local.lb.traffic.port
    assert (run.options[0].seconds, run.options[0].connections, run.options[0].rate) == (
        30, 64, 2000,
    )  # fmt: skip


def test_each_broken_promise_is_a_line(local: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, Run(CALM, BROKEN))
    typed = local.type("verify", "--seconds", "5", "--connections", "8", "--rate", "100")
    assert typed.status == 1
    assert typed.out.splitlines()[-3:] == [
        "broken: drain and undrain a backend: 1 request failed, none may: "
        "1 x status 500 from web-1",
        "broken: drain and undrain a backend: the lists were right after 1.50 s, promised is 1 s",
        "2 promises were broken: 1010 requests, 1 failed, 0 retried; longest gap 500 ms",
    ]
    assert "BROKEN" in typed.out


def test_a_document_for_programs(local: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, Run(CALM, BROKEN, SKIPPED))
    typed = local.type("verify", "--json")
    assert typed.status == 1
    document = json.loads(typed.out)
    rows = {row["key"]: row for row in document.pop("disturbances")}
    assert document == {
        "project": "shop", "runtime": "local", "held": False, "connections": 64, "rate": 2000.0,
        "requests": 1010, "failed": 1, "retried": 0, "longest_gap_ms": 500.0,
        "broken": [
            "drain and undrain a backend: 1 request failed, none may: 1 x status 500 from web-1",
            "drain and undrain a backend: the lists were right after 1.50 s, promised is 1 s",
        ],
    }  # fmt: skip
    assert rows["drain"] == {
        "key": "drain", "title": "drain and undrain a backend", "skipped": None,
        "requests": 10, "failed": 1, "allowed": 0, "retried": 0, "longest_gap_ms": 500.0,
        "slowest_ms": 400.0, "lists_ms": 1500.0, "lists_within_ms": 1000.0,
        "failures": [{"kind": "status", "detail": "500", "backend": "web-1", "count": 1}],
        "broken": [
            "1 request failed, none may: 1 x status 500 from web-1",
            "the lists were right after 1.50 s, promised is 1 s",
        ],
    }  # fmt: skip
    assert set(rows["kill-lb"]) == {"key", "title", "skipped"}
    assert rows["calm"]["lists_ms"] is None


def test_a_refusal_is_one_line(local: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, Run(error=OperationError("there is nothing to verify")))
    typed = local.type("verify")
    assert (typed.status, typed.out) == (1, "")
    assert typed.err == "lbctl: there is nothing to verify\n"


def test_without_a_stack(machine: Machine) -> None:
    typed = machine.type("verify")
    assert typed.status == 1
    assert "start one: lbctl up" in typed.err


@pytest.mark.parametrize(
    "arguments", [("--seconds", "0"), ("--connections", "0"), ("--rate", "x"), ("more",)]
)
def test_what_cannot_be(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert machine.type("verify", *arguments).status == 2


def test_the_load_goes_where_it_is_told(local: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = played(monkeypatch, Run(CALM))
    restart = ("--restart-engine", "systemctl restart docker")
    assert local.type("verify", "--target", "192.0.2.1:80", *restart).status == 0
    assert local.type("verify", "--target", "[2001:db8::1]:8080").status == 0
    assert [(one.host, one.port) for one in run.options] == [
        ("192.0.2.1", 80), ("2001:db8::1", 8080),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "nowhere"), "--target is HOST:PORT, not 'nowhere'"),
        (("--target", ":80"), "--target is HOST:PORT"),
        (("--target", "a:0"), "--target is HOST:PORT"),
        (("--target", "a:65536"), "--target is HOST:PORT"),
        (("--target", "a:x"), "--target is HOST:PORT"),
        (("--target", "a:1", "--restart-engine", "sh -c '"), "--restart-engine: no closing"),
        (("--target", "a:1", "--restart-engine", " "), "--restart-engine names no command"),
        (("--restart-engine", "true"), "--restart-engine needs --target"),
    ],
)
def test_what_says_nothing_of_where_or_how(
    local: Machine, arguments: tuple[str, ...], says: str
) -> None:
    typed = local.type("verify", *arguments)
    assert typed.status == 2
    assert says in typed.err


def test_on_a_terminal_the_last_line_counts() -> None:
    out = io.StringIO()
    terminal = Console(file=out, width=200, markup=False, emoji=False, highlight=False)
    view = _InPlace(Screen(terminal, terminal))
    view.row(CALM)
    view.begins("rollout", Load("127.0.0.1", 1, connections=1, rate=1))
    terminal.print(view.render())
    lines = out.getvalue().splitlines()
    assert lines[1].split() == ["nothing", "1000", "0", "0", "0", "3", "21", "-", "held"]
    assert lines[2].split() == ["rollout", "0", "0", "..."]
    view.ended()
    terminal.print(view.render())
    assert "rollout" not in out.getvalue()[len("\n".join(lines)) :]


async def test_a_token_that_was_rotated_meanwhile_is_read_anew() -> None:
    tokens = ["old", "new"]

    class Client:
        asked: ClassVar[list[str]] = []
        status_text = metrics_text = None

        async def scale(self, _replicas: int, token: str, _timeout_s: float) -> None:
            self.asked.append(token)
            if token != tokens[-1]:
                raise WrongTokenError("changes need the admin token")

    async def read() -> str:
        return tokens[-1]

    admin = command.AdminOf(cast("AdminClient", Client()), tokens[0], read)
    await admin.scale(3)
    await admin.scale(4)
    assert Client.asked == ["old", "new", "new"]
    tokens[-1] = "newest"
    await admin.scale(5)
    assert Client.asked[3:] == ["new", "newest"]
