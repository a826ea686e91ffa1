from __future__ import annotations

import contextlib
import json
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from lbctl import config
from lbctl.cli import certificates, doctor
from lbctl.cli.findings import Finding, Level
from lbctl.config import Tls
from lbctl.deploy import Address, FoundStack
from lbctl.errors import EngineUnavailableError, MachineError
from lbctl.runtime.engine import Engine
from lbctl.runtime.nginx import Nginx
from tests.support.pairs import OPENSSL, make
from tests.unit.cli.machine import NO_ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

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


@pytest.mark.parametrize(
    ("count", "level", "remedy"),
    [
        ("4000", Level.OK, ""),
        ("209716", Level.HINT, "sysctl -w net.netfilter.nf_conntrack_max=1048576"),
    ],
)
def test_a_full_table_of_connections(count: str, level: Level, remedy: str) -> None:
    kernel = {"nf_conntrack_max": "262144", "nf_conntrack_tcp_timeout_time_wait": "120"}
    found = by_subject(doctor._tracked(reader(nf_conntrack_count=count, **kernel)))
    finding = found["tracked connections"]
    assert (finding.level, finding.remedy) == (level, remedy)
    assert finding.text.startswith(f"{count} of 262144, which carry 2184 new ones/s for long")


def test_nothing_is_said_of_a_table_that_is_not_there() -> None:
    assert not list(doctor._tracked(reader()))


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
    assert "1.22.1 with its modules at /usr/sbin/nginx" in typed.out
    assert "-> install one" in typed.out  # what no engine would need
    assert typed.out.endswith("lbctl can run here: as plain nginx processes (lbctl up)\n")


def test_it_cannot_run_with_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, engine=True, nginx=True)
    typed = machine.type("doctor")
    assert typed.status == 3
    assert "-> install one: apt-get install nginx-light" in typed.out


@pytest.mark.parametrize(("nginx", "runtime", "status"), [(False, "local", 0), (True, None, 3)])
def test_a_document(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    nginx: bool,
    runtime: str | None,
    status: int,
) -> None:
    _lacks(monkeypatch, engine=True, nginx=nginx)
    typed = machine.type("doctor", "--json")
    found = json.loads(typed.out)
    assert (typed.status, found["runtime"]) == (status, runtime)
    rows = {row["subject"]: row for row in found["findings"]}
    assert rows["python"]["level"] == "ok"
    assert rows["docker"]["level"] == "hint"
    assert rows["docker"]["remedy"] == "install one"


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
        assert "in use" not in typed.out
        with socket.create_server(("127.0.0.1", 0)) as other:
            another = other.getsockname()[1]
            typed = machine.type("doctor", "--bind", "127.0.0.1", "--port", str(another))
            assert f"port {another} is in use by another program" in typed.out


def test_a_stack_that_runs_elsewhere_is_asked_nothing_about_the_default_ports(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lacks(monkeypatch, engine=True, nginx=False)
    machine.stacks["local"].there = True
    machine.lb.traffic = machine.lb.traffic._replace(port=81)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            held.enter_context(socket.create_server(("127.42.0.1", 8080)))
        typed = machine.type("doctor", "--json")
    subjects = [row["subject"] for row in json.loads(typed.out)["findings"]]
    assert "port 81" in subjects
    assert "port 8080" not in subjects


@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
def test_certificates(tmp_path: Path) -> None:
    for name, made in (
        ("a-good", make("a.test", "*.a.test")),
        ("b-bare", make()),
        ("c-soon", make("c.test", days=5)),
        ("d-late", make("d.test", days=-3, begins_days=-30)),
        ("e-many", make(*(f"host-{number}.test" for number in range(7)))),
    ):
        made.put(tmp_path, name)
    make("f.test").put(tmp_path, "f-mixed")
    (tmp_path / "f-mixed.key").write_bytes(make("f.test").key)
    found = by_subject(certificates.findings(Tls(tls_dir=str(tmp_path)), ()))
    levels = {name.removeprefix("certificate "): one.level for name, one in found.items()}
    assert levels == {
        "a-good": Level.OK, "b-bare": Level.OK, "c-soon": Level.HINT, "d-late": Level.HINT,
        "e-many": Level.OK, "f-mixed": Level.HINT,
    }  # fmt: skip
    assert found["certificate a-good"].text == "for a.test, *.a.test, 89 days left"
    assert found["certificate b-bare"].text.startswith("for no host, ")
    assert "expires in 4 days" in found["certificate c-soon"].text
    assert "has expired" in found["certificate d-late"].text
    assert "and 3 more" in found["certificate e-many"].text
    assert "not that of the certificate" in found["certificate f-mixed"].text
    assert all(one.remedy for one in found.values() if one.level is not Level.OK)


@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
def test_a_key_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("a.test").put(tmp_path, "a")
    monkeypatch.setattr(certificates, "open_to_others", lambda path: path.name == "a.key")
    (finding,) = certificates.findings(Tls(tls_dir=str(tmp_path)), ())
    assert finding.remedy == f"chmod 600 {tmp_path / 'a.key'}"


@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
def test_a_key_that_others_can_read_where_it_is_mounted(tmp_path: Path) -> None:
    shut, certs = tmp_path / "shut", tmp_path / "shut" / "certs"
    certs.mkdir(parents=True)
    shut.chmod(0o700)
    make("a.test").put(certs, "a")
    (certs / "a.key").chmod(0o644)
    (finding,) = certificates.findings(Tls(tls_dir=str(certs)), ())
    assert finding.level is Level.HINT
    assert "in an lb's container" in finding.text
    assert finding.remedy.endswith(f"chmod 600 {certs / 'a.key'}")
    nowhere = Address("", 1)
    local = FoundStack("local", "x", "lb", True, nowhere, nowhere)
    (finding,) = certificates.findings(Tls(tls_dir=str(certs)), (None, local))
    assert finding.level is Level.OK


@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
def test_certificates_are_those_of_the_stack_where_nobody_names_others(tmp_path: Path) -> None:
    make("a.test").put(tmp_path, "a")
    nowhere = Address("", 1)
    stack = FoundStack(
        "local", "x", "lb", True, nowhere, nowhere, tls_files={"tls_dir": str(tmp_path)}
    )
    assert [one.level for one in certificates.findings(Tls(), (None, stack))] == [Level.OK]
    assert list(certificates.findings(Tls(), (None, None))) == []


def test_where_no_certificate_is(tmp_path: Path) -> None:
    for settings in (Tls(tls_dir=str(tmp_path)), Tls(tls_dir=str(tmp_path / "no such"))):
        (finding,) = certificates.findings(settings, ())
        assert finding.level is Level.HINT
        assert str(tmp_path) in finding.text
    (finding,) = certificates.findings(Tls(tls_cert="a", tls_dir="b"), ())
    assert "give one of them" in finding.text
