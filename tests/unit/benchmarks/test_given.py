from __future__ import annotations

import asyncio

import pytest
from benchmarks import given

from lbctl.errors import EngineError, UsageError
from lbctl.model import Phase, Release
from lbctl.ports import Change
from tests.support.deadlines import scaled


def test_a_backend_is_where_it_is_said_to_be_and_gets_no_list() -> None:
    made = given.backend(2, "127.77.1.2:8080")
    assert (made.name, made.ip, made.port, made.publish) == ("backend-2", "127.77.1.2", 8080, False)


@pytest.mark.parametrize("address", ["127.0.0.1", ":80", "127.0.0.1:http", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address:port"):
        given.backend(1, address)


async def test_they_run_always_and_nothing_ever_happens_to_them() -> None:
    runtime = given.GivenRuntime([given.backend(1, "127.77.1.1:8080")])
    (instance,) = await runtime.list()
    assert instance.phase is Phase.RUNNING
    changes = runtime.watch()
    assert await anext(changes) == Change("subscribed")
    waiting = asyncio.ensure_future(anext(changes))
    done, _ = await asyncio.wait([waiting], timeout=scaled(0.05))
    assert not done
    waiting.cancel()


async def test_neither_more_nor_fewer_can_be_had() -> None:
    runtime = given.GivenRuntime([])
    with pytest.raises(EngineError):
        await runtime.start(1, Release())
    with pytest.raises(EngineError):
        await runtime.stop("backend-1", 1.0)


def test_wrong_addresses_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert given.main(["nowhere"]) == 2
    assert "no address:port" in capsys.readouterr().err
