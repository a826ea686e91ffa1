"""The list as every backend in rotation serves it, held against status."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from lbctl.verify.answers import AnswerError, Kind
from lbctl.verify.load import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.verify.view import Seat, View

_WITHIN_S: Final = 1.0


class Lists:
    """`direct` is True where this machine reaches the backends' addresses. Where it does not (an
    engine elsewhere), a list counts as right when the lb says that this generation was taken.
    """

    def __init__(self, *, direct: bool) -> None:
        self.direct = direct

    @classmethod
    async def of(cls, seats: Sequence[Seat]) -> Lists:
        """Find out whether these can be reached: one that can is enough."""
        asked = (fetch(seat.ip, seat.port, b"/ips.txt", _WITHIN_S) for seat in seats)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        unreachable = (Kind.UNCONNECTED, Kind.LATE)
        return cls(
            direct=any(
                not isinstance(answer, AnswerError) or answer.kind not in unreachable
                for answer in answers
            )
        )

    async def problem(self, view: View) -> str:
        """Whose list is not that of the rotation, and why; "" where all are right."""
        if not view.rotation:
            return "nobody is in rotation"
        if self.direct:
            problems = await asyncio.gather(
                *(_problem_of(seat, view.expected_list) for seat in view.rotation)
            )
        else:
            problems = [
                f"{seat.name} took generation {seat.published_generation} last"
                for seat in view.rotation
                if seat.published_generation != view.generation
            ]
        return "; ".join(filter(None, problems))


async def _problem_of(seat: Seat, expected: bytes) -> str:
    try:
        answer = await fetch(seat.ip, seat.port, b"/ips.txt", _WITHIN_S)
    except AnswerError as error:
        return f"{seat.name}: {error}"
    if answer.status != 200:
        return f"{seat.name}: status {answer.status}"
    if answer.body != expected:
        lines, wanted = answer.body.count(b"\n"), expected.count(b"\n")
        return f"{seat.name} lists {lines} addresses, which are not the {wanted} in rotation"
    return ""
