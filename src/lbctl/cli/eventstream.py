"""Reading a stream of server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

from lbctl.errors import OperationError

LIMIT_BYTES = 1 << 24


class EventReader:
    """Bytes in, as they come; the data of each whole event out. Ids, names and comments are of no
    use here: the data says all of it.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Raises OperationError where an event has no end."""
        self._rest += data.replace(b"\r\n", b"\n")
        *blocks, self._rest = self._rest.split(b"\n\n")
        if len(self._rest) > LIMIT_BYTES:
            raise OperationError("the admin port's stream is not lbctl's")
        return [text for block in blocks if (text := _data(block)) is not None]


def _data(block: bytes) -> str | None:
    lines = block.decode("utf-8", "replace").split("\n")
    values = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
    return "\n".join(values) if values else None
