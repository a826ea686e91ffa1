"""Waiting in tests: for an event, never for a time, with deadlines scaled by LBCTL_TEST_SCALE."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
SCALE = float(os.environ.get("LBCTL_TEST_SCALE", "1"))


def scaled(seconds: float) -> float:
    """A deadline for this machine."""
    return seconds * SCALE


async def eventually(
    check: Callable[[], T | Awaitable[T]], within: float = 5.0, every: float = 0.01
) -> T:
    """The first truthy result of `check`, asked again until then.

    Raises AssertionError with the last result, or the last error, when `within` passed.
    """
    end = time.monotonic() + scaled(within)
    last: object = None
    while True:
        try:
            result = check()
            value: T = await result if inspect.isawaitable(result) else result
            if value:
                return value
            last = value
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() > end:
            message = f"not within {scaled(within):.1f} s; last: {last!r}"
            raise AssertionError(message) from (last if isinstance(last, Exception) else None)
        await asyncio.sleep(every)


def until(check: Callable[[], T], within: float = 10.0, every: float = 0.01) -> T:
    """`eventually` for a test that has no event loop; what a stack on its way answers (errors,
    half a document) is no answer yet.
    """
    end = time.monotonic() + scaled(within)
    last: object = None
    while True:
        try:
            value = check()
            if value:
                return value
            last = value
        except (AssertionError, OSError, ValueError) as error:
            last = error
        if time.monotonic() > end:
            message = f"not within {scaled(within):.1f} s; last: {last!r}"
            raise AssertionError(message) from (last if isinstance(last, Exception) else None)
        time.sleep(every)
