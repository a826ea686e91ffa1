from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from lbctl import config
from lbctl.cli import doctor
from lbctl.cli.doctor import Finding, Level
from lbctl.errors import EngineUnavailableError, MachineError
from lbctl.runtime.engine import Engine
from lbctl.runtime.nginx import Nginx
from tests.unit.cli.machine import NO_ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

    from tests.unit.cli.machine import Machine

NO_NGINX = "no nginx is installed\ninstall one: apt-get install nginx-light"


def reader(**files: str) -> Callable[[str], str | None]:
    """A kernel with these files; names are the last part of their paths."""
    return lambda path: files.get(path.rpartition("/")[2].replace(".", "_"))


def by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_kernel_settings() -> None:
    found = by_subject(
        doctor._kernel(reader(ip_forward="0", somaxconn="4096", ip_local_port_range="32768\t40000"))
    )
    assert found["ip_forward"].level is Level.HINT
    assert found["ip_forward"].remedy == "sysctl -w net.ipv4.ip_forward=1"
    assert found["somaxconn"].level is Level.OK
    assert found["local ports"].level is Level.HINT
    assert "tcp_max_syn_backlog" not in found  # this kernel has it not


def test_memory_is_the_smaller_of_machine_and_cgroup() -> None:
    machine = f"MemTotal: 1 kB\nMemAvailable:  {512 * 1024} kB"
    (finding,) = doctor._memory(reader(meminfo=machine, memory_max="max"))
    assert (finding.level, finding.text) == (Level.OK, "512 MiB usable")
    (finding,) = doctor._memory(reader(meminfo=machine, memory_max=str(100 << 20)))
    assert (finding.level, finding.text) == (Level.HINT, "100 MiB usable")
    assert list(doctor._memory(reader())) == []


def test_open_files() -> None:
    settings = config.load({}, environ={})
    (finding,) = doctor._limits(settings, (1024, 1024))
    assert finding.level is Level.HINT
    assert "21024" in finding.remedy
    (finding,) = doctor._limits(settings, (1024, resource.RLIM_INFINITY))
    assert finding.level is Level.OK


def _lacks(monkeypatch: pytest.MonkeyPatch, *, engine: bool, nginx: bool) -> None:
    async def no_engine() -> Engine:
        raise EngineUnavailableError(NO_ENGINE)

    def no_nginx() -> Nginx:
        raise MachineError(NO_NGINX)

    if engine:
        monkeypatch.setattr(Engine, "connect", no_engine)
    monkeypatch.setattr(
        doctor, "find_nginx", no_nginx if nginx else lambda: Nginx("/usr/sbin/nginx", "1.22.1")
    )


def test_it_can_run_with_an_nginx_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, engine=True, nginx=False)
    typed = machine.type("doctor")
    assert typed.status == 0
    assert "1.22.1 with http_dav at /usr/sbin/nginx" in typed.out
    assert "-> install one" in typed.out  # what no engine would need
    assert typed.out.endswith("lbctl can run here: as plain nginx processes (lbctl up)\n")


def test_it_cannot_run_with_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, engine=True, nginx=True)
    typed = machine.type("doctor")
    assert typed.status == 3
    assert "-> install one: apt-get install nginx-light" in typed.out


def test_ports(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, engine=True, nginx=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        typed = machine.type("doctor", "--bind", "127.0.0.1", "--port", str(port))
        assert f"port {port} is in use by another program" in typed.out
        assert "-> lbctl up --port ANOTHER" in typed.out
        machine.stacks["local"].there = True
        machine.lb.traffic = machine.lb.traffic._replace(port=port)
        typed = machine.type("doctor", "--bind", "127.0.0.1", "--port", str(port))
        assert "held by the stack of project 'lbctl'" in typed.out
