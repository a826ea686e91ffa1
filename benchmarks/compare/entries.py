"""Everything that is measured, in the order of the tables."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.compare import balancer, peers
from benchmarks.compare.processes import Plan, Running, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.compare.processes import Place
    from benchmarks.compare.scenarios import Scenario

_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+~-]*")
_VERSION_S = 20.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. `reference`: the entry it is put in relation to; `only`: the scenarios it takes
    part in, all if empty. `version`: the words that make its program tell.
    """

    name: str
    title: str
    plan: Callable[[Place], Plan]
    serve: Callable[[Plan, Place], AbstractContextManager[Running]] = serving
    reference: str = "haproxy"
    only: tuple[str, ...] = ()
    version: tuple[str, ...] = ("--version",)

    def takes_part(self, scenario: Scenario) -> bool:
        return not self.only or scenario.name in self.only


@contextlib.contextmanager
def _serving_directly(_: Plan, place: Place) -> Iterator[Running]:
    """No proxy: the first of the backends."""
    yield Running(place.backends[0])


def _no_plan(_: Place) -> Plan:
    return Plan(())


def entries(python: str, *, container: bool) -> tuple[Entry, ...]:
    """`python` runs lbctl. Addresses are given by position, so this order is not to be filtered
    before they are.
    """
    lbctl = ("-c", "import lbctl; print(lbctl.__version__)")
    every = [
        Entry("direct", "no proxy (one nginx)", _no_plan, _serving_directly),
        Entry("lbctl", "lbctl", partial(balancer.given, python=python), version=lbctl),
        Entry("haproxy", "HAProxy", peers.haproxy, version=("-v",)),
        Entry(
            "lbctl-log", "lbctl, access log", partial(balancer.given, python=python, logs=True),
            reference="haproxy-log", version=lbctl,
        ),
        Entry(
            "haproxy-log", "HAProxy, access log", partial(peers.haproxy, logs=True),
            reference="haproxy-log", version=("-v",),
        ),
        Entry("nginx", "nginx", peers.nginx, version=("-v",)),
        Entry("envoy", "Envoy", peers.envoy),
        Entry("traefik", "Traefik", peers.traefik, version=("version",)),
        Entry("caddy", "Caddy", peers.caddy, version=("version",)),
        Entry("proxy.py", "proxy.py", peers.proxy_py),
        Entry(
            "lbctl-up", "lbctl up", partial(balancer.up, python=python),
            balancer.serving_up, only=("small",), version=lbctl,
        ),
    ]  # fmt: skip
    if container:
        every += [
            Entry(
                "lbctl-container", "lbctl, its container", balancer.contained,
                balancer.serving_contained, reference="haproxy-container", version=(),
            ),
            Entry(
                "haproxy-container", "HAProxy, a container", balancer.contained_haproxy,
                balancer.serving_contained, reference="haproxy-container", version=(),
            ),
        ]  # fmt: skip
    return tuple(every)


def version(program: str, words: Sequence[str], env: Mapping[str, str]) -> str:
    """What a program says its version is; "" if it says nothing of the kind."""
    if not words:
        return ""
    try:
        done = subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_VERSION_S, env=dict(env), check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else ""


def placeheld(text: str, places: Mapping[str, str]) -> str:
    """Put names in place of this machine's paths, the longest path first."""
    for path in sorted(filter(None, places), key=len, reverse=True):
        text = text.replace(path, places[path])
    return text


def command_line(plan: Plan, place: Place, places: Mapping[str, str]) -> str:
    """What was run, as a shell would take it, for people."""
    if not plan.argv:
        return ""
    assigned = [f"{name}={shlex.quote(value)}" for name, value in plan.env.items()]
    pin = ["taskset", "-c", str(place.cores.proxy)]
    if plan.argv[1:2] == ["run"]:  # the engine does it
        pin = []
    return placeheld(" ".join([*assigned, shlex.join([*pin, *plan.argv])]), places)


def placeholders(place: Place, python: str) -> dict[str, str]:
    """The names for this machine's paths."""
    places = {str(place.directory): "DIR", str(place.tools): "TOOLS", python: "PYTHON"}
    places |= {path: "SITE-PACKAGES" for path in sys.path if path.endswith("site-packages")}
    return places | {str(balancer.PROJECT): "PROJECT"}
