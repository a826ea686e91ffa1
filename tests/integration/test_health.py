"""Health on the local runtime, with real nginx under load: one that hangs, one that answers
5xx, and checks that fail on all while all still answer.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cli import Cli, Wrk
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
IN_FLIGHT = 64
SECONDS = 5
EJECT_FAILURES = 5
PAGE = "try_files $list =404;"
CHECKED = 'return 200 "ok\\n";'


@contextmanager
def stack_with(**settings: str) -> Iterator[Cli]:
    """Three backends in rotation."""
    given = {f"LBCTL_{name.upper()}": value for name, value in settings.items()}
    cli = Cli(
        f"t{secrets.token_hex(4)}",
        "local",
        settings={"LBCTL_WORKERS": str(WORKERS), "LBCTL_SLOW_START_S": "0", **given},
    )
    try:
        cli.ok("up")
        yield cli
    finally:
        cli.clean()


def home(stack: Cli, row: dict[str, Any]) -> Path:
    """Where this backend's nginx has its files."""
    return stack.state / stack.project / "backends" / str(row["name"])


def master(stack: Cli, row: dict[str, Any]) -> int:
    return int((home(stack, row) / "nginx.pid").read_text())


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def state_of(stack: Cli, row: dict[str, Any]) -> dict[str, Any]:
    [found] = [one for one in stack.status()["backends"] if one["id"] == row["id"]]
    return dict(found)


def configure(stack: Cli, row: dict[str, Any], old: str, new: str) -> None:
    """Change what this nginx says, without a restart."""
    file = home(stack, row) / "nginx.conf"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    os.kill(master(stack, row), signal.SIGHUP)


def test_one_that_hangs_costs_no_request_is_ejected_and_comes_back() -> None:
    with stack_with() as stack:
        victim = stack.backends()[0]
        wrk = Wrk(stack.url + "/", seconds=12, connections=IN_FLIGHT)
        until(lambda: stack.metric("lbctl_connections") >= IN_FLIGHT)
        hung = family(master(stack, victim))
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            until(lambda: state_of(stack, victim)["state"] == "ejected", every=0.02)
            ejected_s = time.monotonic() - stopped
            assert "(timeout)" in state_of(stack, victim)["reason"]
            assert_others_are_listed(stack, victim)
            # Its checks would have needed all this time.
            until(lambda: state_of(stack, victim)["state"] == "down")
            fallen_s = time.monotonic() - stopped
        finally:
            for pid in hung:
                os.kill(pid, signal.SIGCONT)
        until(lambda: state_of(stack, victim)["state"] == "up", within=15)
        load = wrk.finish()
        print(f"hung: ejected after {ejected_s:.2f} s, its checks failed after {fallen_s:.2f} s")
        assert load.failed == 0, load.text
        assert ejected_s < min(scaled(3.0), fallen_s)
        assert_lists(stack, 3)


def test_one_that_answers_5xx_to_all_but_checks_gets_few_of_them_out() -> None:
    with stack_with() as stack:
        victim = stack.backends()[0]
        wrk = Wrk(stack.url + "/", seconds=SECONDS, connections=IN_FLIGHT)
        until(lambda: stack.metric("lbctl_connections") >= IN_FLIGHT)
        configure(stack, victim, PAGE, "return 500;")
        row = until(lambda: (one := state_of(stack, victim))["state"] == "ejected" and one)
        assert row
        assert row["reason"] == "ejected for 30 s: 5 requests in a row failed (5xx)"
        assert row["last_check"].startswith("passed")
        assert_others_are_listed(stack, victim)
        load = wrk.finish()
        failed = load.not_2xx + len(load.unanswered)
        share_per_s = load.requests / SECONDS / 3
        late_s = max(0, failed - WORKERS * EJECT_FAILURES) / share_per_s
        print(f"5xx: {failed} of {load.requests}, out {late_s * 1000:.0f} ms after the rows")
        assert failed >= EJECT_FAILURES
        # What came after the rows was under way, or sent before every worker was told.
        assert late_s < scaled(0.05), load.text
        assert sum(load.socket_errors.values()) == 0, load.text
        assert stack.metric("lbctl_ejections_total") == 1


def test_checks_that_fail_on_all_at_once_cost_no_request() -> None:
    with stack_with(probe_interval_s="0.1") as stack:
        rows = stack.backends()
        wrk = Wrk(stack.url + "/", seconds=6, connections=IN_FLIGHT)
        until(lambda: stack.metric("lbctl_connections") >= IN_FLIGHT)
        for row in rows:
            configure(stack, row, CHECKED, "return 503;")
        until(lambda: all("no backend is fit" in row["reason"] for row in stack.backends()))
        until(lambda: len(stack.backends()) == 3)
        assert {row["reason"] for row in stack.backends()} == {
            "served because no backend is fit; its checks fail: answered 503, not 200-299"
        }
        assert_lists(stack, 3)
        for row in rows:
            configure(stack, row, "return 503;", CHECKED)
        until(lambda: [row["reason"] for row in stack.backends()] == [""] * 3)
        assert_lists(stack, 3)
        load = wrk.finish()
        assert load.failed == 0, load.text
        log = stack.logged()
        assert log.count("no backend is fit: all that ever were") == 1


def assert_others_are_listed(stack: Cli, victim: dict[str, Any]) -> None:
    """The two others are up, and soon each of them names exactly these two."""

    def right() -> bool:
        assert_lists(stack, 2)
        return victim["ip"] not in [row["ip"] for row in stack.backends()]

    until(right)
