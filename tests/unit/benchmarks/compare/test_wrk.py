from __future__ import annotations

import pytest
from benchmarks.compare import wrk
from benchmarks.compare.wrk import Load

REPORT = (
    '{"requests":100,"duration_us":2000000,"bytes":4500,"p50_us":1500,"p99_us":9000,'
    '"p999_us":12000,"errors":{"connect":0,"read":2,"write":0,"status":1,"timeout":0}}'
)


def test_the_report_is_found_among_what_wrk_prints() -> None:
    output = f"Running 2s test @ http://x\n  1 threads\n{REPORT}\n"
    errors = {"read": 2, "status": 1}
    assert wrk.parse(output) == Load(100, 2.0, 4500, 1500, 9000, 12000, errors)


def test_without_a_report_what_wrk_said_is_told() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")
    with pytest.raises(ValueError, match="nothing"):
        wrk.parse("")


def test_the_command_line() -> None:
    argv = wrk.command("http://a:1/x", 64, 3, "s.lua", close=True)
    assert argv[0] == "wrk"
    assert argv[-1] == "http://a:1/x"
    assert {"-t1", "-c64", "-d3s", "Connection: close"} <= set(argv)
    assert "Connection: close" not in wrk.command("http://a:1/x", 64, 3, "s.lua")


def test_a_post_is_set_up_once_and_not_for_each_request() -> None:
    script = wrk.script(method="POST", body_bytes=16384)
    assert 'wrk.method = "POST"' in script
    assert 'wrk.body = string.rep("x", 16384)' in script
    assert "request =" not in script
    assert "wrk.method" not in wrk.script()
