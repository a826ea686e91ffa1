"""What the code writes, and what the text says of it, is as docs/logging.schema.json has it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.http1 import Request, parse_request
from lbctl.core.origin import Hop, Origin, networks
from lbctl.model import Backend
from lbctl.process import logs
from lbctl.process.output import Output
from lbctl.proxy.accesslog import AccessLog
from tests.support.schema import check_line, faults
from tests.support.schema import logs as schema

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
ORIGIN = Origin(Hop("lbctl-1", "w-", networks("192.0.2.0/24")), "192.0.2.7", "http")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    aiohttp_level = logging.getLogger("aiohttp").level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("aiohttp").setLevel(aiohttp_level)
        logging.captureWarnings(capture=False)
        sys.excepthook = hook


def access_line(
    request: Request | None, backend: Backend | None, *, query: bool = True, status: int = 200
) -> str:
    written: list[str] = []
    log = AccessLog(written.append, query=query)
    log.add((1.1, 1.0, ORIGIN, request, 1, status, 32, 0.001, 0.002, backend, 0))
    log.flush()
    return written[0]


@given(
    st.binary(max_size=6000), st.binary(max_size=6000), st.text(max_size=100), st.integers(100, 599)
)
def test_an_access_line_is_as_it_is_said(
    method: bytes, target: bytes, name: str, status: int
) -> None:
    request = Request(b"", method, target, 1, b"h", fields=[])
    check_line(access_line(request, Backend("x", name[:30], "10.0.0.1"), status=status))
    check_line(access_line(None, None, status=status))


@pytest.mark.parametrize("character", ['"', "\\", "a", "~"])
def test_the_longest_target_and_id_still_make_one_line(character: str) -> None:
    head = f"{'M' * 9000} /{character * 9000}?x HTTP/1.1\r\nHost: h\r\nX-Request-Id: "
    request = parse_request(f"{head}{'~' * 128}\r\n\r\n".encode(), 100)
    row = check_line(access_line(request, Backend("x", "b" * 200, "10.0.0.1")))
    assert row["target"].startswith("/" + character * 400)
    assert row["request_id"] == "~" * 128


@pytest.mark.parametrize(
    ("target", "logged"),
    [("/a?token=x", "/a?"), ("/a", "/a"), ("/?", "/?"), ("/?a?b", "/?"), ("*", "*")],
)
def test_without_its_query_a_target_says_that_it_had_one(target: str, logged: str) -> None:
    method = "OPTIONS" if target == "*" else "GET"
    request = parse_request(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 100)
    assert check_line(access_line(request, None, query=False))["target"] == logged
    request.logged = ""
    assert check_line(access_line(request, None, query=True))["target"] == target


@given(st.text(max_size=5000), st.text(max_size=5000))
def test_a_control_line_is_as_it_is_said_and_one_whatever_is_in_it(message: str, why: str) -> None:
    formatter = logs.JsonFormatter("worker-0")
    record = logging.LogRecord("lbctl.x", logging.INFO, "", 0, "said %s", (message,), None)
    row = check_line(formatter.format(record))
    assert row["message"][:200] == f"said {message}"[:200]
    try:
        raise ValueError(why)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert check_line(formatter.format(record))["error"]


def test_nobody_else_writes_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("worker-0", "warning")
    logging.getLogger("lbctl.x").info("under the level")
    logging.getLogger("lbctl.x").warning("a\nb\x1b[31m")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of Python's", stacklevel=1)
    try:
        raise ValueError("unexpected")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    out, err = capfd.readouterr()
    first, second, third = map(check_line, out.splitlines())
    assert err == ""
    assert (first["level"], first["message"]) == ("warning", "a\nb\x1b[31m")
    assert "of Python's" in second["message"]
    assert (third["level"], third["role"]) == ("critical", "worker-0")
    assert "ValueError: unexpected" in third["error"]


def test_lines_that_were_lost_are_told_in_the_same_form() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        output = Output(writing, "worker-0")
        while not output.dropped:
            output.write("x" * 4000 + "\n")
        os.read(reading, 1 << 20)
        output.write("again\n")
        notice, again = os.read(reading, 65_536).decode().splitlines()
    finally:
        os.close(reading)
        os.close(writing)
    row = check_line(notice)
    assert (row["role"], row["lines"], again) == ("worker-0", 1, "again")


def test_the_schema_refuses_what_it_should() -> None:
    good = json.loads(access_line(None, None, status=400))
    access = schema()["$defs"]["access"]
    assert not faults(good, access)
    for wrong in (
        good | {"more": 1},
        good | {"status": "400"},
        good | {"status": 99},
        good | {"bytes": -1},
        good | {"bytes": True},
        good | {"time": "2026-11-23 10:02:31"},
        good | {"log": "acces"},
        good | {"target": "x" * 2049},
        {name: value for name, value in good.items() if name != "client"},
    ):
        assert faults(wrong, access), wrong
        assert faults(wrong, schema()), wrong


@pytest.mark.parametrize("kind", ["access", "control", "audit", "backend"])
def test_the_text_has_the_fields_of_the_schema(kind: str) -> None:
    text = (DOCS / "logging.md").read_text(encoding="utf-8")
    headings = {"access": "Access", "control": "Control", "audit": "Audit", "backend": "Backends"}
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (own,) = [part for part in section if part.startswith(headings[kind])]
    for field in schema()["$defs"][kind]["properties"]:
        assert field == "log" or f"`{field}`" in own, field
    for example in re.findall(r"^ *(\{.+\})$", own, re.MULTILINE):
        assert check_line(example)["log"] == kind


@pytest.mark.parametrize("name", ["vector.yaml", "promtail.yaml"])
def test_the_examples_are_yaml_and_name_fields_that_exist(name: str) -> None:
    document = yaml.safe_load((DOCS / "logging" / name).read_text(encoding="utf-8"))
    control = schema()["$defs"]["control"]["properties"]
    if name == "promtail.yaml":
        stages = document["scrape_configs"][0]["pipeline_stages"]
        assert set(stages[0]["json"]["expressions"].values()) <= set(control)
        assert set(stages[1]["labels"]) <= set(stages[0]["json"]["expressions"])
    else:
        assert set(document["sinks"]["collector"]["inputs"]) == {"lbctl", "lbctl.dropped"}


def test_the_example_for_fluent_bit_knows_every_kind() -> None:
    text = (DOCS / "logging" / "fluent-bit.conf").read_text(encoding="utf-8")
    (kinds,) = re.findall(r"Regex +log \^\((.+)\)\$", text)
    assert set(kinds.split("|")) == {one["$ref"].rpartition("/")[2] for one in schema()["oneOf"]}
    for line in text.splitlines():
        assert re.fullmatch(r"|#.*|\[[A-Z]+\]|    [A-Za-z._]+ +\S.*|    #.*", line), line
