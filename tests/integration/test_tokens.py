"""Rotating the tokens of a running local stack: under load, with backends coming and going, and
with its controller killed in the middle.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Cli, Wrk, get
from tests.support.credentials import names_for, token_for
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists
from tests.support.nginx import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

ROTATIONS = 10


@pytest.fixture
def stack() -> Iterator[Cli]:
    quiet = {"LBCTL_WORKERS": "2", "LBCTL_ACCESS_LOG": "off"}  # or the log would be cut under load
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings=quiet)
    try:
        one.ok("up")
        yield one
    finally:
        one.clean()


class Secrets:
    """The files of a stack's tokens."""

    def __init__(self, cli: Cli) -> None:
        self.state = cli.state / cli.project
        self.names = self.state / "secrets" / "tokens"

    def read(self) -> tuple[str, str]:
        """The admin token, and what the backends' tokens are drawn from."""
        files = (self.state / "admin-token", self.state / "publish-secret")
        return files[0].read_text().strip(), files[1].read_text().strip()

    @property
    def known(self) -> set[str]:
        return {file.name for file in self.names.iterdir()}

    @property
    def rotating(self) -> bool:
        return (self.state / "admin-token.old").exists()


def scale_status(cli: Cli, token: str, replicas: int) -> int:
    """What the admin port answers to a change with this token."""
    request = urllib.request.Request(  # noqa: S310
        f"{cli.admin_url}/api/v1/scale",
        data=json.dumps({"replicas": replicas}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=scaled(30)) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def put_status(ip: str, token: str) -> int:
    """What port 9000 of a backend answers to a list with this token; no list of ours is harmed."""
    return ask(ip, 9000, "PUT", "/other", fields={"Authorization": f"Bearer {token}"}).status


def put_statuses(rows: list[dict[str, Any]], secret: str) -> set[int]:
    """What these backends answer, each to its token as it is drawn from this secret."""
    return {put_status(row["ip"], token_for(secret, row)) for row in rows}


def audit_lines(cli: Cli) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in cli.logged().splitlines() if line.startswith("{")]
    return [line for line in lines if line["log"] == "audit"]


def test_ten_rotations_under_load_while_backends_come_and_go(stack: Cli) -> None:
    files = Secrets(stack)
    seen = [files.read()]
    trouble: list[str] = []
    over = threading.Event()

    def scale() -> None:
        size = 3
        while not over.is_set():
            size = 8 - size
            result = stack("scale", str(size))
            if result.status != 0:
                trouble.append(f"scale {size}: {result}")

    wrk = Wrk(stack.url + "/", seconds=scaled(40))
    scaling = threading.Thread(target=scale)
    scaling.start()
    try:
        for _ in range(ROTATIONS):
            answer = json.loads(stack.ok("token", "rotate", "--json"))
            assert answer["lagging"] == []
            seen.append(files.read())
    finally:
        over.set()
        scaling.join()
    load = wrk.finish()
    assert load.failed == 0, load.text
    assert trouble == []
    assert len({token for pair in seen for token in pair}) == 2 * (ROTATIONS + 1)

    stack.ok("scale", "3")
    assert_lists(stack, 3)
    until(lambda: files.known == names_for(seen[-1][1], stack.backends()))
    lines = audit_lines(stack)
    rotations = [line for line in lines if line["action"] == "token-rotate"]
    assert [line["status"] for line in rotations] == [200] * ROTATIONS
    assert {line["status"] for line in lines} == {200}
    text = stack.logged() + "".join(
        log.read_text() for log in (files.state / "backends").glob("*/nginx.log")
    )
    assert "refused its token" not in text
    assert "401" not in {str(line.get("status")) for line in lines}
    assert not [token for pair in seen for token in pair if token in text]

    rows = stack.backends()
    for admin, secret in seen[:-1]:
        assert scale_status(stack, admin, 3) == 401
        assert put_statuses(rows, secret) == {401}
    admin, secret = seen[-1]
    assert scale_status(stack, admin, 3) == 200
    assert put_statuses(rows, secret) == {404}


def test_a_backends_token_is_of_no_use_on_another(stack: Cli) -> None:
    """Not what it is sent, nor what a successor at its address is sent, nor the secret itself."""
    files = Secrets(stack)
    _, secret = files.read()
    rows = stack.backends()
    assert files.known == names_for(secret, rows)
    for row in rows:
        mine = token_for(secret, row)
        answers = {one["name"]: put_status(one["ip"], mine) for one in rows}
        assert answers == {one["name"]: 404 if one is row else 401 for one in rows}
        # The same container as if it had another's address, and another one at its address.
        other = next(one for one in rows if one is not row)
        assert put_status(other["ip"], token_for(secret, {**row, "ip": other["ip"]})) == 401
        assert put_status(row["ip"], token_for(secret, {**other, "ip": row["ip"]})) == 401
        assert put_status(row["ip"], secret) == 401
    assert_lists(stack, 3)


def test_who_has_left_leaves_nothing_that_opens(stack: Cli) -> None:
    files = Secrets(stack)
    _, secret = files.read()
    before = stack.backends()
    stack.ok("scale", "1")
    [stays] = stack.backends()
    until(lambda: files.known == names_for(secret, [stays]))
    stack.ok("scale", "3")
    after = stack.backends()
    assert {row["ip"] for row in after} == {row["ip"] for row in before}  # others have them now
    for old in before:
        [new] = [row for row in after if row["ip"] == old["ip"]]
        opened = put_status(old["ip"], token_for(secret, old))
        assert opened == (404 if new["id"] == old["id"] else 401)
    assert files.known == names_for(secret, after)


def test_who_left_while_no_controller_was_there_leaves_nothing_either(stack: Cli) -> None:
    files = Secrets(stack)
    _, secret = files.read()
    stray = "127.0.0.9-" + "x" * 22
    [pid] = stack.processes("controller")
    os.kill(pid, signal.SIGSTOP)
    (files.names / stray).touch()
    os.kill(pid, signal.SIGKILL)
    until(lambda: stray not in files.known)
    until(lambda: files.known == names_for(secret, stack.backends()), within=10)
    assert_lists(stack, 3)


def test_a_name_that_cannot_be_made_is_told_and_made_as_soon_as_it_can(stack: Cli) -> None:
    files = Secrets(stack)
    away = files.names.with_name("away")
    files.names.rename(away)
    scaling = threading.Thread(target=stack, args=("scale", "4"))
    scaling.start()
    try:
        until(lambda: why_not_up(stack), within=10)
        [why] = why_not_up(stack)
        assert why == (
            "it does not take the list: its token cannot be made known to it: "
            "No such file or directory"
        )
    finally:
        away.rename(files.names)
        scaling.join()
    until(lambda: len(stack.backends()) == 4, within=10)
    assert_lists(stack, 4)


def why_not_up(cli: Cli) -> list[str]:
    return [row["reason"] for row in cli.backends("enrolling") if "token" in row["reason"]]


def test_both_tokens_are_valid_until_every_backend_has_the_new_one(stack: Cli) -> None:
    files = Secrets(stack)
    old_admin, old = files.read()
    [victim, *_] = stack.backends()
    pid = int((files.state / "backends" / victim["name"] / "nginx.pid").read_text())
    os.killpg(pid, signal.SIGSTOP)
    with rotating(stack) as command:
        until(lambda: files.rotating and files.read()[0] != old_admin)
        admin, publishers = files.read()
        row = stack.backends()[-1]
        until(lambda: put_statuses([row], publishers) == {404})  # it is its turn
        assert put_statuses([row], old) == {404}
        assert scale_status(stack, old_admin, 99_999) == 400
        assert scale_status(stack, admin, 99_999) == 400
        assert stack.status()["tokens"]["rotating"] is True
        assert stack("token", "rotate").status == 1
        os.killpg(pid, signal.SIGCONT)
        out, err = command.communicate(timeout=scaled(30))
    assert command.returncode == 0, err
    assert "3 backends have taken theirs" in out
    assert scale_status(stack, old_admin, 99_999) == 401
    assert put_statuses([row], old) == {401}


@pytest.mark.parametrize("kill_supervisor", [False, True])
def test_a_controller_killed_in_the_middle_is_finished_by_the_next(
    stack: Cli, kill_supervisor: bool
) -> None:
    files = Secrets(stack)
    old_admin, old = files.read()
    with rotating(stack) as command:
        until(lambda: files.rotating and files.read()[0] != old_admin)
        role = "supervisor" if kill_supervisor else "controller"
        [pid] = stack.processes(role)
        os.kill(pid, signal.SIGKILL)
        if kill_supervisor:
            command.kill()
            command.communicate()
            stack.ok("up")
        else:
            out, err = command.communicate(timeout=scaled(60))
            assert command.returncode == 0, err
            assert "the backends have taken theirs" in out
    until(lambda: not files.rotating)
    admin, publishers = files.read()
    assert not {admin, publishers} & {old_admin, old}
    assert scale_status(stack, old_admin, 3) == 401
    assert scale_status(stack, admin, 4) == 200
    assert_lists(stack, 4)
    until(lambda: files.known == names_for(publishers, stack.backends()))
    assert put_statuses(stack.backends(), old) == {401}


def test_one_that_had_only_begun_is_cleaned_up(stack: Cli) -> None:
    """As after a kill between two of its files, with the third half written."""
    files = Secrets(stack)
    admin, publishers = files.read()
    [pid] = stack.processes("controller")
    os.kill(pid, signal.SIGSTOP)
    (files.state / "admin-token.old").write_text(admin + "\n")
    (files.names / ("5a" * 32)).touch()
    (files.state / ".publish-secret.x").write_text("5a" * 32)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not files.rotating)
    assert files.read() == (admin, publishers)
    assert files.known == names_for(publishers, stack.backends())
    assert not list(files.state.glob(".publish-secret*"))
    stack.ok("token", "rotate")
    assert files.read()[0] != admin


def test_no_secret_is_in_any_process_or_log(stack: Cli) -> None:
    """After a rotation, the old tokens and the new: not in the environment or the arguments of any
    process of this machine, nor in what the stack says of itself.
    """
    files = Secrets(stack)
    secret = secrets_of(stack)
    stack.ok("token", "rotate")
    secret |= secrets_of(stack)
    stack.ok("scale", "4")
    said = stack.logged() + "".join(
        log.read_text() for log in (files.state / "backends").glob("*/nginx.log")
    )
    said += stack.ok("status", "--json") + stack.ok("logs") + get(f"{stack.admin_url}/metrics")
    for file in (files.state / "backends").glob("*/*"):
        if file.is_file():
            said += file.read_text()
    said += "".join(files.known)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("environ", "cmdline"):
                with contextlib.suppress(OSError):
                    said += (entry / name).read_text(errors="replace")
    assert not [token for token in secret if token in said]
    modes = {path.stat().st_mode & 0o777 for path in secret_files(files)}
    assert modes == {0o400}
    assert files.names.stat().st_mode & 0o777 == 0o711


def secrets_of(cli: Cli) -> set[str]:
    """Both secrets, and the key of every backend."""
    admin, secret = Secrets(cli).read()
    keys = {token_for(secret, row).partition(".")[0] for row in cli.backends()}
    return {admin, secret, *keys}


def secret_files(files: Secrets) -> list[Path]:
    """Every file of the stack that holds a token."""
    tokens = files.read()
    return [
        path
        for path in files.state.rglob("*")
        if path.is_file() and any(token in path.read_text(errors="replace") for token in tokens)
    ]


@contextlib.contextmanager
def rotating(cli: Cli) -> Iterator[subprocess.Popen[str]]:
    """`lbctl token rotate` beside the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "lbctl", "token", "rotate"],
        env=cli.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
