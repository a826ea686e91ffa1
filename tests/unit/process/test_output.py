"""Output that never blocks, whoever does not read it."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lbctl.process.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def pipe() -> Iterator[tuple[Output, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, resource.getpagesize() * 2)
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    try:
        yield Output(writing), reading
    finally:
        os.close(reading)
        os.close(writing)


def test_the_pipe_that_it_is_given_never_blocks_and_is_as_long_as_anybody_may_have_one() -> None:
    program = (
        "import fcntl, os; from lbctl.process.output import never_block; never_block()\n"
        "print(os.get_blocking(1), fcntl.fcntl(1, fcntl.F_GETPIPE_SZ))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said == f"False {1 << 20}\n"


def test_lines_come_out_as_they_went_in() -> None:
    with pipe() as (output, reading):
        output.write("one\ntwo\n")
        output.write("thr\N{LATIN SMALL LETTER E WITH ACUTE}\n")
        assert os.read(reading, 65_536).decode() == "one\ntwo\nthr\xe9\n"


def test_a_full_pipe_loses_whole_lines_and_says_how_many() -> None:
    with pipe() as (output, reading):
        lines = [f"{number} " + "x" * 200 + "\n" for number in range(200)]
        for line in lines:
            output.write(line)
        lost = output.dropped
        assert lost > 100
        kept = os.read(reading, 1 << 20).decode().splitlines(keepends=True)
        assert kept == lines[: len(lines) - lost]
        output.write("again\n")
        notice, again = os.read(reading, 65_536).decode().splitlines()
        assert json.loads(notice)["lines"] == lost
        assert again == "again"
        assert (output.dropped, output.lost) == (0, lost)


def test_a_batch_goes_out_in_pieces_of_whole_lines() -> None:
    with pipe() as (output, reading):
        text = "".join(f"{number:05} " + "y" * 94 + "\n" for number in range(60))
        output.write(text)
        assert os.read(reading, 1 << 20).decode() == text


def test_a_notice_does_not_tear_what_comes_after_it() -> None:
    with pipe() as (output, reading):
        full = "x" * (select.PIPE_BUF - 1) + "\n"
        output.write(full)
        output.dropped = 3  # of which there is a notice to write, with room for one page
        output.write(full)
        first, notice = os.read(reading, 1 << 20).decode().splitlines(keepends=True)
        assert first == full
        assert json.loads(notice)["lines"] == 3
        assert output.dropped == 1
        output.write(full)
        notice, last = os.read(reading, 1 << 20).decode().splitlines(keepends=True)
        assert json.loads(notice)["lines"] == 1
        assert last == full


def test_a_closed_or_full_file_is_no_error() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device, not a path
        output = Output(full.fileno())
        output.write("lost\nlost too\n")
        assert output.dropped == 2
