from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.wrk import Errors, parse

GOOD = """\
Running 10s test @ http://127.0.0.1:8080/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.32ms    4.61ms   1.20s    88.60%
    Req/Sec     5.42k     1.05k    8.05k    70.50%
  Latency Distribution
     50%  475.00us
     75%    7.23ms
     90%   10.01ms
     99%    1.10s
  108100 requests in 10.02s, 29.91MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 12
Requests/sec:  10788.53
Transfer/sec:      2.98MB
""".replace("1.10s\n", "1.10s \n")  # it fills up a unit of one letter

NOTHING = """\
Running 3s test @ http://127.0.0.1:8182/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.00us    0.00us   0.00us    -nan%
    Req/Sec     0.00      0.00     0.00      -nan%
  Latency Distribution
     50%    0.00us
     75%    0.00us
     90%    0.00us
     99%    0.00us
  0 requests in 3.01s, 0.00B read
  Socket errors: connect 0, read 0, write 0, timeout 8
Requests/sec:      0.00
Transfer/sec:       0.00B
"""


def without(start: str) -> str:
    lines = GOOD.splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(start)]
    assert len(kept) == len(lines) - 1
    return "".join(kept)


def test_every_figure() -> None:
    load = parse(GOOD)
    assert (load.requests, load.took_s, load.requests_per_second) == (108_100, 10.02, 10_788.53)
    assert load.read_bytes == pytest.approx(29.91 * 1024**2)
    assert [load.mean_s, load.slowest_s] == pytest.approx([0.00632, 1.2])
    assert load.percentiles_s == pytest.approx({50: 0.000475, 75: 0.00723, 90: 0.01001, 99: 1.1})
    assert load.errors == Errors(connect=1, read=2, write=3, timeout=4, status=12)
    assert load.errors.total == 22


def test_without_errors_there_are_no_lines_of_them() -> None:
    assert (
        parse(without("Socket").replace("  Non-2xx or 3xx responses: 12\n", "")).errors.total == 0
    )


def test_nothing_was_answered() -> None:
    load = parse(NOTHING)
    assert (load.requests, load.requests_per_second, load.read_bytes) == (0, 0.0, 0.0)
    assert load.errors == Errors(timeout=8)


@pytest.mark.parametrize(
    "start", ["Latency   ", "50%", "75%", "90%", "99%", "108100", "Requests/sec"]
)
def test_half_an_output_is_none(start: str) -> None:
    with pytest.raises(ValueError, match="wrk did not say"):
        parse(without(start))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.02s", "10,02s"), ("29.91MB", "29.91 MB"), ("10788.53", "nan"), ("6.32ms", "6.32"),
        ("12\n", "-12\n"), ("timeout 4", "timeout"), ("108100", "1e5"), ("475.00us", "475.00xs"),
        ("2 threads", "x threads"), ("Requests/sec", "\x1b[31mRequests/sec"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_wrk_s_is_an_error(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"not a line of wrk's|wrk did not say"):
        parse(GOOD.replace(old, new))


@pytest.mark.parametrize(
    "said", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", "Usage: wrk <options>"]
)
def test_what_wrk_says_instead(said: str) -> None:
    with pytest.raises(ValueError, match="wrk"):
        parse(said)


@given(st.text())
def test_no_text_is_more_than_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wrk"):
        parse(text)
