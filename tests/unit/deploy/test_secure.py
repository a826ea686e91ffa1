"""What TLS adds to a stack on an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Config, Tls
from lbctl.deploy.secure import (
    TlsFiles,
    absolute,
    files_in,
    files_of,
    mounts_of,
    warnings_of,
)
from lbctl.errors import OperationError, UsageError
from tests.support.pairs import OPENSSL, make

if TYPE_CHECKING:
    from pathlib import Path

needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")


def config(**tls: object) -> Config:
    return replace(Config(), tls=Tls(**tls))  # type: ignore[arg-type]


def test_without_tls_nothing_is_mounted() -> None:
    assert files_of(config(), here=True) == TlsFiles()
    assert files_of(config(tls_dir="/no such", tls_port=0), here=True) == TlsFiles()


@pytest.mark.parametrize(
    ("tls", "mounts", "inside"),
    [
        (
            {"tls_dir": "/certs"},
            {"/etc/lbctl/tls": "/certs"},
            {"LBCTL_TLS_DIR": "/etc/lbctl/tls"},
        ),
        (
            {"tls_cert": "/c/x.pem"},
            {"/etc/lbctl/tls": "/c"},
            {"LBCTL_TLS_CERT": "/etc/lbctl/tls/x.pem"},
        ),
        (
            {"tls_cert": "/c/x.crt", "tls_key": "/c/x.key"},
            {"/etc/lbctl/tls": "/c"},
            {
                "LBCTL_TLS_CERT": "/etc/lbctl/tls/x.crt",
                "LBCTL_TLS_KEY": "/etc/lbctl/tls/x.key",
            },
        ),
        (
            {"tls_cert": "/c/x.crt", "tls_key": "/private/x.key"},
            {"/etc/lbctl/tls": "/c", "/etc/lbctl/tls-key": "/private"},
            {
                "LBCTL_TLS_CERT": "/etc/lbctl/tls/x.crt",
                "LBCTL_TLS_KEY": "/etc/lbctl/tls-key/x.key",
            },
        ),
    ],
)
def test_what_is_mounted_and_found_again(
    tls: dict[str, str], mounts: dict[str, str], inside: dict[str, str]
) -> None:
    files = files_of(config(**tls), here=False)
    assert dict(files.mounts) == mounts
    assert dict(files.settings) == inside
    assert files.outside == tls
    lb = {
        "HostConfig": {"Mounts": [{"Type": "volume", "Target": "/x"}, *mounts_of(files)]},
        "Config": {"Env": ["LBCTL_PROJECT=x", *(f"{k}={v}" for k, v in inside.items())]},
    }
    assert files_in(lb) == files
    assert all(mount["ReadOnly"] for mount in mounts_of(files))


def test_names_are_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(config(tls_dir="certs")).tls.tls_dir == str(tmp_path / "certs")
    assert absolute(config()) == config()


@needs_openssl
def test_what_no_lb_could_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        files_of(config(tls_dir=str(tmp_path / "x")), here=True)
    with pytest.raises(OperationError, match=r"no NAME\.crt"):
        files_of(config(tls_dir=str(tmp_path)), here=True)
    make("a.test").put(tmp_path, "a")
    assert files_of(config(tls_dir=str(tmp_path)), here=True).mounts
    (tmp_path / "a.key").write_bytes(make("a.test").key)
    with pytest.raises(OperationError, match="not that of the certificate"):
        files_of(config(tls_dir=str(tmp_path)), here=True)


@needs_openssl
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "fits"),
    [
        (0, 0, 0o600, True),
        (1000, 1000, 0o600, False),
        (1000, 0, 0o640, True),
        (1000, 1000, 0o640, False),
        (1000, 1000, 0o644, True),
    ],
)
def test_a_key_that_root_in_a_container_may_not_read(
    tmp_path: Path, uid: int, gid: int, mode: int, fits: bool
) -> None:
    make("a.test").put(tmp_path, "a")
    os.chown(tmp_path / "a.key", uid, gid)
    (tmp_path / "a.key").chmod(mode)
    if fits:
        assert files_of(config(tls_dir=str(tmp_path)), here=True).mounts
        return
    with pytest.raises(UsageError, match="chown root"):
        files_of(config(tls_dir=str(tmp_path)), here=True)


@needs_openssl
def test_a_link_that_leads_out_of_the_mount(tmp_path: Path) -> None:
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()
    make("a.test").put(archive, "a")
    for ending in ("crt", "key"):
        (live / f"a.{ending}").symlink_to(archive / f"a.{ending}")
    named = config(tls_cert=str(live / "a.crt"), tls_key=str(live / "a.key"))
    with pytest.raises(UsageError, match="do not see"):
        files_of(named, here=True)
    assert files_of(named, here=False).mounts
    with pytest.raises(UsageError, match="do not see"):
        files_of(config(tls_dir=str(live)), here=True)


@needs_openssl
def test_links_within_the_mount_are_seen(tmp_path: Path) -> None:
    """As Kubernetes has its secrets."""
    (tmp_path / "..1").mkdir()
    make("a.test").put(tmp_path / "..1", "tls")
    (tmp_path / "..data").symlink_to("..1")
    for ending in ("crt", "key"):
        (tmp_path / f"tls.{ending}").symlink_to(f"..data/tls.{ending}")
    assert files_of(config(tls_dir=str(tmp_path)), here=True).mounts


@pytest.mark.parametrize(
    "directory",
    ["/", "//", "/etc", "/etc/", "//etc", "/etc/ssl/..", "/root", "/run", "/var/run", "/home",
     "/home/somebody", "/var/lib/engine", "/var/lib"],
)  # fmt: skip
@pytest.mark.parametrize("here", [True, False])
def test_a_directory_that_holds_more_than_certificates_is_refused(
    directory: str, here: bool
) -> None:
    engine = "/var/lib/engine/docker.sock"
    for tls in (
        {"tls_dir": directory},
        {"tls_cert": f"{directory}/x.pem"},
        {"tls_cert": "/c/x.crt", "tls_key": f"{directory}/x.key"},
    ):
        with pytest.raises(UsageError, match="directory of their own"):
            files_of(config(**tls), here=here, socket=engine)
    assert files_of(config(tls_dir=f"{directory}/a/b"), here=False, socket=engine).mounts


@needs_openssl
def test_no_home_and_no_link_to_what_holds_more_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, own = tmp_path / "home", tmp_path / "home" / "certs"
    own.mkdir(parents=True)
    for directory in (home, own):
        make("a.test").put(directory, "a")
    monkeypatch.setenv("HOME", str(home))
    link, run = tmp_path / "link", tmp_path / "run"
    link.symlink_to(home)
    run.symlink_to("/run")
    for directory in (home, link, run):
        with pytest.raises(UsageError, match="directory of their own"):
            files_of(config(tls_dir=str(directory)), here=True)
    (own / "docker.sock").touch()
    assert files_of(config(tls_dir=str(own)), here=True).mounts
    (tmp_path / "docker.sock").symlink_to(own / "docker.sock")
    with pytest.raises(UsageError, match="directory of their own"):
        files_of(config(tls_dir=str(own)), here=True, socket=str(tmp_path / "docker.sock"))


@needs_openssl
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's own keys are only closed")
def test_up_says_which_keys_others_can_read_in_a_container(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in ("a", "b"):
        make("a.test").put(tmp_path, name)
    for settings in (
        config(tls_dir=str(tmp_path)),
        config(tls_cert=str(tmp_path / "a.crt"), tls_key=str(tmp_path / "a.key")),
    ):
        (tmp_path / "a.key").chmod(0o600)
        assert list(warnings_of(settings)) == []
        (tmp_path / "a.key").chmod(0o644)
        (warning,) = warnings_of(settings)
        assert warning.endswith(f"can read {tmp_path}/a.key: chmod 600 {tmp_path}/a.key")
    (tmp_path / "b.key").chmod(0o644)
    assert [", and 1 more: " in one for one in warnings_of(config(tls_dir=str(tmp_path)))] == [True]
    assert list(warnings_of(config())) == []
