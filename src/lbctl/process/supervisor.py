"""PID 1 of an lb: owns the listening sockets, starts the others, and starts them again.

It does little, so that little can go wrong: no Docker, no HTTP, no secrets, no threads; one
loop over a selector. Everything it knows it tells the controller over a socketpair, and on
the local runtime it runs the nginx processes that the controller asks for.

Ending (SIGTERM, SIGINT): the workers drain first, while the controller still knows them; then
the controller; then the programs. A second signal does not wait.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import random
import resource
import secrets
import selectors
import signal
import socket
import time
from datetime import UTC, datetime
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from lbctl.errors import LbctlError
from lbctl.paths import PROGRAM_UID, WORKER_UID
from lbctl.process import logs, output, worker
from lbctl.process.board import Board
from lbctl.process.channel import Channel
from lbctl.process.children import Child, Children, become, how_it_ended, restart_delay_s
from lbctl.process.holdings import listen, lock, rotate, share_alive, tell_pid

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.config import Config
    from lbctl.paths import Paths

_log = logging.getLogger("lbctl.supervisor")

_ROTATE_INTERVAL_S = 5.0
_CONTROLLER_END_S = 3.0
_PROGRAM_END_S = 5.0
_WORKER_END_MARGIN_S = 1.0


def main(config: Config, paths: Paths) -> int:
    """Run the lb until it is told to end. Returns the exit status."""
    output.never_block()
    logs.set_up("supervisor")
    os.umask(0o022)  # workers and nginx, which are others, must get to their files
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection needs two
    try:
        supervisor = Supervisor(config, paths)
    except LbctlError as error:
        _log.error("%s", error)
        return error.exit_status
    return supervisor.run()


def worker_count(config: Config) -> int:
    return config.workers or len(os.sched_getaffinity(0))


class Supervisor:
    """One lb. Raises OperationError if it runs already or cannot listen."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self._config = config
        self._paths = paths
        self._lock = lock(paths)
        self._alive = share_alive(paths)
        self._sockets = listen(config, paths)
        tell_pid(self._lock)
        self._board = Board(worker_count(config))
        self._via = f"lbctl-{secrets.token_hex(4)}"
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._programs: dict[str, Child] = {}
        self._channel: Channel | None = None
        self._ending = False
        self._started_at = datetime.now(UTC)
        self._wake_read, self._wake_write = socket.socketpair()
        self._children = Children(self._close_in_child)
        self._controller = Child(
            "controller", "controller", self._controller_body, death_signal=signal.SIGKILL
        )
        self._workers = [
            Child("worker", f"worker-{number}", partial(self._worker_body, number))
            for number in range(worker_count(config))
        ]

    def run(self) -> int:
        self._watch_signals()
        for child in self._workers:
            self._start(child)
        self._start(self._controller)
        if self._config.runtime == "local":
            self._rotate_log()
        _log.info(
            "serving %s on port %d with %d workers",
            self._config.project,
            self._config.port,
            len(self._workers),
        )
        while self._children.alive or not self._ending:
            self._turn()
        _log.info("ended")
        return 0

    # The loop.

    def _turn(self) -> None:
        timeout = None
        if self._timers:
            timeout = max(0.0, self._timers[0][0] - time.monotonic())
        for key, _ in self._selector.select(timeout):
            self._call(key.data)
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._call(heapq.heappop(self._timers)[2])

    def _call(self, action: Callable[[], None]) -> None:
        """Nothing that goes wrong in here may end the process that all others hang on."""
        try:
            action()
        except Exception:  # noqa: BLE001 - whatever it is
            _log.exception("this should not happen")

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), action))

    def _rotate_log(self) -> None:
        rotate(self._paths.log)
        self._later(_ROTATE_INTERVAL_S, self._rotate_log)

    def _watch_signals(self) -> None:
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up descriptor tells
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._signalled)

    def _signalled(self) -> None:
        numbers = set(self._wake_read.recv(4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._end()
        for child, status in self._children.reap():
            self._ended(child, status)

    # Children.

    def _start(self, child: Child) -> None:
        if not child.wanted or child.alive or (self._ending and child.role != "program"):
            return
        if child is self._controller:
            ours, self._theirs = socket.socketpair()
            self._channel = Channel(self, ours)
        try:
            self._children.start(child)
        except OSError as error:
            _log.error("cannot start %s: %s", child.name, error.strerror)
            self._later(1.0, partial(self._start, child))
        finally:
            if child is self._controller:
                self._theirs.close()
        self._tell()

    def _ended(self, child: Child, status: int) -> None:
        if child in self._workers:
            self._board.vacate(self._workers.index(child))
        if child is self._controller and self._channel is not None:
            self._channel.close()
            self._channel = None
        if child.on_exit is not None:
            child.on_exit()
        if child.wanted and not self._ending:
            delay_s = restart_delay_s(child, random.random())  # noqa: S311 - no secret
            _log.warning("%s ended (%s), starting it again", child.name, how_it_ended(status))
            if delay_s:
                self._later(delay_s, partial(self._start, child))
            else:
                self._start(child)
        self._tell()

    def _close_in_child(self) -> None:
        """The lock must be free as soon as the supervisor is gone."""
        self._lock.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        if self._channel is not None:
            self._channel.abandon()

    def _worker_body(self, number: int) -> None:
        self._sockets.admin.close()
        self._sockets.workers.close()
        if os.geteuid() == 0:
            become(WORKER_UID, WORKER_UID)
        name = f"worker-{number}"
        logs.set_up(name)
        worker.main(
            worker.Seat(
                number,
                name,
                self._config,
                self._paths,
                self._sockets.traffic,
                self._board,
                self._via,
            )
        )

    def _controller_body(self) -> None:
        for one in self._sockets.traffic:
            one.close()
        logs.set_up("controller")
        # Here and not above: its libraries are large, and no worker should carry them.
        from lbctl.process import controller

        controller.main(
            self._config,
            self._paths,
            admin=self._sockets.admin,
            workers=self._sockets.workers,
            supervisor=self._theirs,
            worker_uids={os.geteuid(), WORKER_UID if os.geteuid() == 0 else os.geteuid()},
        )

    # The controller's wishes.

    def run_program(self, wish: dict[str, Any]) -> str:
        """Run argv under `name`, restarted until it is stopped. Returns an error or ""."""
        name, argv, log = str(wish["name"]), [str(word) for word in wish["argv"]], wish["log"]
        if self._ending:
            return "the lb is ending"
        if name in self._programs:
            return f"{name} runs already"
        body = partial(_program_body, argv, str(log), self._alive)
        child = Child("program", name, body, own_group=True)
        self._programs[name] = child
        self._start(child)
        return ""

    def stop_program(
        self, name: str, number: int, grace_s: float, done: Callable[[], None]
    ) -> None:
        """End it with a signal, kill it after `grace_s`; `done` is called when it is gone."""
        child = self._programs.get(name)
        if child is None:
            done()
            return
        child.wanted = False

        def gone() -> None:
            self._programs.pop(name, None)
            done()

        if not child.alive:
            gone()
            return
        child.on_exit = gone
        child.signal(number)
        self._later(grace_s, partial(_kill, child))
        self._tell()

    def table(self) -> dict[str, Any]:
        """Every process of the lb, for the controller."""
        mine = [_row("supervisor", "supervisor", os.getpid(), 0, self._started_at)]
        mine += [
            _row(child.role, child.name, child.pid, child.restarts, child.started_at)
            for child in (self._controller, *self._workers)
            if child.alive
        ]
        programs = [
            {"name": name, "pid": child.pid, "wanted": child.wanted, "restarts": child.restarts}
            for name, child in self._programs.items()
        ]
        return {"processes": mine, "programs": programs}

    def _tell(self) -> None:
        if self._channel is not None:
            self._channel.send(self.table())

    def watch(self, one: socket.socket, events: int, ready: Callable[[], None]) -> None:
        """Called by Channel. `events` 0: not any more."""
        known = one in self._selector.get_map()
        if events and known:
            self._selector.modify(one, events, ready)
        elif events:
            self._selector.register(one, events, ready)
        elif known:
            self._selector.unregister(one)

    # The end.

    def _end(self) -> None:
        if self._ending:
            for child in self._children.alive:
                _kill(child)
            return
        _log.info("ending: workers drain first")
        self._ending = True
        self._timers.clear()
        for one in self._sockets.traffic:
            one.close()  # the workers close theirs: from now on connections are refused
        for child in self._workers:
            child.signal(signal.SIGTERM)
            self._later(
                self._config.control.drain_timeout_s + _WORKER_END_MARGIN_S, partial(_kill, child)
            )
        self._after(self._workers, self._end_controller)

    def _end_controller(self) -> None:
        self._controller.signal(signal.SIGTERM)
        self._later(_CONTROLLER_END_S, partial(_kill, self._controller))
        self._after([self._controller], self._end_programs)

    def _end_programs(self) -> None:
        for child in self._programs.values():
            child.wanted = False
            child.signal(signal.SIGQUIT)
            self._later(_PROGRAM_END_S, partial(_kill, child))

    def _after(self, children: list[Child], action: Callable[[], None]) -> None:
        """Run `action` when none of these is alive any more."""
        living = [child for child in children if child.alive]
        if not living:
            action()
            return

        def one_less() -> None:
            if not any(child.alive for child in living):
                for child in living:
                    child.on_exit = None
                action()

        for child in living:
            child.on_exit = one_less


def _row(role: str, name: str, pid: int, restarts: int, started_at: datetime) -> dict[str, Any]:
    return {
        "role": role,
        "name": name,
        "pid": pid,
        "restarts": restarts,
        "started_at": started_at.isoformat(),
    }


def _kill(child: Child) -> None:
    child.signal(signal.SIGKILL)


def _program_body(argv: list[str], log: str, alive: IO[str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.set_inheritable(alive.fileno(), True)
    if os.geteuid() == 0:
        become(PROGRAM_UID, PROGRAM_UID)
    os.execv(argv[0], argv)  # noqa: S606 - the controller's wish, on the local runtime only
