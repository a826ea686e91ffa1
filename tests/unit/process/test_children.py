"""Children are started, watched, restarted with patience, and never outlive their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from lbctl.process.children import Child, Children, how_it_ended, restart_delay_s
from tests.support.deadlines import scaled


def reap_one(children: Children) -> tuple[Child, int]:
    end = time.monotonic() + scaled(5)
    while time.monotonic() < end:
        for ended in children.reap():
            return ended
        time.sleep(0.005)
    raise AssertionError("no child ended")


def sleep_for_ever() -> None:
    signal.pause()


def children() -> Children:
    return Children(close_in_child=lambda: None)


def test_a_child_runs_its_body_and_is_reaped() -> None:
    family = children()
    child = Child("worker", "one", lambda: None)
    family.start(child)
    assert family.alive == [child]
    ended, status = reap_one(family)
    assert ended is child
    assert how_it_ended(status) == "exit status 0"
    assert not child.alive
    assert family.alive == []


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(1)])
def test_a_child_that_raises_ends_and_does_not_run_on_as_its_parent(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise error

    family = children()
    family.start(Child("worker", "one", body))
    _, status = reap_one(family)
    assert how_it_ended(status) == "exit status 1"
    assert ("boom" in capfd.readouterr().err) == isinstance(error, RuntimeError)


def test_a_killed_child_says_by_what() -> None:
    family = children()
    child = Child("worker", "one", sleep_for_ever)
    family.start(child)
    child.signal(signal.SIGKILL)
    _, status = reap_one(family)
    assert how_it_ended(status) == "killed by SIGKILL"


def test_also_where_the_signal_has_no_name() -> None:
    family = children()
    child = Child("worker", "one", sleep_for_ever)
    family.start(child)
    child.signal(35)
    _, status = reap_one(family)
    assert how_it_ended(status) == "killed by signal 35"


def test_what_a_program_leaves_behind_is_killed_with_it(tmp_path: Path) -> None:
    """As nginx's workers, when somebody kills their master, would keep its ports."""
    left = tmp_path / "left"

    def body() -> None:
        pid = os.fork()
        if pid == 0:
            sleep_for_ever()
        left.write_text(str(pid))

    family = children()
    family.start(Child("program", "nginx", body, own_group=True))
    reap_one(family)
    orphan = int(left.read_text())
    end = time.monotonic() + scaled(5)
    while Path(f"/proc/{orphan}").exists():
        assert time.monotonic() < end
        family.reap()
        time.sleep(0.005)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = os.fork()
    if parent == 0:
        child = Child("worker", "one", sleep_for_ever)
        children().start(child)
        pids.write_text(str(child.pid))
        signal.pause()
    end = time.monotonic() + scaled(5)
    while not pids.exists() or not pids.read_text():
        assert time.monotonic() < end
        time.sleep(0.005)
    grandchild = int(pids.read_text())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while _runs(grandchild):
        assert time.monotonic() < end
        time.sleep(0.005)


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_first_death_is_made_good_at_once_and_the_next_ones_ever_later() -> None:
    child = Child("worker", "one", sleep_for_ever, started_s=time.monotonic())
    delays = [restart_delay_s(child, chance=0.0) for _ in range(9)]
    assert delays[0] == 0
    assert delays[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_child_that_ran_well_is_restarted_at_once_again() -> None:
    child = Child("worker", "one", sleep_for_ever, started_s=time.monotonic())
    for _ in range(5):
        restart_delay_s(child, chance=0.0)
    child.started_s = time.monotonic() - 60
    assert restart_delay_s(child, chance=0.0) == 0
    child.started_s = time.monotonic()
    assert restart_delay_s(child, chance=0.0) == 0
    assert restart_delay_s(child, chance=0.0) == 0.1
