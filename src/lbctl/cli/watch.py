"""`lbctl status --watch`: the present state every second, until Ctrl-C.

On a terminal in place, elsewhere a block of plain lines, or a document, each time. An lb that
does not answer is waited for: a controller that takes another's place is when one wants to watch.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from lbctl.cli.client import controllers
from lbctl.cli.meter import Meter, read_counts
from lbctl.cli.panel import Size, panel, pulse_line
from lbctl.cli.session import ended_by_sigterm
from lbctl.cli.tables import status_view, utc_now
from lbctl.core.iplist import timestamp
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lbctl.cli.client import AdminClient, Status
    from lbctl.cli.screen import Screen

_INTERVAL_S: Final = 1.0
_NEWS_S: Final = 15.0  # for which it is said that a controller is another one


async def watch(client: AdminClient, url: str, screen: Screen, *, as_json: bool) -> int:
    """Until Ctrl-C, which is how this ends well. Raises OperationError where the lb does not
    answer from the start.
    """
    out = screen.out
    view = _View(client, url)
    try:
        async with ended_by_sigterm():
            if as_json:
                await _documents(client, screen)
            elif out.is_terminal and not out.is_dumb_terminal:
                await _live(view, screen)
            else:
                await _blocks(view, screen)
    except asyncio.CancelledError:
        return 0
    return 0


async def _live(view: _View, screen: Screen) -> None:
    out = screen.out
    await view.look()
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            size = Size(out.width, out.height, plain=not out.encoding.startswith("utf"))
            live.update(view.panel(size), refresh=True)
            await asyncio.sleep(_INTERVAL_S)
            await view.try_look()


async def _blocks(view: _View, screen: Screen) -> None:
    await view.look()
    while True:
        for note in view.notes():
            screen.tell(note)
        if not view.silent:
            screen.show(view.block())
        await asyncio.sleep(_INTERVAL_S)
        await view.try_look()


async def _documents(client: AdminClient, screen: Screen) -> None:
    """The status as a line, each second."""
    answered = True
    text = await client.status_text()
    while True:
        if text:
            # Not through rich, which would fold it: this is for programs.
            screen.out.file.write(text.rstrip("\n") + "\n")
            screen.out.file.flush()
        await asyncio.sleep(_INTERVAL_S)
        try:
            text, answered = await client.status_text(), True
        except OperationError as error:
            if answered:
                screen.tell(f"{error}; waiting for it")
            text, answered = "", False


class _View:
    """The last known state, and what is to be said of how it came to be known."""

    def __init__(self, client: AdminClient, url: str) -> None:
        self._client = client
        self._url = url
        self._meter = Meter()
        self._status: Status
        self._silence = ""
        self._silent_since_s = 0.0
        self._news = ""
        self._news_s = 0.0

    @property
    def silent(self) -> bool:
        """Whether the last look got no answer."""
        return bool(self._silence)

    async def look(self) -> None:
        """Raises OperationError where the lb does not answer."""
        status = await self._client.status()
        counts = read_counts(await self._client.metrics_text())
        now_s = time.monotonic()
        self._meter.observe(now_s, counts)
        before = getattr(self, "_status", status)
        if controllers(before) != controllers(status):
            self._news = f"another controller leads since {timestamp(utc_now())[11:19]} UTC"
            self._news_s = now_s
        self._status, self._silence = status, ""

    async def try_look(self) -> None:
        """The same; where nobody answers, what was known stays, and it is said how old it is."""
        try:
            await self.look()
        except OperationError as error:
            if not self._silence:
                self._silent_since_s = time.monotonic()
            self._silence = str(error).partition("\n")[0]

    def notes(self) -> list[str]:
        """About the watching itself."""
        now_s = time.monotonic()
        if self._silence:
            for_s = now_s - self._silent_since_s
            return [f"no answer for {for_s:.0f} s, this is older: {self._silence}"]
        if self._news and now_s - self._news_s < _NEWS_S:
            return [self._news]
        return []

    def panel(self, size: Size) -> RenderableType:
        """For a terminal of this size."""
        pulse, history = self._meter.pulse(), self._meter.history
        notes = self.notes()
        return panel(self._status, pulse, history, self._url, utc_now(), size, notes)

    def block(self) -> RenderableType:
        """For a reader of a pipe: all there is, with the time."""
        now = utc_now()
        return Group(
            Text(timestamp(now)),
            status_view(self._status, self._url, now),
            Text(),
            pulse_line(self._meter.pulse(), (), 0),
            Text(),
        )
