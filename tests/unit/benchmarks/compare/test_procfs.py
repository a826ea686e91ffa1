from __future__ import annotations

import os

import pytest
from benchmarks.compare import procfs
from benchmarks.compare.procfs import Spent, Stat, Ticks

LINE = "4711 (nginx: worker) (x) S 4700 4711 4711 0 -1 4194368 0 0 0 0 120 30 7 9 20 0 1 0 100 5"


def test_a_name_may_hold_spaces_and_parentheses() -> None:
    assert procfs.parse_stat(LINE) == Stat(4711, "nginx: worker) (x", 4700, 150)


@pytest.mark.parametrize("line", ["", "12 (x) S 1", LINE.replace("120", "much")])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"stat line|invalid literal"):
        procfs.parse_stat(line)


FAMILY = [
    Stat(1, "init", 0, 0),
    Stat(10, "supervisor", 1, 5),
    Stat(11, "worker", 10, 50),
    Stat(12, "nginx", 10, 70),
    Stat(13, "nginx", 12, 700),
    Stat(20, "another", 1, 9),
]


def test_a_tree_is_the_root_and_all_below_it() -> None:
    assert set(procfs.tree(FAMILY, 10)) == {10, 11, 12, 13}


def test_a_skipped_process_takes_its_children_with_it() -> None:
    assert set(procfs.tree(FAMILY, 10, {"nginx"})) == {10, 11}


def test_a_root_that_is_gone_has_no_tree() -> None:
    assert procfs.tree(FAMILY, 99) == {}


def test_what_was_spent_is_that_of_all_and_of_the_busiest() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    before = {1: Stat(1, "a", 0, 100), 2: Stat(2, "b", 1, 0)}
    after = {
        1: Stat(1, "a", 0, 100 + ticks),
        2: Stat(2, "b", 1, 2 * ticks),
        3: Stat(3, "c", 1, ticks),  # it came meanwhile
    }
    assert procfs.spent(before, after) == Spent(4.0, 2.0)


@pytest.mark.parametrize("after", [{}, {1: Stat(1, "a", 0, 7)}])
def test_what_a_dead_process_spent_is_unknown(after: dict[int, Stat]) -> None:
    before = {1: Stat(1, "a", 0, 1), 2: Stat(2, "worker", 1, 1)}
    with pytest.raises(ValueError, match=r"ended: .*worker"):
        procfs.spent(before, after)


def test_this_process_is_in_its_own_tree() -> None:
    assert procfs.read_tree(os.getpid())[os.getpid()].parent == os.getppid()


def test_resident_memory_is_in_bytes() -> None:
    assert procfs.resident_bytes("Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t   2048 kB\n") == 2 << 20
    with pytest.raises(ValueError, match="VmRSS"):
        procfs.resident_bytes("Name:\tkthreadd\n")


def test_connections_that_were_opened() -> None:
    snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 812 44\nUdp: x\n"
    assert procfs.connections_opened(snmp) == 812


def test_the_cpu_is_called_what_the_kernel_calls_it() -> None:
    assert procfs.cpu_model("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n") == "A CPU @ 2 GHz"
    assert procfs.cpu_model("processor\t: 0\n") == "unknown"


def test_stolen_time_is_a_part_of_all() -> None:
    before = procfs.machine_ticks("cpu  10 0 10 70 0 0 0 10 0 0\ncpu0 1 1 1 1\n")
    assert before == Ticks(100, 10)
    assert Ticks(300, 60).stolen_since(before) == 0.25
