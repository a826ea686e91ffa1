"""How many backends are wanted, and of what, as a JSON document that outlives a controller."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lbctl.model import Release, Rollout, RolloutState

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Wish:
    """All that a person has told about the backends.

    `replicas` is None if nobody ever said how many (Compose decides, for one); not `reached` while
    it is being carried out, so that the next controller can go on. `release` is
    what is started from now on; `configured` is the image that the settings named when it was
    made. `drained` says since when by id.
    """

    replicas: int | None = None
    reached: bool = True
    release: Release = field(default_factory=Release)
    configured: str = ""
    drained: Mapping[str, datetime] = field(default_factory=dict)
    rollout: Rollout | None = None

    def next_release(self, image: str) -> Release:
        """A release that no backend was started as yet; an empty image is the present one."""
        used = self.rollout.release.revision if self.rollout is not None else 0
        return Release(max(used, self.release.revision) + 1, image or self.release.image)


def to_document(wish: Wish) -> dict[str, Any]:
    """As JSON knows it; `from_document` is the inverse."""
    return {
        "replicas": wish.replicas,
        "reached": wish.reached,
        "release": asdict(wish.release),
        "configured": wish.configured,
        "drained": {backend_id: since.isoformat() for backend_id, since in wish.drained.items()},
        "rollout": None
        if wish.rollout is None
        else asdict(wish.rollout) | {"state": wish.rollout.state.value},
    }


def from_document(document: Any, image: str) -> Wish:
    """The wish of the last controller; `image` is the one that the settings name now.

    Settings that name another image than before are the newer word, and it is what is started
    from now on. Raises ValueError for anything `to_document` would not have written.
    """
    try:
        replicas = document["replicas"]
        wish = Wish(
            replicas=None if replicas is None else _natural(replicas),
            reached=bool(document.get("reached", True)),
            release=_release(document["release"]),
            configured=_text(document["configured"]),
            drained={_text(one): _moment(since) for one, since in document["drained"].items()},
            rollout=None if document["rollout"] is None else _rollout(document["rollout"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a saved wish: {error!r}") from None
    if wish.configured == image:
        return wish
    return replace(wish, release=replace(wish.release, image=image), configured=image)


def _rollout(document: Any) -> Rollout:
    return Rollout(
        release=_release(document["release"]),
        previous=_release(document["previous"]),
        total=_natural(document["total"]),
        batch=_natural(document["batch"]),
        asked=_text(document["asked"]),
        state=RolloutState(document["state"]),
        replaced=int(document["replaced"]),
        message=_text(document["message"]),
    )


def _release(document: Any) -> Release:
    return Release(_natural(document["revision"]), _text(document["image"]))


def _natural(number: Any) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"{number!r} is not a number from 1 on")
    return number


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return text


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
