"""The commands: their options, and how they end.

Each imports its own part when it runs: `serve` becomes PID 1 of the lb, which stays small, and
`--help` does not wait for an HTTP client.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbctl import __version__, paths
from lbctl.cli.options import OF_UP, NumberCommand, OrderedGroup, every_leaf, json_flag, leaves
from lbctl.cli.session import INTERRUPTED_STATUS, Session
from lbctl.config import LEAVES, MAX_REPLICAS, overlay_file
from lbctl.errors import LbctlError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.shell_completion import CompletionItem

    from lbctl.config import Config

F = TypeVar("F", bound="Callable[..., Any]")

_FAILED_STATUS = 1
_USAGE_STATUS = 2
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EVERY_FLAG = (
    "Every other setting of docs/configuration.md is a flag too: --balance p2c, "
    "--connect-timeout-s 1 ..."
)


def main() -> None:
    """The `lbctl` program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], session: Session | None = None) -> int:
    """Run one command to its exit status: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks
    something. Errors are one or two plain lines.
    """
    session = session or Session()
    try:
        status = lbctl.main(list(arguments), prog_name="lbctl", standalone_mode=False, obj=session)
    except click.Abort:
        return INTERRUPTED_STATUS
    except click.exceptions.NoArgsIsHelpError as error:
        session.screen.err.file.write(f"{error.format_message()}\n")
        return _USAGE_STATUS
    except click.ClickException as error:
        _complain(session, error.format_message())
        return _USAGE_STATUS if isinstance(error, click.UsageError) else _FAILED_STATUS
    except LbctlError as error:
        _complain(session, str(error))
        return error.exit_status
    except BrokenPipeError:  # as of `head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in it
        return _FAILED_STATUS
    except Exception as error:  # noqa: BLE001 - the last place where it can be put in words
        hint = "" if session.debug else "; --debug shows where"
        _complain(session, f"this should not happen: {error!r}{hint}")
        return _FAILED_STATUS
    return status if isinstance(status, int) else 0


def _complain(session: Session, message: str) -> None:
    if session.debug:
        session.screen.err.print(traceback.format_exc(), soft_wrap=True)
    first, *rest = message.splitlines() or ["failed"]
    session.screen.tell(f"lbctl: {first}", "bold red")
    for line in rest:
        session.screen.tell(line)


def _common(function: F) -> F:
    """--project and --debug, before the command's name or after it."""

    @leaves("project")
    @click.option(
        "--debug", is_flag=True, envvar="LBCTL_DEBUG", help="show where an error comes from"
    )
    @functools.wraps(function)
    def wrapper(*, project: str | None, debug: bool, **options: Any) -> Any:
        session = click.get_current_context().find_object(Session)
        assert session is not None  # noqa: S101 - `run` puts it there
        session.debug = session.debug or debug
        session.configure(project=project)
        return function(session, **options)

    return wrapper  # type: ignore[return-value]  # the options' names change, the kind does not


def _known_backends(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """For the shell: who begins so in the running stack."""
    from lbctl.cli import completion

    return completion.backends(context, begun)


_backend = click.argument("backend", metavar="BACKEND", shell_complete=_known_backends)


@click.group(cls=OrderedGroup, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="lbctl", message="%(prog)s %(version)s")
@_common
def lbctl(session: Session) -> None:
    """A load balancer for nginx containers, and the keeper of their list.

    \b
      lbctl up                 start everything: 3 backends behind http://127.0.0.1:8080
      lbctl scale 7            to 7 backends, without a failed request
      lbctl rollout            replace each of them, one after the other
      lbctl status --watch     who is in rotation, and why the others are not
      lbctl down               end and remove everything

    Every setting is a flag of `up`, a variable LBCTL_<NAME> and a key of ./lbctl.toml. Exit
    status: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something.
    """


@lbctl.command("up", epilog=_EVERY_FLAG)
@every_leaf(
    "replicas", "port", "bind", "admin_port", "runtime", "workers", "lb_image", "backend_image",
    "access_log", "tls_dir", "tls_port", "tls_redirect",
)  # fmt: skip
@click.option("--build", is_flag=True, envvar="LBCTL_BUILD", help="build lbctl's images anew")
@click.option(
    "--install",
    is_flag=True,
    help="as root on Debian or Ubuntu: install nginx-light where that is what is missing",
)
@click.option("--no-heal", is_flag=True, help="do not replace backends: --heal off")
@json_flag("addresses and list, as one document")
@_common
def up_command(
    session: Session,
    *,
    build: bool,
    install: bool,
    no_heal: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Start what is missing; return when all backends are in rotation.

    Run again, it changes nothing.
    """
    from lbctl.cli import up

    if no_heal:
        flags["heal"] = "off"
    settings = session.configure(**flags)
    session.run(up.up(session, settings, build=build, may_install=install, as_json=as_json))


@lbctl.command("scale", cls=NumberCommand)
@click.argument("replicas", metavar="N")
@json_flag("from how many to how many, as one document")
@leaves("runtime")
@_common
def scale_command(session: Session, *, replicas: str, as_json: bool, runtime: str | None) -> None:
    """To N backends (1 to 10000), up or down, without a failed request.

    Returns when the list on every backend says N; after 30 s it says who lags, and why.
    """
    from lbctl.cli import up

    wanted = LEAVES["replicas"].parse(replicas, "N")
    settings = session.configure(runtime=runtime)
    session.run(up.scale(session, settings, wanted, as_json=as_json))


@lbctl.command("reload", epilog=f"{_EVERY_FLAG} Those of ports, files and images are refused.")
@every_leaf("runtime", "workers", "access_log", "balance", refused=OF_UP)
@json_flag("the settings as they are now, as one document")
@_common
def reload_command(session: Session, *, as_json: bool, **flags: str | None) -> None:
    """New workers and controllers on the same sockets, with the settings given now.

    Settings come as with `up`: flags, LBCTL_ variables, ./lbctl.toml; what is not given stays as
    it is. New workers serve before the old ones drain; what cannot be used changes nothing.
    """
    from lbctl.cli import up

    session.run(up.reload(session, session.configure(**flags), as_json=as_json))


@lbctl.command("upgrade")
@leaves("lb_image", "lbs", "runtime")
@click.option("--build", is_flag=True, envvar="LBCTL_BUILD", help="build lbctl's images anew")
@json_flag("what was replaced, as one document")
@_common
def upgrade_command(session: Session, *, build: bool, as_json: bool, **flags: str | None) -> None:
    """New lb containers, one after the other, without a failed request.

    Each new one serves before its predecessor drains. Settings and ports stay as they are.
    """
    from lbctl.cli import up

    settings = session.configure(**flags)
    session.run(up.upgrade(session, settings, build=build, as_json=as_json))


@lbctl.command("drain")
@_backend
@json_flag("its row of the status, as one document")
@leaves("runtime")
@_common
def drain_command(session: Session, *, backend: str, as_json: bool, runtime: str | None) -> None:
    """Take one backend out by hand; it runs on, and stays out.

    BACKEND is a name, the beginning of an id, or an IP. Returns when it is on no list and
    nothing is in flight on it, or after drain_timeout_s.
    """
    from lbctl.cli import fleet

    settings = session.configure(runtime=runtime)
    session.run(fleet.by_hand(session, settings, "drain", backend, as_json=as_json))


@lbctl.command("undrain")
@_backend
@json_flag("its row of the status, as one document")
@leaves("runtime")
@_common
def undrain_command(session: Session, *, backend: str, as_json: bool, runtime: str | None) -> None:
    """Let a backend in again that was drained.

    BACKEND is a name, the beginning of an id, or an IP.
    """
    from lbctl.cli import fleet

    settings = session.configure(runtime=runtime)
    session.run(fleet.by_hand(session, settings, "undrain", backend, as_json=as_json))


@lbctl.command("rollout")
@click.option(
    "--image", default="", metavar="REF", help="what to replace them by  [the same image]"
)
@click.option(
    "--batch", type=click.IntRange(1, MAX_REPLICAS), default=1, help="how many at a time  [1]"
)
@json_flag("how it ended, as one document")
@leaves("runtime")
@_common
def rollout_command(
    session: Session, *, image: str, batch: int, as_json: bool, runtime: str | None
) -> None:
    """Replace every backend, without a failed request.

    Each new one is in rotation before an old one leaves. Where they do not come into rotation
    (rollout_timeout_s), the old ones come back by themselves, and it says why. It runs in the
    lb: Ctrl-C leaves it running, and the command typed again follows it.
    """
    from lbctl.cli import fleet

    settings = session.configure(runtime=runtime)
    session.run(fleet.roll_out(session, settings, image, batch, as_json=as_json))


@lbctl.group("token", cls=OrderedGroup)
def token_group() -> None:
    """The secrets of the stack."""


@token_group.command("rotate")
@json_flag("the admin port's answer, as one document")
@leaves("runtime")
@_common
def rotate_command(session: Session, *, as_json: bool, runtime: str | None) -> None:
    """New tokens everywhere, without a moment in which a right one is refused.

    Changes the admin token and those by which lists are written; those of before are refused
    when it returns. It shows none: the new ones are in the files of the stack.
    """
    from lbctl.cli import token

    session.run(token.rotate(session, session.configure(runtime=runtime), as_json=as_json))


@lbctl.command("status")
@json_flag("the admin port's answer, untouched: one line")
@click.option("--watch", is_flag=True, help="again every second, until Ctrl-C")
@leaves("runtime")
@_common
def status_command(session: Session, *, as_json: bool, watch: bool, runtime: str | None) -> None:
    """The lb's processes, and one row a backend."""
    from lbctl.cli import look

    settings = session.configure(runtime=runtime)
    session.run(look.status(session, settings, as_json=as_json, watch=watch))


@lbctl.command("history")
@click.option("--since", metavar="TIME", help="from then on  [the last 50]")
@click.option("--until", metavar="TIME", help="until then")
@click.option("--at", metavar="TIME", help="who was in rotation then")
@json_flag("one document, with all members")
@leaves("runtime")
@_common
def history_command(session: Session, *, runtime: str | None, **options: Any) -> None:
    """The lists of the past: when each came, and what changed.

    TIME is 10:00, 'yesterday 10:00', 5m or '2h ago', 2026-11-27T10:00Z, or unix seconds.
    """
    from lbctl.cli import past

    session.run(past.history(session, session.configure(runtime=runtime), **options))


@lbctl.command("events")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option("--since", metavar="TIME", help="from then on  [the last 50]")
@json_flag("one document a line")
@leaves("runtime")
@_common
def events_command(session: Session, *, runtime: str | None, **options: Any) -> None:
    """What happened: to backends, lists, processes, and through whom.

    TIME is 10:00, 'yesterday 10:00', 5m or '2h ago', 2026-11-27T10:00Z, or unix seconds.
    """
    from lbctl.cli import past

    session.run(past.events(session, session.configure(runtime=runtime), **options))


@lbctl.command("explain")
@_backend
@json_flag("the same, as one document")
@leaves("runtime")
@_common
def explain_command(session: Session, *, backend: str, as_json: bool, runtime: str | None) -> None:
    """Why a backend is in or out of rotation, and what would change that.

    BACKEND is a name, the beginning of an id, or an IP.
    """
    from lbctl.cli import explain

    settings = session.configure(runtime=runtime)
    session.run(explain.run(session, settings, backend, as_json=as_json))


@lbctl.command("down")
@json_flag("whether there was something to end, as one document")
@leaves("runtime")
@_common
def down_command(session: Session, *, as_json: bool, runtime: str | None) -> None:
    """End and remove everything of the project."""
    from lbctl.cli import look

    session.run(look.down(session, session.configure(runtime=runtime), as_json=as_json))


@lbctl.command("logs")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option(
    "-n", "--tail", type=click.IntRange(0, 1_000_000), default=100, help="lines a process  [100]"
)
@json_flag("one document a line")
@leaves("runtime")
@_common
def logs_command(
    session: Session, *, follow: bool, tail: int, as_json: bool, runtime: str | None
) -> None:
    """What the lb and the backends say."""
    from lbctl.cli import look

    settings = session.configure(runtime=runtime)
    session.run(look.logs(session, settings, follow=follow, tail=tail, as_json=as_json))


@lbctl.command("verify")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 86_400),
    default=30.0,
    metavar="SECONDS",
    help="that it takes at least; calm between the disturbances  [30]",
)
@click.option("--connections", type=click.IntRange(1, 5_000), default=64, help="of the load  [64]")
@click.option(
    "--rate",
    type=click.FloatRange(1, 100_000),
    default=2_000.0,
    metavar="NUMBER",
    help="requests a second, at most  [2000]",
)
@click.option(
    "--target",
    metavar="HOST:PORT",
    help="where the load goes: any address of this stack  [the one that up prints]",
)
@click.option(
    "--restart-engine",
    metavar="COMMAND",
    help="restart the Docker engine too, by this command, as 'systemctl restart docker'",
)
@json_flag("one document, at the end")
@leaves("runtime")
@_common
def verify_command(session: Session, *, runtime: str | None, **options: Any) -> None:
    """Prove on the running stack that nothing costs a request.

    Scales, drains, rolls out, kills and pauses under load. Exit status 0 only if no request
    failed that may not, and every list was right in time; the stack is left as it was.
    """
    from lbctl.cli import verify

    session.run(verify.run(session, session.configure(runtime=runtime), **options))


@lbctl.command("bench")
@click.option(
    "--seconds", type=click.IntRange(1, 86_400), default=10, help="that the load lasts  [10]"
)
@click.option("--connections", type=click.IntRange(1, 10_000), default=64, help="of wrk  [64]")
@click.option("--threads", type=click.IntRange(1, 256), default=1, help="of wrk, each a core  [1]")
@json_flag("every figure, as one document")
@leaves("runtime")
@_common
def bench_command(session: Session, *, runtime: str | None, **options: Any) -> None:
    """Load the running stack with wrk, and say what its answers cost.

    Requests a second, latency, errors, and the CPU time that the lb used for each request. The
    load comes from this machine, and so takes CPUs that the lb would use.
    """
    from lbctl.cli import bench

    session.run(bench.run(session, session.configure(runtime=runtime), **options))


@lbctl.command("doctor")
@leaves("port", "bind", "admin_port", "tls_cert", "tls_key", "tls_dir", "tls_port")
@json_flag("every finding, as one document")
@_common
def doctor_command(session: Session, *, as_json: bool, **flags: str | None) -> None:
    """Check the machine, and say what to do about each finding."""
    from lbctl.cli import doctor

    session.run(doctor.doctor(session, session.configure(**flags), as_json=as_json))


@lbctl.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_obj
def completion_command(session: Session, shell: str) -> None:
    """Print the script that completes lbctl's commands in bash, zsh or fish.

    \b
      bash   eval "$(lbctl completion bash)"        in ~/.bashrc
      zsh    eval "$(lbctl completion zsh)"         in ~/.zshrc, after compinit
      fish   lbctl completion fish | source         in ~/.config/fish/config.fish

    It completes commands, options and the names of the running stack's backends.
    """
    from lbctl.cli import completion

    out = session.screen.out.file
    out.write(completion.script(lbctl, shell))
    out.flush()


@lbctl.command("guard")
@_common
def guard_command(session: Session) -> None:
    """What runs in the guard container; `lbctl up` starts it.

    Starts the lbs again that the engine could not, and lets them ask the engine for what is on
    its list.
    """
    from lbctl.process import guard
    from lbctl.runtime.containers import BACKEND_IMAGE

    settings = session.configure()
    image = settings.deploy.backend_image or BACKEND_IMAGE
    raise click.exceptions.Exit(guard.main(settings.project, image))


@lbctl.command("serve", epilog=_EVERY_FLAG)
@every_leaf("runtime", "bind", "port", "admin_bind", "admin_port", "workers", "access_log")
@click.option("--lb", default="", help="its name, where several share an address")
@_common
def serve_command(session: Session, *, lb: str, **flags: str | None) -> None:
    """What runs in the lb container; `lbctl up` starts it.

    The supervisor, which starts the controller and the workers.
    """
    from lbctl.process import supervisor

    settings = session.configure(**flags)
    if settings.runtime == "auto":
        raise UsageError("serve: say which runtime: --runtime docker or --runtime local")
    where = paths.CONTAINER if settings.runtime == "docker" else paths.local(settings.project)

    def reread() -> Config:
        return overlay_file(session.configure(), where.serve)

    try:
        settings = reread()
    except UsageError as error:
        session.screen.tell(f"starting without the settings that were kept: {error}")
    raise click.exceptions.Exit(supervisor.main(settings, where, reread, lb))
