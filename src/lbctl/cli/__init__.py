"""The command line: parse, ask the stack and its admin port, show."""

from lbctl.cli.app import main

__all__ = ["main"]
