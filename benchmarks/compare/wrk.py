"""wrk: its script, its command line, and what it says at the end."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Sequence

# wrk prints percentiles with three digits at most; the script has them whole. Durations in µs.
_REPORT = """\
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50),
    latency:percentile(99), latency:percentile(99.9), errors.connect, errors.read,
    errors.write, errors.status, errors.timeout))
end
"""
_MARGIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted. `errors` has only the kinds that happened."""

    requests: int
    duration_s: float
    bytes: int
    p50_us: int
    p99_us: int
    p999_us: int
    errors: dict[str, int] = field(default_factory=dict)


_VARIED = """\
local number = 0
request = function()
  number = number + 1
  return wrk.format(nil, wrk.path .. "?" .. number)
end
"""


def script(*, method: str = "GET", body_bytes: int = 0, varied: bool = False) -> str:
    """The Lua that makes the requests (made once, where they are all the same) and the report."""
    lines = [_VARIED] if varied else []
    if method != "GET":
        lines.append(f'wrk.method = "{method}"')
    if body_bytes:
        lines.append(f'wrk.body = string.rep("x", {body_bytes})')
    return "\n".join([*lines, _REPORT])


def command(
    url: str, connections: int, seconds: int, script_file: str, *, close: bool = False
) -> list[str]:
    """One thread, so that one CPU is enough for it."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script_file]
    if close:
        argv += ["-H", "Connection: close"]
    return [*argv, url]


def parse(output: str) -> Load:
    """Read the report's line. Raises ValueError if there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            facts = json.loads(line)
            errors = {kind: count for kind, count in facts["errors"].items() if count}
            return Load(
                facts["requests"],
                facts["duration_us"] / 1e6,
                facts["bytes"],
                facts["p50_us"],
                facts["p99_us"],
                facts["p999_us"],
                errors,
            )
    raise ValueError(f"wrk said: {output.strip()[-300:] or 'nothing'}")


def run(argv: Sequence[str], seconds: int) -> Load:
    """Run it to its end. Raises OperationError if it fails or hangs."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + _MARGIN_S,
            check=False,
        )
        return parse(done.stdout + done.stderr)
    except subprocess.TimeoutExpired:
        raise OperationError(f"wrk did not end within {seconds + _MARGIN_S:g} s") from None
    except ValueError as error:
        raise OperationError(str(error)) from None
