"""Interactive shells on a terminal, with lbctl on the search path and its completion loaded."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMANDS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
_LOAD = {
    "bash": 'eval "$(lbctl completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(lbctl completion zsh)"',
    "fish": "lbctl completion fish | source",
}


def absent(shell: str) -> bool:
    """Whether this machine lacks it."""
    return shutil.which(shell) is None


def interactive(shell: str, environment: Mapping[str, str], home: Path) -> Terminal:
    """A shell that has just been given what `lbctl completion` prints. Its home is empty, so that
    nobody's settings count.
    """
    programs = home / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    program = programs / "lbctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lbctl "$@"\n')
    program.chmod(0o755)
    source = os.pathsep.join(filter(None, sys.path))
    own = {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": source, "HOME": str(home), "TERM": "xterm", "PS1": "$ ", "LANG": "C.UTF-8",
    }  # fmt: skip
    terminal = Terminal(COMMANDS[shell], {**environment, **own}, 100, 30)
    # In two parts, so that what is typed is not taken for what is said.
    terminal.press(f"{_LOAD[shell]}; echo all''set\n")
    terminal.wait(lambda shown: "allset" in shown.text)
    return terminal
