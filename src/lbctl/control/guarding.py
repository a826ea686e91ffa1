"""Keeps what the guard has counted: it is asked now and then, and what a guard told stays when
the next one starts from nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from lbctl.core.tally import Tally, from_document, to_document
from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbctl.control.store import Store
    from lbctl.model import ControlStats, GuardCounts

log = logging.getLogger(__name__)

_INTERVAL_S = 2.0


async def keep_count(
    ask: Callable[[], Awaitable[tuple[str, GuardCounts]]], store: Store, stats: ControlStats
) -> None:
    """Until cancelled. `ask` tells the guard's life and what it has counted in it."""
    tally = _restored(store)
    stats.guard = tally.total
    while True:
        with contextlib.suppress(LbctlError):  # a guard that is away counts nothing
            heard = tally.heard(*await ask())
            if heard != tally:
                tally = heard
                store.save(to_document(tally))
                stats.guard = tally.total
        await asyncio.sleep(_INTERVAL_S)


def _restored(store: Store) -> Tally:
    document = store.load()
    if document is None:
        return Tally()
    try:
        return from_document(document)
    except ValueError as error:
        log.warning("what guards had counted is of no use, starting at zero: %s", error)
        return Tally()
