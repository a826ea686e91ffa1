from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from benchmarks.compare import processes
from benchmarks.compare.processes import Cores, Drain, Place

from lbctl.errors import MachineError, OperationError
from tests.support.deadlines import scaled, until

WORDS = "sleep 600 & echo $! > child; exec sleep 600"


def test_the_proxy_has_the_last_cpu_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3})
    assert processes.cores() == Cores(5, (2, 3))


def test_one_cpu_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(MachineError, match="one CPU"):
        processes.cores()


def test_pinning_is_a_command_that_anybody_can_repeat() -> None:
    assert processes.pinned([0, 2], ["wrk", "-t1"]) == ["taskset", "-c", "0,2", "wrk", "-t1"]


def test_a_missing_program_is_named_with_what_installs_it(tmp_path: Path) -> None:
    place = Place(tmp_path, "127.77.2.1", [], tmp_path, Cores(1, (0,)))
    with pytest.raises(MachineError, match="envoy-of-nobody is not installed"):
        place.program("envoy-of-nobody")


def test_tools_come_before_the_path(tmp_path: Path) -> None:
    (tmp_path / "sh").touch(mode=0o755)
    place = Place(tmp_path, "127.77.2.1", [], tmp_path, Cores(1, (0,)))
    assert place.program("sh") == str(tmp_path / "sh")


def test_a_drain_counts_lines_however_they_come() -> None:
    drain = Drain()
    for piece in (b"one\ntw", b"o\n", b"three\n" * 100_000):
        rest = piece
        while rest:
            rest = rest[os.write(drain.write, rest) :]
    os.close(drain.write)
    assert until(lambda: drain.lines == 100_002)


def test_ending_takes_what_a_process_left_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(["sh", "-c", WORDS], cwd=tmp_path, start_new_session=True)
    child = int(until(lambda: (tmp_path / "child").read_text()))
    processes.end(process)
    assert process.returncode is not None
    # Its parent is gone, so whoever is the reaper here decides when its entry goes.
    assert until(lambda: _is_dead(child))


def _is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_an_address_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OperationError, match="in use"):
            processes.refuse_taken([taken])
    processes.refuse_taken([taken])


def test_a_process_that_ends_at_once_is_not_waited_for() -> None:
    process = subprocess.Popen(["true"])
    process.wait(scaled(5))
    assert not processes.wait_until("127.0.0.1:9", process, scaled(60))


def test_scratch_lets_others_through_and_is_gone_afterwards() -> None:
    with processes.scratch() as directory:
        assert directory.stat().st_mode & 0o777 == 0o711
    assert not directory.exists()
