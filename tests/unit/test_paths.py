from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from lbctl import paths


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing in the environment names a directory; the user is an ordinary one."""
    for name in ("LBCTL_STATE_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return monkeypatch


def test_where_a_local_project_lives(bare: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.gettempdir()) / "lbctl-1000"
    assert paths.local("shop").state == temporary / "shop"
    bare.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert paths.local("shop").state == Path("/run/user/1000/lbctl/shop")
    bare.setattr(os, "geteuid", lambda: 0)
    assert paths.local("shop").state == Path("/run/lbctl/shop")
    bare.setenv("LBCTL_STATE_DIR", "/srv/lb")
    assert paths.local("shop").state == Path("/srv/lb/shop")


def test_projects_share_no_file(bare: pytest.MonkeyPatch) -> None:
    one, other = paths.local("one"), paths.local("other")
    assert one.secrets.is_relative_to(one.state)
    assert not one.state.is_relative_to(other.state)


def test_in_a_container_the_secrets_are_not_on_the_volume_of_names() -> None:
    """Backends mount the one in which there is none."""
    for secret in (paths.CONTAINER.admin_token, paths.CONTAINER.publish_secret):
        assert secret.is_relative_to(paths.CONTAINER.state)
    assert paths.CONTAINER.tokens.is_relative_to(paths.CONTAINER.secrets)
    assert not paths.CONTAINER.secrets.is_relative_to(paths.CONTAINER.state)


def test_every_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    here = paths.Paths(tmp_path / "state", tmp_path / "secrets")
    names = [name for name, kind in vars(paths.Paths).items() if isinstance(kind, property)]
    files = [getattr(here, name) for name in names]
    assert len(set(files)) == len(files) >= 10


@pytest.mark.parametrize("mode", [0o644, 0o400])
def test_write_atomically(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    paths.write_atomically(file, b"one", mode)
    paths.write_atomically(file, b"two", mode)
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    bodies = {bytes([65 + n]) * 50_000 for n in range(5)}
    paths.write_atomically(file, next(iter(bodies)))
    done = threading.Event()

    def write() -> None:
        for _ in range(20):
            for body in bodies:
                paths.write_atomically(file, body)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert file.read_bytes() in bodies
    writer.join()


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    paths.write_atomically(file, b"old")

    def full(_descriptor: int, _mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space left"):
        paths.write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        paths.write_atomically(tmp_path / "nowhere" / "file", b"")
