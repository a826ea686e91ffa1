"""What the code writes, and what the text says of it, is as docs/logging.schema.json has it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lbctl.admin.audit import Audit, Entry
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


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_who_changed_what_is_said_at_every_level(
    capfd: pytest.CaptureFixture[str], level: str
) -> None:
    logs.set_up("controller", level)
    entry = Entry("127.0.0.1", "wrong", "curl", "POST", "/api/v1/scale", refused="token")
    Audit("a").close(entry, 401)
    (row,) = map(check_line, capfd.readouterr().out.splitlines())
    assert (row["log"], row["status"]) == ("audit", 401)


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


def example(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCS / "logging" / name).read_text(encoding="utf-8"))
    return document


def pattern_of(rule: str) -> str:
    field, _, pattern = rule.partition(" ")
    assert field == "log"
    return pattern


@pytest.mark.parametrize("name", ["fluent-bit.yaml", "fluent-bit-loki.yaml"])
def test_the_examples_for_fluent_bit_keep_every_kind_and_the_errors_of_nginx(name: str) -> None:
    kinds = {one["$ref"].rpartition("/")[2] for one in schema()["oneOf"]}
    pipeline = example(name)["pipeline"]
    parse, keep, text, *_ = pipeline["filters"]
    assert (parse["name"], keep["name"], text["name"]) == ("parser", "grep", "modify")
    kept = pattern_of(keep["regex"])
    condition, _, rest = text["condition"].partition(" ")
    assert condition == "key_value_does_not_match"
    for value in kinds:
        assert re.search(kept, value), value
        assert re.search(pattern_of(rest), value), value
    error = "2026/11/28 01:29:57 [alert] 1#1: worker process 9 exited on signal 9\n"
    assert re.search(kept, error)
    assert not re.search(pattern_of(rest), error)
    for other in ("accessed", "backend: up", "28/11/2026 01:29:57 [alert] x", "GET / 200"):
        assert not re.search(kept, other), other
    assert (text["rename"], text["add"]) == ("log message", "log text")
    (output,) = pipeline["outputs"]
    assert output["tls"] is output["tls.verify_hostname"] is True
    assert output.get("format", "json_lines") == "json_lines"
    for part in (*pipeline["filters"], output):
        assert fnmatch(pipeline["inputs"][0]["tag"], part["match"])


def test_the_examples_for_fluent_bit_read_alike() -> None:
    plain, loki = example("fluent-bit.yaml"), example("fluent-bit-loki.yaml")
    assert plain["parsers"] == loki["parsers"]
    assert plain["service"] == loki["service"]
    (parser,) = plain["parsers"]
    assert parser["time_keep"] is True
    for definition in schema()["$defs"].values():
        assert parser["time_key"] in definition.get("properties", {"time": {}})
    (one,), (other,) = plain["pipeline"]["inputs"], loki["pipeline"]["inputs"]
    id_of_container = "2b398b9926fa" + 52 * "0"
    # Ruby's way to write a named group is not Python's.
    tag_regex = other.pop("tag_regex").replace("(?<", "(?P<")
    found = re.search(tag_regex, f"/var/lib/docker/containers/x/{id_of_container}-json.log")
    assert found is not None
    assert found["container"] == "2b398b9926fa"
    assert one.pop("tag") + ".<container>" == other.pop("tag")
    assert one == other
    for left, right in zip(plain["pipeline"]["filters"], loki["pipeline"]["filters"], strict=False):
        assert left | {"match": None} == right | {"match": None}


def test_the_labels_for_loki_are_copies_of_fields_that_exist() -> None:
    pipeline = example("fluent-bit-loki.yaml")["pipeline"]
    copies = dict(copy.split()[::-1] for copy in pipeline["filters"][-1]["copy"])
    control = schema()["$defs"]["control"]["properties"]
    assert set(copies.values()) <= set(control)
    # A field that is a label itself would be gone from the line.
    assert not set(copies) & set(control)
    labels = dict(label.split("=") for label in pipeline["outputs"][0]["labels"].split(", "))
    assert set(labels) == {"job", "log", "level", "container"}
    sources = {value[1:] for value in labels.values() if value.startswith("$")}
    assert sources - {"TAG[1]"} == set(copies)
