"""What an engine sends, read with a limit and without trust. (test_engine.py has the rest.)"""

from __future__ import annotations

import asyncio

import pytest

from lbctl.errors import EngineError
from lbctl.runtime.streams import multiplexed_lines


@pytest.mark.parametrize("size", [(4 << 20) + 1, 0xFFFFFFFF])
async def test_a_frame_that_says_it_is_huge_is_not_waited_for(size: int) -> None:
    content = asyncio.StreamReader()
    content.feed_data(b"\1\0\0\0\0\0\0\3ab\n" + b"\1\0\0\0" + size.to_bytes(4, "big"))
    read = multiplexed_lines(content)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        assert await anext(read) == b"ab"
        with pytest.raises(EngineError, match="a frame of more than 4 MiB"):
            await anext(read)
