"""What of an engine's answers goes on to an lb: the fields that runtime/ reads, and no others.

An answer is built anew from those, so what an engine may add some day stays here: environment,
mounts, commands, the host's paths, other networks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from lbctl.model import (
    LABEL_ADMIN_PORT,
    LABEL_PORT,
    LABEL_PROBE,
    LABEL_PROJECT,
    LABEL_PUBLISH,
    LABEL_REVISION,
    LABEL_ROLE,
    LABEL_WEIGHT,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.core.allowlist import Shapes
    from lbctl.runtime.containers import Names

Json = dict[str, Any]

_LABELS: Final = (
    LABEL_PROJECT, LABEL_ROLE, LABEL_PORT, LABEL_ADMIN_PORT, LABEL_PROBE, LABEL_WEIGHT,
    LABEL_PUBLISH, LABEL_REVISION,
)  # fmt: skip
_STREAM = 1  # stdout, of a log's frame


def version_of(facts: Mapping[str, Any]) -> Json:
    """GET /version."""
    return _only(facts, "Version", "ApiVersion")


def listed(container: Mapping[str, Any], names: Names) -> Json:
    """One entry of the list of backends."""
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    own = networks.get(names.network)
    shown = {} if own is None else {names.network: _only(own, "IPAddress")}
    return _only(container, "Id", "Names", "Image", "State", "Status") | {
        "Labels": _only(container.get("Labels") or {}, *_LABELS),
        "NetworkSettings": {"Networks": shown},
    }


def name_listed(container: Mapping[str, Any], shapes: Shapes) -> Json:
    """One entry of the list of names that are taken, whoever has them."""
    pattern = re.compile(shapes.list_names["name"][0])
    return {"Names": [name for name in container.get("Names") or () if pattern.match(name)]}


def inspected(facts: Mapping[str, Any]) -> Json:
    """GET /containers/ID/json."""
    health = facts["State"].get("Health")
    check = facts["Config"].get("Healthcheck")
    ports = (facts.get("NetworkSettings") or {}).get("Ports") or {}
    return {
        "Id": facts["Id"],
        "State": {"Health": health and _only(health, "FailingStreak")},
        "Config": _only(facts["Config"], "Tty", "StopSignal")
        | {"Healthcheck": check and _only(check, "Retries")},
        "NetworkSettings": {
            "Ports": {
                port: [_only(place, "HostIp", "HostPort") for place in places or ()]
                for port, places in ports.items()
            }
        },
    }


def event_of(event: Mapping[str, Any], names: Names) -> Json | None:
    """An event of this project's backends, or of its network; None for any other."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    if event.get("Type") == "network":
        ours = attributes.get("name") == names.network
        shown: tuple[str, ...] = ("name", "container")
    else:
        labels = names.labels("backend")
        ours = event.get("Type") == "container" and all(
            attributes.get(label) == value for label, value in labels.items()
        )
        shown = (*labels, "signal")
    if not ours:
        return None
    kept = {"ID": actor.get("ID"), "Attributes": _only(attributes, *shown)}
    return _only(event, "Type", "Action") | {"Actor": kept}


def log_of(lines: Iterable[bytes], *, terminal: bool) -> bytes:
    """A container's lines as the engine sends them: plain with a terminal, else in frames of
    [stream, 0, 0, 0, size as 4 bytes] and so many bytes.
    """
    whole = [line + b"\n" for line in lines]
    if terminal:
        return b"".join(whole)
    frames = (bytes([_STREAM, 0, 0, 0]) + len(line).to_bytes(4, "big") + line for line in whole)
    return b"".join(frames)


def _only(document: Mapping[str, Any], *fields: str) -> Json:
    return {field: document[field] for field in fields if field in document}
