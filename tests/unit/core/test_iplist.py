"""The two files, byte for byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.iplist import address_key, render_json, render_text, timestamp
from lbctl.model import Backend, Member, Membership

AT = datetime(2026, 11, 22, 10, 0, 0, 123_999, UTC)


def members(*ips: str) -> tuple[Member, ...]:
    return tuple(Member(Backend(f"id-{ip}", f"name-{ip}", ip), AT) for ip in ips)


def test_text_is_one_address_a_line() -> None:
    assert render_text(Membership(7, AT, members("10.0.0.9", "10.0.0.10"))) == (
        b"10.0.0.9\n10.0.0.10\n"
    )


def test_an_empty_list_is_an_empty_file() -> None:
    assert render_text(Membership(0, AT, ())) == b""


def test_json() -> None:
    assert render_json(Membership(7, AT, members("10.0.0.9"))) == (
        b'{"generation": 7, "updated_at": "2026-11-22T10:00:00.123Z", "backends": '
        b'[{"ip": "10.0.0.9", "id": "id-10.0.0.9", "name": "name-10.0.0.9", '
        b'"since": "2026-11-22T10:00:00.123Z"}]}\n'
    )


def test_timestamps_are_utc_whatever_zone_they_came_in() -> None:
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 1, 1, 1, 2, 3, 4000, east)) == "2025-12-31T23:02:03.004Z"


def test_addresses_sort_by_number() -> None:
    ips = ["10.0.0.10", "9.255.0.1", "10.0.0.9"]
    assert sorted(ips, key=address_key) == ["9.255.0.1", "10.0.0.9", "10.0.0.10"]


@given(st.text(), st.integers(min_value=0))
def test_any_name_makes_valid_ascii_json(name: str, generation: int) -> None:
    member = Member(Backend("id", name, "127.0.0.1"), AT)
    body = render_json(Membership(generation, AT, (member,)))
    assert body.isascii()
    assert body.count(b"\n") == 1
    document = json.loads(body)
    assert document["generation"] == generation
    assert document["backends"][0]["name"] == name
