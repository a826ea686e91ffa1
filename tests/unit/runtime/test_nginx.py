from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import MachineError
from lbctl.runtime import nginx

if TYPE_CHECKING:
    from pathlib import Path

SUITED = "--with-http_ssl_module --with-http_secure_link_module --with-http_dav_module"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only nginx of the machine would be."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nginx, "_ALSO", ())
    return tmp_path / "nginx"


def install(program: Path, version: str, arguments: str, status: int = 0) -> None:
    program.write_text(
        "#!/bin/sh\n"
        f'echo "nginx version: {version}" >&2\n'
        f'echo "configure arguments: {arguments}" >&2\n'
        f"exit {status}\n",
        encoding="utf-8",
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("nginx/1.16.1", "1.16.1"),
        ("nginx/1.22.1 (Ubuntu)", "1.22.1"),
        ("openresty/1.25.3.1", "1.25.3.1"),
        ("nginx", "?"),
    ],
)
def test_one_with_the_modules(program: Path, told: str, version: str) -> None:
    install(program, told, SUITED)
    assert nginx.find_nginx() == nginx.Nginx(str(program), version)


def test_none_at_all(program: Path) -> None:
    with pytest.raises(MachineError) as caught:
        nginx.find_nginx()
    first, second = str(caught.value).splitlines()
    assert first == "no nginx is installed"
    assert second.startswith("install one")


@pytest.mark.parametrize("module", ["http_dav", "http_secure_link"])
def test_one_without_a_module(program: Path, module: str) -> None:
    install(program, "nginx/1.22.1", SUITED.replace(f"--with-{module}_module", ""))
    with pytest.raises(MachineError, match=f"built without {module}\ninstall one"):
        nginx.find_nginx()


def test_debian_had_the_module_in_another_package(program: Path) -> None:
    (program.parent / "apt-get").write_text("#!/bin/sh\n", encoding="utf-8")
    (program.parent / "apt-get").chmod(0o755)
    for module, package in (("http_dav", "nginx-light"), ("http_secure_link", "nginx-extras")):
        install(program, "nginx/1.18.0", SUITED.replace(f"--with-{module}_module", ""))
        with pytest.raises(MachineError, match=f"apt-get install {package}$"):
            nginx.find_nginx()


def test_one_that_does_not_run(program: Path) -> None:
    program.write_bytes(b"\x7fELF garbage")
    program.chmod(0o755)
    with pytest.raises(MachineError, match="does not run"):
        nginx.find_nginx()


def test_the_command_fits_the_machine(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    assert nginx.install_command() == (
        "install one that has the modules http_dav and http_secure_link"
    )
    for name in ("dnf", "apk"):
        (program.parent / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (program.parent / name).chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert nginx.install_command() == "install one: sudo apk add nginx"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert nginx.install_command() == "install one: apk add nginx"
