"""One cookie among others, and among garbage."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.balancing.cookies import CookieReader

READER = CookieReader("lb")


def find(*values: bytes) -> bytes:
    return READER.find([(b"host", b"lb=host"), *((b"cookie", value) for value in values)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"lb=1", b"1"),
        (b"lb=", b""),
        (b'lb="1"', b"1"),
        (b'lb=""', b""),
        (b"lb=a=b", b"a=b"),
        (b"a=1; lb=2; c=3", b"2"),
        (b"a=1;lb=2;c=3", b"2"),
        (b"a=1;\t lb=2 ;c=3", b"2"),
        (b"lb=1; lb=2", b"1"),
        (b"; ;;lb=1;", b"1"),
        (b'a="; lb=1; "', b"1"),  # no quotes hold a semicolon
        (b"a; lb=1", b"1"),
        (b"=; =x; \xff\xfe; a=\xc3\xa4; lb=1", b"1"),
        (b'lb="; lb=1', b"1"),  # the first one that is well-formed
        (b"!#$%&'()*+-./:<=>?@[]^_`{|}~=1; lb=!#$%&'()*+-./:<=>?@[]^_`{|}~",
         b"!#$%&'()*+-./:<=>?@[]^_`{|}~"),
    ],
)  # fmt: skip
def test_found(field: bytes, value: bytes) -> None:
    assert find(field) == value


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"lb",
        b"a=1",
        b"xlb=1",
        b"LB=1",
        b"lb =1",
        b"a=lb=1",
        b"a=1, lb=1",
        b"a=1 lb=1",
        b"lbx=1",
        b"lb=1 2",
        b"lb=1,2",
        b"lb=1\\",
        b'lb="1',
        b'lb=1"',
        b'lb=""1""',
        b"lb=\xc3\xa4",
        b"lb=\x00",
        b"lb=1\n",
        b"lb=\x7f",
    ],
)
def test_not_found(field: bytes) -> None:
    assert find(field) == b""


def test_several_fields() -> None:
    assert find(b"a=1", b"b=2; lb=3", b"lb=4") == b"3"
    assert READER.find([]) == b""
    assert READER.find([(b"set-cookie", b"lb=1")]) == b""


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "ä", "a\n", 'a"'])
def test_no_name_for_a_cookie(name: str) -> None:
    with pytest.raises(ValueError, match="name of a cookie"):
        CookieReader(name)


def test_a_name_is_no_pattern() -> None:
    assert CookieReader("a.b").find([(b"cookie", b"axb=1; a.b=2")]) == b"2"


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_read_without_an_error(values: list[bytes]) -> None:
    assert isinstance(find(*values), bytes)


PART = st.text(st.sampled_from("lbax=; \t\"',\\")).map(str.encode)


@given(st.lists(PART, max_size=6))
def test_the_same_as_cutting_at_semicolons(parts: list[bytes]) -> None:
    expected = b""
    for pair in b";".join(parts).split(b";"):
        name, equals, value = pair.strip(b" \t").partition(b"=")
        if len(value) > 1 and value[:1] == value[-1:] == b'"':
            value = value[1:-1]
        if name == b"lb" and equals and not set(value) & set(b' \t",\\'):
            expected = value
            break
    assert find(b";".join(parts)) == expected


@pytest.mark.parametrize("part", [b";", b" ", b"; ", b"lb=", b'lb="', b"lb=a ", b";lb="])
def test_the_time_is_linear_in_the_length(part: bytes) -> None:
    def best_s(field: bytes) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            find(field)
            times.append(time.perf_counter() - begin)
        return min(times)

    short, long = best_s(part * 2_000), best_s(part * 64_000)
    assert long < 32 * short * 8 + 0.001
