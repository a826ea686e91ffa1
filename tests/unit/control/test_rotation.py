"""Exchanging the tokens while lists are written, and what is left when it is cut short."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from lbctl import tokens
from lbctl.config import Control, Health
from lbctl.control.reconciler import Reconciler
from lbctl.control.rotation import TokenRotator
from lbctl.core.credentials import name_of, token_of
from lbctl.errors import OperationError
from lbctl.model import ControlStats, State
from lbctl.paths import Paths, write_atomically
from tests.support.deadlines import eventually
from tests.support.fakes import FakeProbe, FakeRoutes, FakeWriter, MemoryStore, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lbctl.model import Backend, Membership

CONTROL = Control(publish_timeout_s=0.2, publish_retry_min_s=0.01, publish_retry_max_s=0.02)


class TokenWriter(FakeWriter):
    """Takes what comes with a token whose name lies in the directory, as nginx does."""

    def __init__(self, paths: Paths) -> None:
        super().__init__()
        self.paths = paths
        self.last: dict[str, str] = {}  # token by name of the backend
        self.refused = 0

    async def write(self, backend: Backend, membership: Membership) -> None:
        token = tokens.publish_token(self.paths, backend)
        await super().write(backend, membership)
        if not (self.paths.tokens / name_of(token, backend.ip)).exists():
            self.refused += 1
            raise OperationError("it refused its token")
        self.last[backend.name] = token


class Stack:
    def __init__(self, tmp_path: Path) -> None:
        self.paths = Paths(tmp_path / "state", tmp_path / "secrets")
        tokens.ensure(self.paths)
        self.writer = TokenWriter(self.paths)
        self.reconciler = Reconciler(
            Health(first_probe_interval_s=0.01),
            CONTROL,
            probe=FakeProbe(),
            writer=self.writer,
            routes=FakeRoutes(),
            store=MemoryStore(),
            stats=ControlStats(),
        )
        self.rotator = self.new_rotator()

    def new_rotator(self, spread_s: float = 5.0) -> TokenRotator:
        return TokenRotator(
            self.paths, self.reconciler, spread_s=spread_s, overlap_s=0.05, retry_s=0.01
        )

    def observe(self, names: str) -> None:
        self.reconciler.observe([running(name) for name in names])

    async def up(self, names: str) -> None:
        self.observe(names)
        await eventually(lambda: self.count_up() == len(names))

    def count_up(self) -> int:
        return sum(status.state is State.UP for status in self.reconciler.backends())

    @asynccontextmanager
    async def rotating(self, rotator: TokenRotator) -> AsyncIterator[None]:
        task = asyncio.create_task(rotator.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    stack = Stack(tmp_path)
    task = asyncio.create_task(stack.reconciler.run())
    yield stack
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def secrets_of(paths: Paths) -> tuple[str, str]:
    return tokens.read(paths.admin_token), tokens.read(paths.publish_secret)


def sent_to(names: str, secret: str) -> dict[str, str]:
    """By name, the token of each."""
    return {name: token_of(secret, backend_of(name)) for name in names}


def names_of(sent: dict[str, str]) -> set[str]:
    """The files by which those know their tokens."""
    return {name_of(token, backend_of(name).ip) for name, token in sent.items()}


def backend_of(name: str) -> Backend:
    backend = running(name).backend
    assert backend is not None
    return backend


def known(paths: Paths) -> set[str]:
    return {file.name for file in paths.tokens.iterdir()}


async def test_every_backend_takes_the_new_token_before_the_old_one_goes(stack: Stack) -> None:
    await stack.up("abc")
    before = secrets_of(stack.paths)
    generation = stack.reconciler.membership().generation
    rotation = await stack.rotator.rotate()
    assert (rotation.backends, rotation.lagging) == (3, ())
    after = secrets_of(stack.paths)
    assert not {*before} & {*after}
    assert stack.writer.last == sent_to("abc", after[1])
    assert known(stack.paths) == names_of(sent_to("abc", after[1]))
    assert not stack.rotator.rotating
    assert stack.reconciler.membership().generation == generation
    assert stack.writer.refused == 0


async def test_while_it_goes_on_both_are_valid_and_no_second_one_begins(stack: Stack) -> None:
    await stack.up("ab")
    old_admin, _ = secrets_of(stack.paths)
    old = dict(stack.writer.last)
    gate = stack.writer.gates["b"] = asyncio.Event()
    rotation = asyncio.create_task(stack.rotator.rotate())
    await eventually(lambda: stack.writer.last["a"] != old["a"])
    assert stack.rotator.rotating
    assert tokens.retiring(stack.paths) == old_admin
    assert names_of(old) < known(stack.paths)
    with pytest.raises(OperationError, match="being rotated already"):
        await stack.rotator.rotate()
    gate.set()
    await rotation
    assert stack.writer.refused == 0


async def test_a_write_under_way_ends_with_its_token(stack: Stack) -> None:
    """One that has read the old token, and is not where it is compared yet."""
    await stack.up("a")
    gate = stack.writer.gates["c"] = asyncio.Event()
    stack.observe("ac")
    await eventually(lambda: ("c", 1) in stack.writer.writes)
    rotation = asyncio.create_task(stack.rotator.rotate())
    await eventually(lambda: stack.rotator.rotating)
    gate.set()
    await rotation
    assert stack.writer.refused == 0


async def test_who_does_not_take_it_is_named_and_not_waited_for(stack: Stack) -> None:
    await stack.up("ab")
    old = secrets_of(stack.paths)
    stack.writer.failing["b"] = "it refused its token"
    rotation = await stack.new_rotator(spread_s=0.2).rotate()
    assert rotation.backends == 1
    assert rotation.lagging == (("b", "it refused its token"),)
    assert not {*old} & {*secrets_of(stack.paths)}
    # Nothing is valid for the one that lags, but what it is sent next.
    assert known(stack.paths) == names_of(sent_to("ab", tokens.read(stack.paths.publish_secret)))


async def test_one_that_took_lists_and_fails_now_is_named_too(stack: Stack) -> None:
    await stack.up("ab")
    stack.writer.failing["b"] = "no room on its disk"
    stack.observe("abc")
    await eventually(lambda: ("b", 2) in stack.writer.writes)
    rotation = await stack.new_rotator(spread_s=0.2).rotate()
    assert rotation.backends == 2
    assert rotation.lagging == (("b", "no room on its disk"),)


async def test_one_that_fails_and_takes_it_in_time_is_waited_for(stack: Stack) -> None:
    await stack.up("ab")
    stack.writer.failing["b"] = "no room on its disk"
    stack.observe("abc")
    await eventually(lambda: ("b", 2) in stack.writer.writes)
    rotating = asyncio.create_task(stack.rotator.rotate())
    await eventually(lambda: stack.rotator.rotating)
    del stack.writer.failing["b"]
    rotation = await rotating
    assert (rotation.backends, rotation.lagging) == (3, ())


async def test_who_took_no_list_before_is_not_waited_for(stack: Stack) -> None:
    stack.writer.failing["b"] = "no admin endpoint"
    await stack.up("a")
    stack.observe("ab")
    await eventually(lambda: ("b", 1) in stack.writer.writes)
    await eventually(lambda: stack.reconciler.backends()[1].reason.endswith("no admin endpoint"))
    rotation = await stack.rotator.rotate()
    assert (rotation.backends, rotation.lagging) == (1, ())


async def test_the_next_controller_finishes(stack: Stack) -> None:
    old_admin, old = secrets_of(stack.paths)
    tokens.begin(stack.paths)  # and its controller was killed
    await stack.up("ab")
    new_admin, new = secrets_of(stack.paths)
    async with stack.rotating(stack.new_rotator()):
        await eventually(lambda: not stack.rotator.rotating)
    assert secrets_of(stack.paths) == (new_admin, new) != (old_admin, old)
    assert stack.writer.last == sent_to("ab", new)
    assert known(stack.paths) == names_of(sent_to("ab", new))


async def test_it_waits_with_that_until_it_knows_who_is_there(stack: Stack) -> None:
    tokens.begin(stack.paths)
    async with stack.rotating(stack.new_rotator()):
        await asyncio.sleep(0)
        assert stack.rotator.rotating
        await stack.up("a")
        await eventually(lambda: not stack.rotator.rotating)


async def test_it_finishes_too_where_nobody_tells_who_is_there(stack: Stack) -> None:
    """Else the old tokens were valid for as long as the guard is away."""
    old_admin, _ = secrets_of(stack.paths)
    tokens.begin(stack.paths)
    async with stack.rotating(stack.new_rotator()):
        stack.reconciler.presume()
        await eventually(lambda: not stack.rotator.rotating)
    assert tokens.retiring(stack.paths) != old_admin


async def test_names_that_cannot_be_taken_away_are_tried_again(stack: Stack) -> None:
    await stack.up("ab")
    stray = stack.paths.tokens / "a stray directory"
    stray.mkdir()
    async with stack.rotating(stack.rotator):
        stack.observe("a")
        left = names_of(sent_to("b", tokens.read(stack.paths.publish_secret)))
        await eventually(lambda: not left & known(stack.paths))
        stray.rmdir()
        (stack.paths.tokens / "a stray file").touch()
        await eventually(lambda: known(stack.paths) == names_of(stack.writer.last) - left)


async def test_one_that_failed_half_way_is_finished(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.up("ab")
    admin, publishers = secrets_of(stack.paths)
    disk_full = OSError(28, "No space left on device")
    whole = write_atomically

    def write(path: Path, data: bytes, mode: int, **how: bool) -> None:
        if path == stack.paths.publish_secret:
            raise disk_full
        whole(path, data, mode, **how)

    monkeypatch.setattr(tokens, "write_atomically", write)
    async with stack.rotating(stack.rotator):
        with pytest.raises(OperationError, match="cannot write the new tokens: No space left"):
            await stack.rotator.rotate()
        await eventually(lambda: not stack.rotator.rotating)
        assert secrets_of(stack.paths) == (admin, publishers)
        assert known(stack.paths) == names_of(sent_to("ab", publishers))
        monkeypatch.undo()
        await stack.rotator.rotate()
    assert not {admin, publishers} & {*secrets_of(stack.paths)}


async def test_who_leaves_is_known_no_more(stack: Stack) -> None:
    await stack.up("abc")
    secret = tokens.read(stack.paths.publish_secret)
    async with stack.rotating(stack.rotator):
        stack.observe("ac")
        await eventually(lambda: known(stack.paths) == names_of(sent_to("ac", secret)))
        await stack.up("abc")
        assert known(stack.paths) == names_of(sent_to("abc", secret))
        stack.observe("")
        await eventually(lambda: known(stack.paths) == set())
    assert stack.writer.refused == 0


async def test_nor_is_who_left_while_nobody_led(stack: Stack) -> None:
    gone = tokens.publish_token(stack.paths, backend_of("b"))
    secret = tokens.read(stack.paths.publish_secret)
    async with stack.rotating(stack.rotator):
        await asyncio.sleep(0)
        assert known(stack.paths) == names_of({"b": gone})  # it may be there: nobody has looked
        await stack.up("a")
        await eventually(lambda: known(stack.paths) == names_of(sent_to("a", secret)))


async def test_one_that_leaves_while_tokens_are_rotated_goes_with_the_old_ones(
    stack: Stack,
) -> None:
    await stack.up("abc")
    async with stack.rotating(stack.rotator):
        gate = stack.writer.gates["c"] = asyncio.Event()
        rotation = asyncio.create_task(stack.rotator.rotate())
        await eventually(lambda: stack.rotator.rotating)
        stack.observe("ac")
        await eventually(lambda: ("c", 2) in stack.writer.writes)
        gate.set()
        await rotation
        secret = tokens.read(stack.paths.publish_secret)
        assert known(stack.paths) == names_of(sent_to("ac", secret))
    assert stack.writer.refused == 0


async def test_a_name_that_cannot_be_removed_is_told_and_tried_again(
    stack: Stack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.up("abc")

    def refuse(_: Path) -> None:
        raise OSError(30, "Read-only file system")

    async with stack.rotating(stack.rotator):
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", refuse)
            stack.observe("ac")
            await eventually(lambda: "cannot remove old tokens: Read-only" in caplog.text)
        stack.observe("a")
        secret = tokens.read(stack.paths.publish_secret)
        await eventually(lambda: known(stack.paths) == names_of(sent_to("a", secret)))
