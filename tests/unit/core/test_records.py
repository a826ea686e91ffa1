"""Where records of TLS begin and end, however they are cut."""

from __future__ import annotations

import random

import pytest

from lbctl.core.records import RECORD_BYTES, Records, begins_well

FULL = RECORD_BYTES + 256 + 5


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + size.to_bytes(2, "big") + b"\x17" * size


def hello(record_bytes: int, message_bytes: int, kind: int = 1) -> bytes:
    """Its first nine bytes."""
    return b"\x16\x03\x01%b%c%b" % (
        record_bytes.to_bytes(2, "big"), kind, message_bytes.to_bytes(3, "big")
    )  # fmt: skip


def test_a_small_one_is_one_piece() -> None:
    assert list(Records().pieces(record(40))) == [(record(40), 1)]


def test_full_ones_are_a_piece_each() -> None:
    full = record(RECORD_BYTES + 256)
    assert list(Records().pieces(full * 4)) == [(full, 1)] * 4


def test_many_small_ones_are_cut_by_their_number() -> None:
    pieces = list(Records().pieces(record(22) * 9000))
    assert max(count for _, count in pieces) == 32
    assert sum(count for _, count in pieces) == 9000
    assert b"".join(piece for piece, _ in pieces) == record(22) * 9000


@pytest.mark.parametrize("seed", range(20))
def test_however_it_comes_it_is_the_same(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 22, 300, 5000, RECORD_BYTES + 256]) for _ in range(60)]
    data = b"".join(map(record, sizes))
    records, got, count, at = Records(), [], 0, 0
    while at < len(data):
        step = chance.choice([1, 3, 4, 5, 6, 700, 20_000, 100_000])
        for piece, begun in records.pieces(data[at : at + step]):
            assert len(piece) <= FULL
            assert begun <= 33  # one whose header was cut, and 32
            got.append(piece)
            count += begun
        at += step
    assert b"".join(got) == data
    assert count == len(sizes)


@pytest.mark.parametrize(
    ("data", "well"),
    [
        (b"\x16", None),
        (hello(508, 504)[:8], None),
        (hello(508, 504), None),
        (hello(508, 504) + b"x" * 503, None),
        (hello(508, 504) + b"x" * 504, True),
        (hello(16_384, 16_384), None),  # the rest of it in another record
        (hello(16_384, 16_385), False),
        (hello(512, 0x01F000), False),
        (hello(3, 504), False),
        (hello(16_385, 504), False),
        (hello(508, 504, 2), False),
        (hello(0xFFFF, 504), False),
    ],
)
def test_what_a_client_may_begin_with(data: bytes, well: bool | None) -> None:
    assert begins_well(data) is well
