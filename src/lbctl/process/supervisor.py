"""PID 1 of an lb: owns the listening sockets, starts the others, and starts them again.

It does little, so that little can go wrong: no Docker, no HTTP, no secrets, no threads; one
loop over a selector (loop.py). Everything it knows it tells the controller over a socketpair,
and on the local runtime it runs the nginx processes that the controller asks for.

Reloading (SIGHUP, or at the controller's wish): the settings are read anew, a new crew of workers
is started on the same sockets, and when all of it serves, the old one drains. Settings that cannot
be used, or workers that do not get so far, leave everything as it was. Certificates that were
replaced reload the workers by themselves.

A worker or a controller whose event loop stands still is killed, and started again.

Ending (SIGTERM, SIGINT): the workers drain first, while the controller still knows them; then
the controller; then the programs. A second signal does not wait.
"""

from __future__ import annotations

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

from lbctl.config import refuse_fixed
from lbctl.core.pulse import Pulse, Watch
from lbctl.errors import LbctlError
from lbctl.paths import PROGRAM_UID, WORKER_UID
from lbctl.process import logs, output, worker
from lbctl.process.board import Board
from lbctl.process.channel import Channel
from lbctl.process.children import Child, Children, become, how_it_ended, restart_delay_s
from lbctl.process.crew import Crew
from lbctl.process.holdings import keep_ready, listen, lock, rotate, share_alive, tell_pid
from lbctl.process.ledgers import Rates
from lbctl.process.loop import Loop
from lbctl.process.renewal import LOOK_INTERVAL_S, Renewal
from lbctl.process.wire import ENDING, certificate_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.config import Config
    from lbctl.paths import Paths

_log = logging.getLogger("lbctl.supervisor")

_ROTATE_INTERVAL_S = 5.0
_CONTROLLER_END_S = 3.0
_PROGRAM_END_S = 5.0
_WORKER_END_MARGIN_S = 1.0
_CREW_READY_S = 15.0
_CREW_POLL_S = 0.01
_RENEW_CONTROLLER_S = 0.5  # its own answer to who asked for the reload goes out first
_WATCH_INTERVAL_S = 0.5
_FIRST_BEAT_S = 15.0


def main(config: Config, paths: Paths, reread: Callable[[], Config], lb: str = "") -> int:
    """Run the lb until it is told to end. Returns the exit status.

    `reread` reads the settings again, and raises UsageError if they cannot be used. `lb` is this
    one's name where several serve one address, and share the state directory.
    """
    output.never_block()
    logs.set_up(f"{lb}/supervisor" if lb else "supervisor", config.log_level)
    os.umask(0o022)  # workers and nginx, which are others, must get to their files
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection needs two
    try:
        supervisor = Supervisor(config, paths, reread, lb)
    except LbctlError as error:
        _log.error("%s", error)
        return error.exit_status
    return supervisor.run()


class Supervisor:
    """One lb. Raises OperationError if it runs already or cannot listen."""

    def __init__(
        self, config: Config, paths: Paths, reread: Callable[[], Config], lb: str = ""
    ) -> None:
        self._config = config
        self._paths = paths
        self._reread = reread
        self._lb = lb
        self._lock = lock(paths)
        self._alive = share_alive(paths)
        self._renewal = Renewal(config)
        self._sockets = listen(config, shared=bool(lb))
        tell_pid(self._lock)
        self._via = f"lbctl-{secrets.token_hex(4)}"
        self._loop = Loop()
        self._programs: dict[str, Child] = {}
        self._channel: Channel | None = None
        self._ending = False
        self._started_at = datetime.now(UTC)
        self._wake_read, self._wake_write = socket.socketpair()
        self._children = Children(self._close_in_child)
        self._pulse = Board(1)  # the controller's
        self._controller = Child(
            "controller",
            self._called("controller"),
            self._controller_body,
            death_signal=signal.SIGKILL,
        )
        self._controlled = False  # whether its controller ever led, or found whom to follow
        self._rates = Rates()
        self._crew = self._new_crew(config)
        self._crew.settled = True
        self._next: Crew | None = None  # while a reload is under way
        self._reloaded: Callable[[str], None] = _unheard  # who waits for it
        self._drained: list[Crew] = []  # those of before that have not ended yet
        self._watch_over = Watch(config.heartbeat_timeout_s, _FIRST_BEAT_S, _WATCH_INTERVAL_S)

    def run(self) -> int:
        self._watch_signals()
        for child in self._crew.workers:
            self._start(child)
        self._start(self._controller)
        self._look_after()
        self._look_at_certificates()
        self._keep_ready()
        if self._config.runtime == "local":
            self._rotate_log()
        _log.info(
            "serving %s on port %d%s with %d workers",
            self._config.project,
            self._config.port,
            f" and TLS on {self._config.tls.tls_port}" if self._config.tls.on else "",
            len(self._crew.workers),
        )
        while self._children.alive or not self._ending:
            self._loop.turn()
        _log.info("ended")
        return 0

    def _rotate_log(self) -> None:
        for log in (self._paths.log, *self._paths.backends.glob("*/nginx.log")):
            rotate(log)
        self._loop.later(_ROTATE_INTERVAL_S, self._rotate_log)

    def _called(self, role: str) -> str:
        """The name of a process, which differs from those of another lb."""
        return f"{self._lb}/{role}" if self._lb else role

    def _watch_signals(self) -> None:
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # the wake-up descriptor tells
        self._loop.watch(self._wake_read, selectors.EVENT_READ, self._signalled)

    def _signalled(self) -> None:
        numbers = set(self._wake_read.recv(4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._loop.call(self._end)
        if signal.SIGHUP in numbers:
            self._loop.call(partial(self.reload, _unheard))
        for child, status in self._children.reap():
            self._loop.call(partial(self._ended, child, status))

    # Children.

    def _start(self, child: Child) -> None:
        if not child.wanted or child.alive or self._ending:
            return
        if child is self._controller:
            self._pulse.vacate(0)
            ours, self._theirs = socket.socketpair()
            self._channel = Channel(self, self._loop.watch, ours)
        try:
            self._children.start(child)
        except OSError as error:
            _log.error("cannot start %s: %s", child.name, error.strerror)
            self._loop.later(1.0, partial(self._start, child))
        finally:
            if child is self._controller:
                self._theirs.close()
        self._tell()

    def _ended(self, child: Child, status: int) -> None:
        crew = self._crew_of(child)
        if crew is not None:
            crew.ended(child)
            self._drained = [one for one in self._drained if one.alive]
        if child is self._controller:
            self._sockets.leave_admin()
            if self._channel is not None:
                self._channel.close()
                self._channel = None
        if child.on_exit is not None:
            child.on_exit()
        settled = crew is None or crew.settled
        if child.wanted and settled and not self._ending:
            self._start_again(child, how_it_ended(status))
        self._tell()

    def _start_again(self, child: Child, why: str) -> None:
        if child.renewed:
            child.renewed = False
            child.restarts -= 1  # it is none
            self._start(child)
            return
        delay_s = restart_delay_s(child, random.random())  # noqa: S311 - no secret
        _log.warning("%s ended (%s), starting it again", child.name, why)
        if delay_s:
            self._loop.later(delay_s, partial(self._start, child))
        else:
            self._start(child)

    def _crew_of(self, child: Child) -> Crew | None:
        return next((crew for crew in self._crews() if child in crew.workers), None)

    def _crews(self) -> list[Crew]:
        return [crew for crew in (self._crew, self._next, *self._drained) if crew is not None]

    def _look_after(self) -> None:
        """Replace whoever hangs. (Those that drain are given their time in another way.)"""
        if self._ending:
            return
        pulses = self._crew.pulses()
        if self._controller.alive:
            beat_s = self._pulse.beat_s(0)
            pulses.append((self._controller, Pulse(self._controller.started_s, beat_s)))
        children = {child.pid: child for child, _ in pulses}
        by_pid = {child.pid: pulse for child, pulse in pulses}
        for pid in self._watch_over.hung(time.monotonic(), by_pid):
            _log.error("%s hangs, killing it", children[pid].name)
            _kill(children[pid])
        self._loop.later(_WATCH_INTERVAL_S, self._look_after)

    def _keep_ready(self) -> None:
        """A file says whether this lb is whole, for whoever replaces one by another. Its workers
        serve without the controller: that one may go again.
        """
        if not self._ending:
            self._controlled = self._controlled or self._pulse.is_ready(0)
            ready = self._crew.ready and self._controlled
            keep_ready(self._paths, ready)
            self._loop.later(_WATCH_INTERVAL_S if ready else _CREW_POLL_S, self._keep_ready)

    # Reloading.

    def reload(self, done: Callable[[str], None]) -> None:
        """Swap every worker for a new one with the settings as they are now. Calls `done` with
        "", or with why all is as it was.
        """
        if self._next is not None or self._ending:
            done(ENDING if self._ending else "a reload is under way")
            return
        try:
            config = self._reread()
            refuse_fixed(self._config, config)
        except LbctlError as error:
            _log.error("not reloaded: %s", error)
            done(str(error))
            return
        self._renewal.read()
        self._swap(config, done)

    def _look_at_certificates(self) -> None:
        """New ones reach clients as new settings do; what the lb is set to stays as it is."""
        if not self._config.tls.on or self._ending:
            return
        self._loop.later(LOOK_INTERVAL_S, self._look_at_certificates)
        if self._next is None and self._renewal.due(self._crew.credentials, time.monotonic()):
            self._swap(self._config, _unheard)

    def _swap(self, config: Config, done: Callable[[str], None]) -> None:
        _log.info("reloading: new workers start")
        crew = self._next = self._new_crew(config)
        self._reloaded = done
        for child in crew.workers:
            self._start(child)
        self._await(crew, time.monotonic() + _CREW_READY_S)

    def _await(self, crew: Crew, deadline_s: float) -> None:
        if crew.ready:
            self._settle(crew)
        elif crew.alive != crew.workers or time.monotonic() > deadline_s:
            self._give_up(crew)
        else:
            self._loop.later(_CREW_POLL_S, partial(self._await, crew, deadline_s))

    def _tell_reloaded(self, error: str) -> None:
        done, self._reloaded = self._reloaded, _unheard
        done(error)

    def _settle(self, crew: Crew) -> None:
        """The new crew serves: the old one may go."""
        old, self._crew, self._next = self._crew, crew, None
        crew.settled = True
        renewed, self._config = crew.config is not self._config, crew.config
        logs.set_up(self._called("supervisor"), crew.config.log_level)
        self._watch_over = Watch(crew.config.heartbeat_timeout_s, _FIRST_BEAT_S, _WATCH_INTERVAL_S)
        old.dismiss()
        self._drained = [one for one in (*self._drained, old) if one.alive]
        self._drain(old)
        _log.info("reloaded: %d workers serve", len(crew.workers))
        self._tell()
        self._tell_reloaded("")
        if renewed:
            self._loop.later(_RENEW_CONTROLLER_S, self._renew_controller)

    def _give_up(self, crew: Crew) -> None:
        self._next = None
        self._renewal.failed(time.monotonic())
        crew.dismiss()
        self._drained.append(crew)
        for child in crew.alive:
            _kill(child)
        _log.error("not reloaded: the new workers do not get so far; the old ones go on")
        self._tell_reloaded("the new workers do not serve; the old ones go on (see the log)")

    def _renew_controller(self) -> None:
        controller = self._controller
        if not self._ending and controller.alive:
            controller.renewed = True
            controller.signal(signal.SIGTERM)
            self._loop.later(_CONTROLLER_END_S, partial(_kill_this, controller, controller.pid))

    def _drain(self, crew: Crew) -> None:
        drain_s = crew.config.control.drain_timeout_s + _WORKER_END_MARGIN_S
        for child in crew.alive:
            child.signal(signal.SIGTERM)
            self._loop.later(drain_s, partial(_kill_this, child, child.pid))

    def _close_in_child(self) -> None:
        """The lock must be free as soon as the supervisor is gone."""
        self._lock.close()
        self._loop.close()
        self._wake_read.close()
        self._wake_write.close()
        if self._channel is not None:
            self._channel.abandon()

    def _new_crew(self, config: Config) -> Crew:
        return Crew(config, self._lb, self._rates, self._worker_body, self._renewal.credentials)

    def _worker_body(self, crew: Crew, number: int, name: str) -> None:
        self._sockets.admin.close()
        if os.geteuid() == 0:
            become(WORKER_UID, WORKER_UID)
        logs.set_up(name, crew.config.log_level)
        seat = worker.Seat(
            number, name, crew.config, self._paths, self._sockets.traffic, crew.board, self._via,
            crew.ledgers.of(number), self._sockets.tls, crew.credentials,
        )  # fmt: skip
        worker.main(seat)

    def _controller_body(self) -> None:
        for one in self._sockets.clients:
            one.close()
        self._renewal.forget()
        for crew in self._crews():
            crew.forget()
        logs.set_up(self._called("controller"), self._config.log_level)
        # Here and not above: its libraries are large, and no worker should carry them.
        from lbctl.process import controller

        controller.main(
            self._config,
            self._paths,
            lb=self._lb,
            admin=self._sockets.admin,
            supervisor=self._theirs,
            pulse=self._pulse,
            worker_uids={os.geteuid(), WORKER_UID if os.geteuid() == 0 else os.geteuid()},
        )

    # The controller's wishes.

    def run_program(self, wish: dict[str, Any]) -> str:
        """Run argv under `name`, restarted until it is stopped. Returns an error or ""."""
        name, argv, log = str(wish["name"]), [str(word) for word in wish["argv"]], wish["log"]
        if self._ending:
            return ENDING
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
        self._loop.later(grace_s, partial(_kill, child))
        self._tell()

    def table(self) -> dict[str, Any]:
        """Every process of the lb, for the controller."""
        mine = [_row("supervisor", self._called("supervisor"), os.getpid(), 0, self._started_at)]
        mine += [
            _row(child.role, child.name, child.pid, child.restarts, child.started_at)
            for child in (self._controller, *self._crew.workers)
            if child.alive
        ]
        mine += [
            _row("draining", child.name, child.pid, child.restarts, child.started_at)
            for crew in self._drained
            for child in crew.alive
        ]
        programs = [
            {"name": name, "pid": child.pid, "wanted": child.wanted, "restarts": child.restarts}
            for name, child in self._programs.items()
        ]
        shown = self._crew.credentials.certificates if self._crew.credentials is not None else []
        return {
            "processes": mine,
            "programs": programs,
            "certificates": certificate_rows(shown),
        }

    def _tell(self) -> None:
        if self._channel is not None:
            self._channel.send(self.table())

    # The end.

    def _end(self) -> None:
        if self._ending:
            for child in self._children.alive:
                _kill(child)
            return
        _log.info("ending: workers drain first")
        self._ending = True
        self._loop.forget()
        self._tell_reloaded(ENDING)
        for one in self._sockets.clients:
            one.close()  # the workers close theirs: from now on connections are refused
        keep_ready(self._paths, ready=False)
        crews = self._crews()
        for crew in crews:
            self._drain(crew)
        self._after([child for crew in crews for child in crew.workers], self._end_controller)

    def _end_controller(self) -> None:
        self._controller.signal(signal.SIGTERM)
        self._loop.later(_CONTROLLER_END_S, partial(_kill, self._controller))
        self._after([self._controller], self._end_programs)

    def _end_programs(self) -> None:
        for child in self._programs.values():
            child.wanted = False
            child.signal(signal.SIGQUIT)
            self._loop.later(_PROGRAM_END_S, partial(_kill, child))

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


def _unheard(error: str) -> None:
    """Nobody waits for this reload; the log has what became of it."""


def _kill(child: Child) -> None:
    child.signal(signal.SIGKILL)


def _kill_this(child: Child, pid: int) -> None:
    """Kill a process that was told to end, but not its successor."""
    if child.pid == pid:
        _kill(child)


def _program_body(argv: list[str], log: str, alive: IO[str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.set_inheritable(alive.fileno(), True)
    if os.geteuid() == 0:
        become(PROGRAM_UID, PROGRAM_UID)
    os.execv(argv[0], argv)  # noqa: S606 - the controller's wish, on the local runtime only
