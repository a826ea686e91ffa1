"""What lbctl knows of containers, without talking to an engine: their names in a project,
the shape they are created in, and what an engine's list says of one.

The last is read with suspicion: whoever can start a container chooses its labels, so a
label that lies makes an Instance with a problem, never an exception and never a guess.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lbctl import __version__
from lbctl.core.probing import read_path
from lbctl.core.text import printable
from lbctl.model import (
    LABEL_ADMIN_PORT,
    LABEL_LB,
    LABEL_PORT,
    LABEL_PROBE,
    LABEL_PROJECT,
    LABEL_PUBLISH,
    LABEL_REVISION,
    LABEL_ROLE,
    LABEL_WEIGHT,
    Backend,
    EngineHealth,
    Instance,
    Phase,
)
from lbctl.paths import CONTAINER, GUARD_SOCKET

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from lbctl.model import Release

Json = dict[str, Any]

BACKEND_IMAGE: Final = f"lbctl-nginx:{__version__}"
LB_IMAGE: Final = f"lbctl-lb:{__version__}"

LB_NAMES: Final = "abcdefgh"  # as many as there can be
TRAFFIC_PORT: Final = "8080/tcp"  # inside the pod, as the lb's image exposes it
ADMIN_PORT: Final = "9900/tcp"
TLS_PORT: Final = "8443/tcp"
LB_STOP_TIMEOUT_S: Final = 20  # its own drain takes at most 10 s
ENGINE_SOCKET: Final = "/var/run/docker.sock"  # inside the guard
MIGRATE_SYSCTL: Final = "net.ipv4.tcp_migrate_req"
_MEBIBYTE: Final = 1 << 20
_CHECK_RETRIES: Final = 3  # of a HEALTHCHECK that does not say


@dataclass(frozen=True, slots=True)
class Names:
    """What the objects of a project are called, and how they are found again."""

    project: str

    @property
    def network(self) -> str:
        return self.project

    @property
    def token_volume(self) -> str:
        return f"{self.project}_token"

    @property
    def state_volume(self) -> str:
        return f"{self.project}_state"

    @property
    def guard_volume(self) -> str:
        return f"{self.project}_guard"

    @property
    def volumes(self) -> tuple[str, ...]:
        return self.token_volume, self.state_volume, self.guard_volume

    @property
    def pod(self) -> str:
        return f"{self.project}-pod"

    @property
    def guard(self) -> str:
        return f"{self.project}-guard"

    def lb(self, name: str) -> str:
        return f"{self.project}-lb-{name}"

    def backend(self, number: int) -> str:
        return f"{self.project}-backend-{number}"

    def labels(self, role: str = "") -> dict[str, str]:
        labels = {LABEL_PROJECT: self.project}
        return labels | {LABEL_ROLE: role} if role else labels

    def filters(self, role: str = "") -> dict[str, list[str]]:
        """What a list of this project's objects is filtered by."""
        return {"label": [f"{name}={value}" for name, value in self.labels(role).items()]}


@dataclass(frozen=True, slots=True)
class Lb:
    """One lb container as it is wanted. `settings` are the LBCTL_ variables of its processes; `pod`
    is the id of the container whose network it joins.
    """

    name: str
    image: str
    pod: str
    settings: Mapping[str, str]
    stop_timeout_s: int = LB_STOP_TIMEOUT_S
    mounts: tuple[Json, ...] = ()  # of files of this machine


def backend_body(names: Names, release: Release) -> Json:
    """The request that creates one backend (ContainerCreate of the engine's API).

    User, command, stop signal and health check are the image's own. Nothing in it is a
    secret, nor is anything on the volume, which the backend cannot write.
    """
    return {
        "Image": release.image,
        "Labels": names.labels("backend") | {LABEL_REVISION: str(release.revision)},
        "StopTimeout": 15,
        "HostConfig": _confinement(names.network)
        | {
            "Mounts": [_volume(names.token_volume, CONTAINER.secrets, read_only=True)],
            "Memory": 64 * _MEBIBYTE,
            "PidsLimit": 64,
            # The one directory nginx writes to, for the image's user.
            "Tmpfs": {"/srv/lbctl": "uid=64102,gid=64102,mode=0755,size=16m"},
        },
    }


def pod_body(names: Names, image: str, ports: Mapping[str, tuple[str, int]]) -> Json:
    """The request that creates the pod: it owns the network namespace, and so the address, that
    all lbs share, and does nothing else. `ports`: by those inside, the host's address ("" for
    all) and port.
    """
    return {
        "Image": image,
        "Labels": names.labels("pod"),
        "Entrypoint": ["sh", "-c"],
        # As PID 1 it heeds what it traps, and no other signal. 143 is an end by SIGTERM, which the
        # guard makes good; 0 would be one of its own accord. 68 years are long enough.
        "Cmd": ["trap 'exit 143' TERM; sleep 2147483647 & wait"],
        "User": "65534:65534",
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": _confinement(names.network)
        | {
            "PortBindings": {
                port: [{"HostIp": host, "HostPort": str(number)}]
                for port, (host, number) in ports.items()
            },
            # What waits in the queue of an lb that ends is handed to the other (Linux 5.14).
            "Sysctls": {MIGRATE_SYSCTL: "1"},
            "Memory": 16 * _MEBIBYTE,
            "PidsLimit": 16,
        },
    }


def lb_body(names: Names, lb: Lb) -> Json:
    """The request that creates one lb."""
    return {
        "Image": lb.image,
        "Labels": names.labels("lb") | {LABEL_LB: lb.name},
        "Cmd": ["serve", "--runtime", "docker", "--lb", lb.name],
        "Env": [f"{name}={value}" for name, value in sorted(lb.settings.items())],
        "StopTimeout": lb.stop_timeout_s,
        "HostConfig": _confinement(f"container:{lb.pod}")
        | {
            "Mounts": [
                _volume(names.token_volume, CONTAINER.secrets),
                _volume(names.state_volume, CONTAINER.state),
                # Who connects to a socket there writes nothing there.
                _volume(names.guard_volume, GUARD_SOCKET.parent, read_only=True),
                *lb.mounts,
            ],
            "Memory": 1024 * _MEBIBYTE,
            "PidsLimit": 256,
            # What a root process needs to hand files to workers, drop to their user and end
            # them; the guard's socket is root's own.
            "CapAdd": ["CHOWN", "KILL", "SETGID", "SETUID"],
            "Tmpfs": {"/tmp": "size=16m"},  # noqa: S108 - the container's own
        },
    }


def guard_body(names: Names, image: str, engine_socket: str, backend_image: str) -> Json:
    """The request that creates the guard, which is on no network, and alone has the engine."""
    return {
        "Image": image,
        "Labels": names.labels("guard"),
        "Cmd": ["guard"],
        "Env": [f"LBCTL_PROJECT={names.project}", f"LBCTL_BACKEND_IMAGE={backend_image}"],
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _confinement("none")
        | {
            "Mounts": [
                {"Type": "bind", "Source": engine_socket, "Target": ENGINE_SOCKET},
                _volume(names.guard_volume, GUARD_SOCKET.parent),
                _volume(names.state_volume, CONTAINER.state, read_only=True),
            ],
            "Memory": 128 * _MEBIBYTE,
            "PidsLimit": 32,
            "Tmpfs": {"/tmp": "size=1m"},  # noqa: S108 - the container's own
        },
    }


def _confinement(network: str) -> Json:
    """What holds for every container of a project (HostConfig)."""
    return {
        "NetworkMode": network,
        "RestartPolicy": {"Name": "unless-stopped"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }


def _volume(name: str, target: Path, *, read_only: bool = False) -> Json:
    return {"Type": "volume", "Source": name, "Target": str(target), "ReadOnly": read_only}


def free_names(names: Names, taken: Collection[str], count: int) -> list[str]:
    """The first `count` names for backends that are not taken."""
    all_names = (names.backend(number) for number in itertools.count(1))
    return list(itertools.islice((name for name in all_names if name not in taken), count))


class _LabelError(ValueError):
    """A label says what cannot be; the text is the sentence for the user."""


def instance_of(container: Json, network: str) -> Instance:
    """Read one entry of the engine's list of containers.

    Never raises for what a person could have written into it; a shape no engine sends is a
    KeyError or TypeError.
    """
    name = listed_name(container)
    phase, health = _phase_and_health(container["State"], container["Status"])
    backend, problem = None, ""
    try:
        if phase is Phase.EXITED:
            raise _LabelError(_why_not_running(container["State"], container["Status"]))
        backend = _backend(container, name, network)
    except _LabelError as error:
        problem = str(error)
    return Instance(
        id=container["Id"],
        name=name,
        phase=phase,
        backend=backend,
        problem=problem,
        health=health,
        revision=_revision(container.get("Labels") or {}),
        image=printable(str(container.get("Image", "")), 256),
    )


def listed_name(container: Json) -> str:
    """The name of an entry of the engine's list, fit to be shown."""
    # Names come as "/name"; links add "/other/alias".
    full = next((n for n in container.get("Names") or [] if n.count("/") == 1), "")
    return printable(full.removeprefix("/") or container["Id"][:12], 128)


def _phase_and_health(state: str, status: str) -> tuple[Phase, EngineHealth]:
    """From the engine's one word and its sentence ("Up 3 seconds (healthy)").

    The sentence of a paused container does not tell its health.
    """
    if state == "paused":
        return Phase.PAUSED, EngineHealth.NONE
    if state != "running":  # created, restarting, removing, exited, dead
        return Phase.EXITED, EngineHealth.NONE
    for ending, health in (
        ("(healthy)", EngineHealth.HEALTHY),
        ("(unhealthy)", EngineHealth.UNHEALTHY),
        ("(health: starting)", EngineHealth.STARTING),
    ):
        if status.endswith(ending):
            return Phase.RUNNING, health
    return Phase.RUNNING, EngineHealth.NONE


def failed_its_checks(facts: Json) -> bool:
    """Whether so many of a container's checks failed in a row that it is unhealthy; `facts` are
    the engine's inspection of it.
    """
    health = facts["State"].get("Health") or {}
    check = facts["Config"].get("Healthcheck") or {}
    failures: int = health.get("FailingStreak") or 0
    return failures >= (check.get("Retries") or _CHECK_RETRIES)


def _why_not_running(state: str, status: str) -> str:
    # Without the "5 seconds ago" of the sentence: a reason must not change by itself.
    code = re.match(r"(?:Exited|Restarting) \((\d+)\)", status)
    if code:
        return f"{state}, exit status {code[1]}"
    return f"does not run ({printable(state, 20)})"


def _backend(container: Json, name: str, network: str) -> Backend:
    labels: Mapping[str, str] = container.get("Labels") or {}
    plain = Backend(id=container["Id"], name=name, ip=_address(container, network))
    port = _number(labels, LABEL_PORT, plain.port, 65_535)
    admin_port = _number(labels, LABEL_ADMIN_PORT, plain.admin_port, 65_535)
    if port == admin_port:
        raise _LabelError(f"{LABEL_PORT} and {LABEL_ADMIN_PORT} are both {port}")
    try:
        probe_path = read_path(labels[LABEL_PROBE]) if LABEL_PROBE in labels else ""
    except ValueError:
        expected = 'a path: "/" and then visible ASCII without "#"'
        raise _lie(labels, LABEL_PROBE, expected) from None
    publish = labels.get(LABEL_PUBLISH, "true")
    if publish not in ("true", "false"):
        raise _lie(labels, LABEL_PUBLISH, "true or false")
    return dataclasses.replace(
        plain,
        port=port,
        admin_port=admin_port,
        weight=_number(labels, LABEL_WEIGHT, plain.weight, 1000),
        probe_path=probe_path,
        publish=publish == "true",
    )


def _revision(labels: Mapping[str, str]) -> int:
    """Whoever writes another number here, or none, has started the container himself."""
    text = labels.get(LABEL_REVISION, "")
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,8}", text) else 0


def _number(labels: Mapping[str, str], label: str, default: int, high: int) -> int:
    text = labels.get(label, str(default))
    # int() alone would take "+1", " 1", "1_0" and other scripts' digits.
    if re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) <= high:
        return int(text)
    raise _lie(labels, label, f"a whole number from 1 to {high}")


def _lie(labels: Mapping[str, str], label: str, expected: str) -> _LabelError:
    return _LabelError(f'label {label}="{printable(labels[label], 60)}" is not {expected}')


def _address(container: Json, network: str) -> str:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    text = (networks.get(network) or {}).get("IPAddress") or ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise _LabelError(f"has no address on network {network}") from None
