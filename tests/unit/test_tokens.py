"""The files of the two secrets, and how one is exchanged for the other wherever it is cut short."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl import tokens
from lbctl.core.credentials import name_of, token_of
from lbctl.errors import OperationError
from lbctl.model import Backend
from lbctl.paths import Paths, write_atomically

if TYPE_CHECKING:
    from pathlib import Path


A = Backend("a", "backend-1", "10.0.0.1")
B = Backend("b", "backend-2", "10.0.0.2")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "state", tmp_path / "secrets")
    tokens.ensure(paths)
    return paths


def known(paths: Paths) -> set[str]:
    return {file.name for file in paths.tokens.iterdir()}


def names(paths: Paths, *backends: Backend) -> set[str]:
    """Those by which backends know the tokens that are drawn from the present secret."""
    secret = tokens.read(paths.publish_secret)
    return {name_of(token_of(secret, backend), backend.ip) for backend in backends}


def secrets_of(paths: Paths) -> tuple[str, str]:
    return tokens.read(paths.admin_token), tokens.read(paths.publish_secret)


def test_secrets_have_256_bits_and_a_mode(paths: Paths) -> None:
    secrets = secrets_of(paths)
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in secrets)
    assert len(set(secrets)) == 2
    for file in (paths.admin_token, paths.publish_secret):
        assert file.stat().st_mode & 0o777 == 0o400
        assert file.parent == paths.state  # which no backend sees
    for directory in (paths.state, paths.secrets, paths.tokens):
        assert directory.stat().st_mode & 0o777 == 0o711
    assert known(paths) == set()


def test_what_is_there_stays(paths: Paths) -> None:
    before = secrets_of(paths)
    tokens.publish_token(paths, A)
    tokens.ensure(paths)
    assert secrets_of(paths) == before
    assert known(paths) == names(paths, A)


def test_each_backend_has_a_token_of_its_own_and_knows_it_when_it_is_sent(paths: Paths) -> None:
    sent = {tokens.publish_token(paths, backend) for backend in (A, B, A)}
    secret = tokens.read(paths.publish_secret)
    assert sent == {token_of(secret, A), token_of(secret, B)}
    assert known(paths) == names(paths, A, B)
    assert {file.read_bytes() for file in paths.tokens.iterdir()} == {b""}
    told = "".join(known(paths))
    assert not [token for token in sent if token.partition(".")[0] in told]


def test_a_name_that_was_removed_comes_back_with_the_next_list(paths: Paths) -> None:
    token = tokens.publish_token(paths, A)
    (paths.tokens / name_of(token, A.ip)).unlink()
    assert tokens.publish_token(paths, A) == token
    assert known(paths) == names(paths, A)


def test_who_has_left_is_known_no_more(paths: Paths) -> None:
    successor = replace(A, id="c")  # it got the address of one that has left
    for backend in (A, B, successor):
        tokens.publish_token(paths, backend)
    (paths.tokens / ("5a" * 32)).touch()
    tokens.keep_known(paths, [successor, B, replace(A, id="d")])
    assert known(paths) == names(paths, successor, B)
    tokens.keep_known(paths, [])
    assert known(paths) == set()


def test_old_and_new_are_valid_until_it_is_finished(paths: Paths) -> None:
    admin, secret = secrets_of(paths)
    tokens.publish_token(paths, A)
    old = names(paths, A)
    assert not tokens.under_way(paths)
    assert tokens.retiring(paths) == ""
    tokens.begin(paths)
    assert tokens.under_way(paths)
    assert tokens.retiring(paths) == admin
    assert paths.retiring_token.stat().st_mode & 0o777 == 0o400
    assert not {admin, secret} & {*secrets_of(paths)}
    tokens.publish_token(paths, A)
    assert known(paths) == old | names(paths, A)
    assert not old & names(paths, A)
    tokens.finish(paths, [A])
    assert not tokens.under_way(paths)
    assert tokens.retiring(paths) == ""
    assert known(paths) == names(paths, A)
    for file in (paths.admin_token, paths.publish_secret):
        assert file.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("writes", range(4))
def test_one_that_is_cut_short_is_seen_and_can_be_finished(
    paths: Paths, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`writes` files are written, then its controller is killed; the last one half way."""
    left = iter(range(writes))
    whole = write_atomically

    def write(path: Path, data: bytes, mode: int, **how: bool) -> None:
        if next(left, None) is None:
            (path.parent / f".{path.name}.x").write_bytes(data)
            raise KeyboardInterrupt
        whole(path, data, mode, **how)

    tokens.publish_token(paths, A)
    monkeypatch.setattr(tokens, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt) if writes < 3 else nullcontext():
        tokens.begin(paths)
    assert tokens.under_way(paths) == (writes > 0)
    tokens.publish_token(paths, A)
    tokens.finish(paths, [A])
    assert not tokens.under_way(paths)
    assert known(paths) == names(paths, A)
    left_over = sorted(file.name for file in paths.state.iterdir())
    assert left_over == ["admin-token", "publish-secret"]
    assert [file.name for file in paths.secrets.iterdir()] == ["tokens"]
    tokens.read(paths.admin_token)


def test_finishing_what_was_never_begun_changes_nothing(paths: Paths) -> None:
    tokens.publish_token(paths, A)
    before = secrets_of(paths), known(paths)
    tokens.finish(paths, [A])
    assert (secrets_of(paths), known(paths)) == before


def test_it_is_told_when_they_were_changed(paths: Paths, tmp_path: Path) -> None:
    at = tokens.changed_at(paths)
    assert at == paths.admin_token.stat().st_mtime
    assert tokens.changed_at(Paths(tmp_path / "none", tmp_path / "none")) is None


def test_an_error_names_no_file_of_the_volume(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, flags, mode)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OperationError) as told:
        tokens.publish_token(paths, A)
    assert str(told.value) == "its token cannot be made known to it: Permission denied"


def test_without_a_secret_nothing_is_sent_and_nothing_withdrawn(paths: Paths) -> None:
    tokens.publish_token(paths, A)
    paths.publish_secret.unlink()
    before = known(paths)
    for act in (lambda: tokens.publish_token(paths, B), lambda: tokens.keep_known(paths, [])):
        with pytest.raises(OperationError, match="publish-secret: No such file"):
            act()
    assert known(paths) == before


@pytest.mark.parametrize("content", ["", "x" * 64, "A" * 64, "5a" * 31, "5a" * 33])
def test_what_is_no_token_is_not_read(paths: Paths, content: str) -> None:
    paths.publish_secret.chmod(0o600)
    paths.publish_secret.write_text(content)
    with pytest.raises(OperationError, match="holds no token"):
        tokens.read(paths.publish_secret)


@pytest.mark.parametrize("content", ["5a" * 32, "5a" * 32 + "\n"])
def test_a_token_may_end_without_a_line(paths: Paths, content: str) -> None:
    paths.publish_secret.chmod(0o600)
    paths.publish_secret.write_text(content)
    assert tokens.read(paths.publish_secret) == "5a" * 32


@pytest.mark.parametrize("more", ["\n\n", "\n" + " " * 4096 + "x", "\n5a\n"])
def test_nothing_stands_behind_a_token(paths: Paths, more: str) -> None:
    paths.publish_secret.chmod(0o600)
    paths.publish_secret.write_text("5a" * 32 + more)
    with pytest.raises(OperationError, match="holds no token"):
        tokens.read(paths.publish_secret)


def test_what_is_no_file_neither_blocks_nor_is_followed(paths: Paths, tmp_path: Path) -> None:
    fifo, link, directory = tmp_path / "fifo", tmp_path / "link", tmp_path / "directory"
    os.mkfifo(fifo)
    link.symlink_to(paths.publish_secret)
    directory.mkdir()
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    for path, why in ((fifo, "no file"), (link, "link"), (endless, "link"), (directory, "no file")):
        with pytest.raises(OperationError, match=why):
            tokens.read(path)


def test_an_empty_file_becomes_a_token_and_nothing_else_does(paths: Paths) -> None:
    """What a loss of power may leave."""
    for path in (paths.admin_token, paths.publish_secret):
        path.chmod(0o600)
        path.write_bytes(b"")
    tokens.ensure(paths)
    assert tokens.read(paths.admin_token) != tokens.read(paths.publish_secret)
    paths.admin_token.chmod(0o600)
    paths.admin_token.write_text("x")
    with pytest.raises(OperationError, match="holds no token"):
        tokens.ensure(paths)


def test_a_token_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    tokens.ensure(Paths(tmp_path / "state", tmp_path / "secrets"))
    assert synced == [65, 65]
