"""What a backend that is not well said last: the answer to "why" is mostly there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from lbctl.ports import Runtime

_LINES = 5


async def last_words(runtime: Runtime, instance_id: str) -> str:
    """Its last lines, each on a line of its own behind a newline and indented; empty where it
    said nothing, or the runtime cannot tell.
    """
    try:
        lines = await runtime.last_lines(instance_id, _LINES)
    except LbctlError:
        return ""
    return "".join(f"\n    {line}" for line in lines)
