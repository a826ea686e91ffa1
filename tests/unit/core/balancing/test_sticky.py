"""What a cookie says about a backend."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.balancing import RoundRobin
from lbctl.core.balancing.cookies import CookieReader
from lbctl.core.balancing.sticky import StickyTable, cookie_value
from tests.unit.core.balancing.servers import Server, servers


def table(pool: list[Server]) -> StickyTable[Server]:
    sticky: StickyTable[Server] = StickyTable()
    sticky.update(pool)
    return sticky


def test_a_value_leads_back_to_its_backend() -> None:
    pool = servers(["id-1", "id-2"])
    for one in pool:
        cookie = b"a=b; lb=" + cookie_value(one.name)
        value = CookieReader("lb").find([(b"cookie", cookie)])
        assert table(pool).find(value) is one


def test_the_same_value_on_every_worker_and_after_every_restart() -> None:
    assert cookie_value("id-1") == b"8004d1b0e952c4b4"
    assert table(servers(["id-1"])).find(cookie_value("id-1")) is not None


def test_a_value_shows_nothing_of_the_id() -> None:
    values = [cookie_value(f"10.0.0.{number}") for number in range(200)]
    assert len(set(values)) == 200
    assert all(re.fullmatch(rb"[0-9a-f]{16}", value) for value in values)


def test_who_is_gone_or_out_of_rotation_yields_to_the_policy() -> None:
    stays, leaves = pool = servers(["id-1", "id-2"])
    sticky = table(pool)
    policy: RoundRobin[Server] = RoundRobin()
    policy.update([stays])
    sticky.update([stays])
    value = cookie_value(leaves.name)
    assert (sticky.find(value) or policy.pick()) is stays


@given(st.binary(max_size=40))
def test_what_a_client_makes_up_is_nobody(value: bytes) -> None:
    assert table(servers(["id-1", "id-2"])).find(value) is None


def test_nobody_there() -> None:
    assert table([]).find(cookie_value("id-1")) is None
    assert table(servers(["id-1"])).find(b"") is None
