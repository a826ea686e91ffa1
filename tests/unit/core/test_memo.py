"""Heads that are remembered, in bounded memory."""

from __future__ import annotations

import tracemalloc

from lbctl.core.forwarding import request_head
from lbctl.core.http1 import Request, parse_request
from lbctl.core.memo import HEAD_BYTES, Memo
from lbctl.core.origin import Hop, Origin

ORIGIN = Origin(Hop("lbctl-1", "w-"), "192.0.2.7", "http")


def test_what_was_kept_is_found_by_its_bytes() -> None:
    memo: Memo[int] = Memo()
    memo.keep(b"a" * HEAD_BYTES, 1)
    memo.keep(b"a" * (HEAD_BYTES + 1), 2)
    assert memo.get(b"a" * HEAD_BYTES) == 1
    assert memo.get(b"a" * (HEAD_BYTES + 1)) is None


def test_a_full_one_starts_anew() -> None:
    memo: Memo[int] = Memo()
    for number in range(5000):
        memo.keep(b"%d" % number, number)
        assert len(memo) <= 1024
    assert memo.get(b"4999") == 4999


def test_a_closed_one_keeps_nothing() -> None:
    memo: Memo[int] = Memo()
    memo.keep(b"a", 1)
    memo.close()
    memo.keep(b"b", 2)
    assert not memo


def test_the_largest_heads_with_the_most_fields_take_no_more_than_it_says() -> None:
    memo: Memo[Request] = Memo()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(256):
            lines = [b"TE: x", *(b"a%d: %d" % (one, number * 100 + one) for one in range(90))]
            start = b"GET /%d HTTP/1.1\r\nHost: h\r\n" % number + b"\r\n".join(lines) + b"\r\nb: "
            head = start.ljust(HEAD_BYTES - 4, b"y") + b"\r\n\r\n"
            request = parse_request(head, 100)
            request_head(request, ORIGIN, number)
            memo.keep(head, request)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(memo) == 256  # a quarter of what it holds
    assert after - before < 6 * 2**20 / 4
