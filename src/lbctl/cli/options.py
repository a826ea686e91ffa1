"""Command-line options, made from the leaves of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from lbctl.config import LEAVES, changeable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.config import Leaf

F = TypeVar("F", bound="Callable[..., Any]")

# Ports, files and images: what a running lb cannot be given, and `reload` refuses.
OF_UP: Final = LEAVES.keys() - changeable(LEAVES).keys() - {"runtime", "project"}


class RefusedOption(click.Option):
    """One that is known in order to be refused with a better word than "no such option"."""


def leaves(
    *names: str, hidden: bool = False, cls: type[click.Option] = click.Option
) -> Callable[[F], F]:
    """One option a leaf, which stays None where it is not given.

    Values pass through as text: `config.load` merges them with file and environment, and
    checks all three alike. Help does not list those that are `hidden`.
    """

    def decorate(function: F) -> F:
        for name in reversed(names):
            leaf = LEAVES[name]
            default = f"  [{leaf.default}]" if leaf.default not in ("", 0) else ""
            function = click.option(
                flag(name),
                name,
                cls=cls,
                metavar=_metavar(leaf),
                help=f"{leaf.help}{default}",
                hidden=hidden,
                shell_complete=_completing(leaf),
            )(function)
        return function

    return decorate


def _completing(
    leaf: Leaf,
) -> Callable[[click.Context, click.Parameter, str], list[str]] | None:
    if not leaf.choices:
        return None
    return lambda _context, _option, begun: [one for one in leaf.choices if one.startswith(begun)]


def every_leaf(*shown: str, refused: Collection[str] = ()) -> Callable[[F], F]:
    """One option a leaf but the project's, which every command has. Help lists those `shown`
    and stays readable; docs/configuration.md has them all. Those `refused` are not completed.
    """
    others = [name for name in LEAVES if name not in (*shown, *refused, "project")]

    def decorate(function: F) -> F:
        known = leaves(*refused, hidden=True, cls=RefusedOption)(function)
        return leaves(*shown)(leaves(*others, hidden=True)(known))

    return decorate


def json_flag(text: str) -> Callable[[F], F]:
    """`--json`: one document on standard output; `text` says what it holds."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def flag(name: str) -> str:
    """The option that sets a leaf."""
    return f"--{name.replace('_', '-')}"


def _metavar(leaf: Leaf) -> str:
    if leaf.kind is float:
        return "SECONDS" if leaf.name.endswith("_s") else "NUMBER"
    return "|".join(leaf.choices) or ("N" if leaf.kind is int else "TEXT")


class SettingsCommand(click.Command):
    """One whose help leaves out most flags: whoever has begun to type one of them knows it."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.lstrip("-"):
            return found
        unlisted = (
            CompletionItem(name, help=param.help)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and param.hidden
            if not (isinstance(param, RefusedOption) or _typed(ctx, param))
            for name in param.opts
        )
        return [*found, *(item for item in unlisted if item.value.startswith(incomplete))]


def _typed(ctx: click.Context, param: click.Parameter) -> bool:
    source = ctx.get_parameter_source(param.name or "")
    return source is click.core.ParameterSource.COMMANDLINE


class OrderedGroup(click.Group):
    """A group whose help lists the commands in the order in which they are defined."""

    command_class = SettingsCommand

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


class NumberCommand(click.Command):
    """A command whose argument is a number, which may be negative by mistake: click takes
    "-1" for an option, and would say that there is none of that name.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for position, argument in enumerate(args[:end]):
            if argument[:1] == "-" and argument[1:].isdecimal():
                args = [*args[:position], *args[position + 1 : end], "--", argument, *args[end:]]
                break
        return super().parse_args(ctx, args)
