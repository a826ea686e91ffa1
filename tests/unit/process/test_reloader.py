"""What becomes of settings that are to be changed while it runs, and cannot be."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.config import Config, digest_of
from lbctl.core.history import Event, Kind
from lbctl.errors import OperationError, UsageError
from lbctl.paths import Paths
from lbctl.process.controller import Reloader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lbctl.process.host import SupervisorClient
    from lbctl.process.hub import Hub


class FakeLbs:
    """This lb's supervisor and the other lbs, as far as a reload concerns them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.heard: Callable[[], object] = list  # whenever one is told to reload
        self.peers = FakePeers(self)

    async def reload(self) -> None:
        await self.do("own")

    async def do(self, what: str) -> None:
        self.calls.append(what)
        self.heard()
        if what in self.failing:
            raise OperationError("they do not serve")


class FakePeers:
    def __init__(self, lbs: FakeLbs) -> None:
        self._lbs = lbs

    async def reload(self, within_s: float) -> None:  # noqa: ARG002 - as the real ones'
        await self._lbs.do("peers")

    async def take_back(self, within_s: float) -> None:  # noqa: ARG002
        self._lbs.failing.discard("peers")
        await self._lbs.do("peers back")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "secrets")


def reloader(paths: Paths, lbs: FakeLbs, config: Config | None = None) -> Reloader:
    return Reloader(config or Config(), paths, cast("SupervisorClient", lbs), cast("Hub", lbs))


async def test_only_what_was_changed_is_kept(paths: Paths) -> None:
    """The rest stays open for the environment of a later start."""
    lbs = FakeLbs()
    it = reloader(paths, lbs)
    await it.reload({"workers": 4})
    await it.reload({"access_log": "off"})
    await it.reload(None)
    assert json.loads(paths.serve.read_text()) == {"workers": 4, "access_log": "off"}
    assert (it.settings()["workers"], it.settings()["access_log"]) == (4, "off")
    assert lbs.calls == ["peers", "own"] * 3
    assert paths.serve.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("who", ["peers", "own"])
@pytest.mark.parametrize("before", [None, {"workers": 2}])
async def test_what_did_not_work_is_not_kept(
    paths: Paths, who: str, before: dict[str, int] | None
) -> None:
    if before is not None:
        paths.serve.write_text(json.dumps(before))
    lbs = FakeLbs()
    lbs.failing.add(who)
    it = reloader(paths, lbs)
    with pytest.raises(OperationError, match="they do not serve"):
        await it.reload({"workers": 500})
    kept = json.loads(paths.serve.read_text()) if paths.serve.exists() else None
    assert kept == before
    assert it.settings()["workers"] == 0
    assert lbs.calls[-1] == "peers back"  # those that took it go back


async def test_why_it_did_not_work_is_told_though_it_cannot_be_undone(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lbs = FakeLbs()
    lbs.failing.add("own")
    it = reloader(paths, lbs)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(paths.serve), "unlink", fail)
    with pytest.raises(OperationError, match="they do not serve"):
        await it.reload({"workers": 500})
    assert "No space left" in caplog.text
    assert lbs.calls == ["peers", "own"]  # there is nothing old for the others to go back to


@pytest.mark.parametrize("wrong", [{"no_such": 1}, {"fall": 0}, {"port": 1234}])
async def test_what_cannot_be_meant_reaches_nobody(paths: Paths, wrong: dict[str, int]) -> None:
    lbs = FakeLbs()
    with pytest.raises(UsageError):
        await reloader(paths, lbs).reload(wrong)
    assert lbs.calls == []
    assert not paths.serve.exists()


def test_the_digest_is_of_what_can_differ(paths: Paths) -> None:
    one = digest_of(Config())
    assert reloader(paths, FakeLbs()).digest() == one
    assert digest_of(replace(Config(), workers=3)) != one
    assert digest_of(replace(Config(), port=81, bind="127.0.0.1")) == one


@pytest.mark.parametrize("fails", [False, True])
async def test_an_lb_that_comes_back_while_others_reload_has_what_it_is_to_have(
    paths: Paths, fails: bool
) -> None:
    """Held against the settings of before, it would be told to reload once more."""
    lbs, told = FakeLbs(), list[str]()
    it = reloader(paths, lbs)
    lbs.heard = lambda: told.append(it.digest())
    old, new = digest_of(Config()), digest_of(replace(Config(), workers=3))
    if fails:
        lbs.failing.add("own")
        with pytest.raises(OperationError):
            await it.reload({"workers": 3})
        assert told == [new, new, old]
    else:
        await it.reload({"workers": 3})
        assert told == [new, new]
        assert it.digest() == new


def test_who_leads_knows_what_was_changed_without_it(paths: Paths) -> None:
    """Else it would tell those to reload that have it already, while it reloads itself."""
    paths.serve.write_text('{"workers": 3}')
    it = reloader(paths, FakeLbs())
    assert it.digest() == digest_of(replace(Config(), workers=3))
    paths.serve.write_text('{"workers": "many"}')
    assert reloader(paths, FakeLbs()).digest() == digest_of(Config())


async def test_the_history_hears_what_changed(paths: Paths) -> None:
    lbs, told = FakeLbs(), list[Event]()
    it = reloader(paths, lbs)
    it.record = told.append
    await it.reload({"fall": 7, "probe_headers": "X-Secret: 1"})
    await it.reload(None)
    lbs.failing.add("own")
    with pytest.raises(OperationError):
        await it.reload({"fall": 8})
    assert [(one.kind, one.text) for one in told] == [
        (Kind.RELOAD, "new workers and controllers: probe_headers, fall"),
        (Kind.RELOAD, "new workers and controllers: no other settings"),
        (Kind.RELOAD, "it did not work: they do not serve: fall"),
    ]
    assert told[0].data == {"changed": {"probe_headers": ["", "X-Secret"], "fall": [3, 7]}}
