"""The groups of tests, by directory, and what each one needs of the machine.

A group whose need is not met is left out, and the summary says so and why. LBCTL_TEST_REQUIRE
names groups that must run ("nginx,docker"): a need that is not met is then a failure.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from lbctl.errors import LbctlError, MachineError
from lbctl.runtime.engine import Engine
from lbctl.runtime.local import ADMIN_PORT, PUBLIC_PORT
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import Callable

REQUIRE = "LBCTL_TEST_REQUIRE"
_HERE = Path(__file__).parent

# How long an example takes is the machine's affair, and no property of what is tested.
settings.register_profile("lbctl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lbctl")


def _nothing() -> None:
    """The unit tests need Python alone."""


def _engine() -> None:
    async def ask() -> None:
        await (await Engine.connect()).close()

    asyncio.run(ask())


def _local() -> None:
    """An nginx, and its ports on addresses of the loopback network."""
    find_nginx()
    for port in (PUBLIC_PORT, ADMIN_PORT):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.255.255.254", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise MachineError(
                    f"port {port} is taken on all addresses, as by a stack on docker: make down"
                ) from error


def _browser() -> None:
    from tests.support.browser import find_chromium  # with the whole of Playwright

    find_chromium()
    _local()


NEEDS: dict[str, tuple[str, Callable[[], object]]] = {
    "unit": ("unit", _nothing),
    "nginx": ("integration", _local),
    "docker": ("docker", _engine),
    "browser": ("browser", _browser),
}
"""Group: its directory under tests/, and what raises LbctlError where the need is not met."""


@functools.cache
def lack(group: str) -> str:
    """Why a group cannot run here; "" if it can."""
    try:
        NEEDS[group][1]()
    except LbctlError as error:
        return str(error).partition("\n")[0]
    return ""


def group_of(path: Path) -> str | None:
    """The group that a test file belongs to."""
    parts = path.relative_to(_HERE).parts if path.is_relative_to(_HERE) else ()
    for group, (directory, _) in NEEDS.items():
        if parts[:1] == (directory,):
            return group
    return None


def pytest_configure() -> None:
    # Whoever starts this in the background may have it ignored; so would what the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    required = filter(None, os.environ.get(REQUIRE, "").replace(" ", "").split(","))
    for group in required:
        if group not in NEEDS:
            raise pytest.UsageError(f"{REQUIRE}: {group!r} is none of {', '.join(NEEDS)}")
        if lack(group):
            raise pytest.UsageError(f"{REQUIRE} names {group}, which cannot run: {lack(group)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = group_of(item.path)
        if group is not None and lack(group):
            item.add_marker(pytest.mark.skip(reason=f"group {group} left out: {lack(group)}"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What a test leaves open is found now, and is not blamed on a later one."""
    if group_of(item.path) != "unit":  # where it would take longer than the tests
        gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {group: Counter() for group in NEEDS}
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            path = getattr(report, "fspath", None)
            # A test reports three times; its call is the one that counts, or what kept it from it.
            whole = getattr(report, "when", None) == "call" or outcome in ("error", "skipped")
            group = group_of(terminalreporter.config.rootpath / path) if path and whole else None
            if group is not None:
                counts[group][outcome] += 1
    _show_figures(terminalreporter)
    terminalreporter.section("groups")
    for group, outcomes in counts.items():
        if not outcomes:
            terminalreporter.line(f"{group:8} not asked for")
        elif lack(group):
            line = f"{group:8} LEFT OUT, {outcomes.total()} tests: {lack(group)}"
            terminalreporter.line(line, yellow=True)
        else:
            said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            terminalreporter.line(f"{group:8} {said}")


def _show_figures(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests that passed have measured: all that they printed."""
    said = [
        line.strip()
        for report in terminalreporter.stats.get("passed", [])
        for line in getattr(report, "capstdout", "").splitlines()
        if line.strip()
    ]
    if said:
        terminalreporter.section("figures")
        for line in said:
            terminalreporter.line(line)
