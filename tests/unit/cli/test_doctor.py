from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from lbctl import config
from lbctl.cli import doctor, install
from lbctl.cli.doctor import Finding, Level
from lbctl.errors import EngineUnavailableError, MachineError
from lbctl.runtime.engine import Engine
from lbctl.runtime.nginx import Nginx
from tests.unit.cli.machine import NO_ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

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
    assert "tcp_migrate_req" not in found  # this kernel has it not


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


# --fix


def test_fix_does_nothing_where_something_runs(machine: Machine) -> None:
    machine.engine_problem = NO_ENGINE
    typed = machine.type("doctor", "--fix")
    assert (typed.status, typed.out, typed.err) == (0, "", "")
    machine.engine_problem, machine.nginx = "", NO_NGINX
    assert machine.type("doctor", "--fix").status == 0


def test_fix_gives_the_command_where_it_may_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.engine_problem, machine.nginx = NO_ENGINE, NO_NGINX
    monkeypatch.setattr(install, "_may_install", lambda: False)
    typed = machine.type("doctor", "--fix")
    assert typed.status == 3
    assert typed.err.splitlines()[-1] == "install one: apt-get install nginx-light"


def test_fix_installs_and_says_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.engine_problem, machine.nginx = NO_ENGINE, NO_NGINX
    policy = tmp_path / "policy-rc.d"
    commands: list[list[str]] = []

    def runs(command: list[str]) -> bool:
        if command[0] == "apt-get":
            assert policy.stat().st_mode & 0o111  # packages start no service meanwhile
        commands.append(command)
        machine.nginx = ""
        return True

    monkeypatch.setattr(install, "_may_install", lambda: True)
    monkeypatch.setattr(install, "_POLICY", policy)
    monkeypatch.setattr(install, "_runs", runs)
    typed = machine.type("doctor", "--fix")
    assert typed.status == 0
    assert "installing nginx-light" in typed.err
    assert commands[0][:2] == ["apt-get", "install"]
    assert not policy.exists()


def test_fix_that_fails_says_what_to_try(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.engine_problem, machine.nginx = NO_ENGINE, NO_NGINX
    policy = tmp_path / "policy-rc.d"
    policy.write_text("somebody else's", encoding="utf-8")
    monkeypatch.setattr(install, "_POLICY", policy)
    monkeypatch.setattr(install, "_may_install", lambda: True)
    monkeypatch.setattr(install, "_runs", lambda _: False)
    typed = machine.type("doctor", "--fix")
    assert typed.status == 1
    assert typed.err.splitlines()[-1] == "apt-get update && apt-get install nginx-light"
    assert policy.read_text(encoding="utf-8") == "somebody else's"
