"""Command-line options, made from the leaves of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbctl.config import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def leaves(*names: str) -> Callable[[F], F]:
    """One option a leaf, which stays None where it is not given.

    Values pass through as text: `config.load` merges them with file and environment, and
    checks all three alike.
    """

    def decorate(function: F) -> F:
        for name in reversed(names):
            leaf = LEAVES[name]
            default = f"  [{leaf.default}]" if leaf.default not in ("", 0) else ""
            metavar = "|".join(leaf.choices) or {int: "N", float: "SECONDS"}.get(leaf.kind, "TEXT")
            function = click.option(
                f"--{name.replace('_', '-')}",
                name,
                metavar=metavar,
                help=f"{leaf.help}{default}",
            )(function)
        return function

    return decorate


class OrderedGroup(click.Group):
    """A group whose help lists the commands in the order in which they are defined."""

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
