"""The commands: their options, and how they end.

Each imports its own part when it runs: `serve` becomes PID 1 of the lb, which stays small, and
`--help` does not wait for an HTTP client.
"""

from __future__ import annotations

import functools
import sys
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbctl import __version__, paths
from lbctl.cli.options import NumberCommand, OrderedGroup, every_leaf, leaves
from lbctl.cli.session import INTERRUPTED_STATUS, Session
from lbctl.config import LEAVES
from lbctl.errors import LbctlError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    except click.ClickException as error:
        _complain(session, error.format_message())
        return _USAGE_STATUS if isinstance(error, click.UsageError) else _FAILED_STATUS
    except LbctlError as error:
        _complain(session, str(error))
        return error.exit_status
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


@click.group(cls=OrderedGroup, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="lbctl", message="%(prog)s %(version)s")
@_common
def lbctl(session: Session) -> None:
    """A load balancer for nginx containers, and the keeper of their list.

    \b
      lbctl up                 start everything: 3 backends behind http://127.0.0.1:8080
      lbctl scale 7            to 7 backends, without a failed request
      lbctl status --watch     who is in rotation, and why the others are not
      lbctl down               end and remove everything

    Every setting is a flag of `up`, a variable LBCTL_<NAME> and a key of ./lbctl.toml. Exit
    status: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something.
    """


@lbctl.command("up", epilog=_EVERY_FLAG)
@every_leaf(
    "replicas", "port", "bind", "admin_port", "runtime", "workers", "lb_image", "backend_image",
    "access_log",
)  # fmt: skip
@click.option("--build", is_flag=True, envvar="LBCTL_BUILD", help="build lbctl's images anew")
@click.option(
    "--install",
    is_flag=True,
    help="as root on Debian or Ubuntu: install nginx-light where that is what is missing",
)
@_common
def up_command(session: Session, *, build: bool, install: bool, **flags: str | None) -> None:
    """Start what is missing; return when all backends are in rotation.

    Run again, it changes nothing.
    """
    from lbctl.cli import up

    settings = session.configure(**flags)
    session.run(up.up(session, settings, build=build, may_install=install))


@lbctl.command("scale", cls=NumberCommand)
@click.argument("replicas", metavar="N")
@leaves("runtime")
@_common
def scale_command(session: Session, *, replicas: str, runtime: str | None) -> None:
    """To N backends (1 to 10000), up or down, without a failed request.

    Returns when the list on every backend says N; after 30 s it says who lags, and why.
    """
    from lbctl.cli import up

    wanted = LEAVES["replicas"].parse(replicas, "N")
    session.run(up.scale(session, session.configure(runtime=runtime), wanted))


@lbctl.command("status")
@click.option("--json", "as_json", is_flag=True, help="the admin port's answer, untouched")
@click.option("--watch", is_flag=True, help="again every second, until Ctrl-C")
@leaves("runtime")
@_common
def status_command(session: Session, *, as_json: bool, watch: bool, runtime: str | None) -> None:
    """The lb's processes, and one row a backend."""
    from lbctl.cli import look

    settings = session.configure(runtime=runtime)
    session.run(look.status(session, settings, as_json=as_json, watch=watch))


@lbctl.command("down")
@leaves("runtime")
@_common
def down_command(session: Session, *, runtime: str | None) -> None:
    """End and remove everything of the project."""
    from lbctl.cli import look

    session.run(look.down(session, session.configure(runtime=runtime)))


@lbctl.command("logs")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option(
    "-n", "--tail", type=click.IntRange(0, 1_000_000), default=100, help="lines a process  [100]"
)
@leaves("runtime")
@_common
def logs_command(session: Session, *, follow: bool, tail: int, runtime: str | None) -> None:
    """What the lb and the backends say."""
    from lbctl.cli import look

    settings = session.configure(runtime=runtime)
    session.run(look.logs(session, settings, follow=follow, tail=tail))


@lbctl.command("doctor")
@leaves("port", "bind", "admin_port")
@_common
def doctor_command(session: Session, **flags: str | None) -> None:
    """Check the machine, and say what to do about each finding."""
    from lbctl.cli import doctor

    session.run(doctor.doctor(session, session.configure(**flags)))


@lbctl.command("serve", epilog=_EVERY_FLAG)
@every_leaf("runtime", "bind", "port", "admin_bind", "admin_port", "workers", "access_log")
@_common
def serve_command(session: Session, **flags: str | None) -> None:
    """What runs in the lb container; `lbctl up` starts it.

    The supervisor, which starts the controller and the workers.
    """
    from lbctl.process import supervisor

    settings = session.configure(**flags)
    if settings.runtime == "auto":
        raise UsageError("serve: say which runtime: --runtime docker or --runtime local")
    where = paths.CONTAINER if settings.runtime == "docker" else paths.local(settings.project)
    raise click.exceptions.Exit(supervisor.main(settings, where))
