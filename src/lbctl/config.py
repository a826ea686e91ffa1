"""The one configuration tree, frozen, with units in the names.

Every leaf can be set, in rising order of precedence, by its default here, a key in
`lbctl.toml`, `LBCTL_<NAME>` in the environment, or the flag of the same name. Leaf names are
unique over all sections, so `LBCTL_CONNECT_TIMEOUT_S` needs no section; in the file a leaf
stands either at the top or in the table of its section.

Each leaf's help gives what it does and the hazard of changing it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from lbctl.core.balancing.cookies import CookieReader
from lbctl.core.balancing.keys import key_from
from lbctl.core.hosts import host_names
from lbctl.core.origin import networks
from lbctl.core.probing import (
    header_names,
    read_body,
    read_headers,
    read_path,
    read_statuses,
)
from lbctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ENV_PREFIX = "LBCTL_"
MAX_REPLICAS = 10_000
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _leaf(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[str], object] | None = None,
    shown: Callable[[str], str] | None = None,
) -> Any:
    """`check` raises ValueError, with words for the user, for a text that cannot be meant. `shown`
    is what may be told of a text that may hold a secret.
    """
    return field(
        default=default,
        metadata={
            "help": text,
            "low": low,
            "high": high,
            "choices": choices,
            "check": check,
            "shown": shown,
        },
    )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which the request path gives up."""

    connect_timeout_s: float = _leaf(2.0, "to open a connection to a backend", low=0.01)
    response_timeout_s: float = _leaf(
        30.0,
        "from the whole request to the head of its response, for all tries together; then 504. "
        "Where it is no longer than try_timeout_s, each try has it",
        low=0.01,
    )
    head_timeout_s: float = _leaf(10.0, "for a client to send a whole head; then 408", low=0.01)
    client_idle_timeout_s: float = _leaf(60.0, "a client's connection may rest", low=0.01)
    upstream_idle_timeout_s: float = _leaf(
        55.0,
        "a backend's connection may rest; keep it under the backend's own keep-alive (75 s in "
        "the nginx image), or requests meet closed connections",
        low=0.01,
    )
    body_idle_timeout_s: float = _leaf(60.0, "a body may stand still, either way", low=0.01)
    try_timeout_s: float = _leaf(
        1.0,
        "a request that may be sent twice waits on a backend that is silent on all its "
        "connections; then it goes to another. A slow page on a backend that still talks is not "
        "asked for twice",
        low=0.01,
    )
    tunnel_idle_timeout_s: float = _leaf(
        3600.0, "an upgraded connection (WebSocket) may be silent, both ways", low=0.01
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker takes before it says no."""

    head_limit_bytes: int = _leaf(
        32_768, "of a head; then 414 or 431, and 502 where it is a response's", low=256
    )
    head_limit_fields: int = _leaf(100, "fields of a head; then 431", low=1)
    connections_per_worker: int = _leaf(
        10_000, "clients at a time; more wait in the kernel's queue", low=1
    )
    write_buffer_bytes: int = _leaf(
        65_536,
        "waiting for a slow reader before its sender is paused; each takes that much memory twice",
        low=1024,
    )
    idle_upstreams_per_backend: int = _leaf(256, "kept open, a worker", low=0)
    body_limit_bytes: int = _leaf(
        0, "of a request's body; then 413. 0: any size, bodies are streamed", low=0
    )
    body_rate_min: int = _leaf(
        500,
        "bytes a second of a request's body, over body_idle_timeout_s; then 408. Clients that "
        "stream little by little need 0",
        low=0,
    )
    rate_limit: float = _leaf(
        0.0,
        "requests a second of a client network, over all workers of an lb; then 429. 0: no limit. "
        "Many people may share one address",
        low=0,
        high=1_000_000,
    )
    rate_burst: int = _leaf(
        100,
        "requests at once, before rate_limit counts; a page may ask for dozens",
        low=1,
        high=1_000_000,
    )
    rate_prefix_v4: int = _leaf(
        32, "bits of an IPv4 address that make a client network, for all limits", low=0, high=32
    )
    rate_prefix_v6: int = _leaf(
        64, "the same of IPv6; a single client has 64 bits to choose from", low=0, high=128
    )
    client_connections: int = _leaf(
        0,
        "at a time, of a client network and lb; more are answered 503 and closed. 0: no limit. "
        "Trusted proxies have none",
        low=0,
    )
    allow_networks: str = _leaf(
        "",
        "networks, separated by commas; all others are answered 403. Empty: all may come",
        check=networks,
    )
    deny_networks: str = _leaf(
        "", "networks that are answered 403, whatever allow_networks says", check=networks
    )


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is given to another backend."""

    retries: int = _leaf(
        1,
        "for a request that was sent, is idempotent, has no body and got no byte of an answer",
        low=0,
        high=10,
    )
    connect_retries: int = _leaf(2, "for a request of which nothing was sent", low=0, high=10)
    retry_budget_percent: float = _leaf(
        20.0,
        "of the requests under way may be second tries; more would make an overload worse",
        low=0,
        high=100,
    )
    retry_budget_min: int = _leaf(100, "second tries at a time are always allowed", low=0)


@dataclass(frozen=True, slots=True)
class Balancing:
    """Who gets the next request. All policies heed the label lbctl.weight."""

    balance: str = _leaf(
        "round-robin",
        "the policy; p2c: the less busy of two drawn; consistent-hash: by hash_key",
        choices=("round-robin", "least-connections", "p2c", "consistent-hash"),
    )
    hash_key: str = _leaf(
        "ip", "what consistent-hash hashes: ip, header:NAME or cookie:NAME", check=key_from
    )
    hash_load: float = _leaf(
        1.25,
        "times its fair share is the most a backend gets by hash; near 1 keys stray",
        low=1.01,
        high=100,
    )
    sticky_cookie: str = _leaf(
        "",
        "name of a cookie that brings a client back to its backend; empty: none is set",
        check=lambda name: CookieReader(name) if name else None,
    )
    slow_start_s: float = _leaf(
        10.0, "a newcomer's share grows from a tenth to all of it; 0: at once", low=0
    )


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word is taken."""

    trusted_proxies: str = _leaf(
        "",
        "networks whose X-Forwarded-*, Forwarded and X-Request-Id are kept, separated by commas; "
        "whoever else is in them can forge its address",
        check=networks,
    )
    upgrades: str = _leaf(
        "websocket",
        "protocols a client may change to, separated by commas. What runs in them is not "
        "looked at: never list h2c",
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS for clients, beside plain HTTP: docs/tls.md. On as soon as there is a certificate."""

    tls_cert: str = _leaf(
        "", "file with a certificate and its chain (PEM), and the key if tls_key names none"
    )
    tls_key: str = _leaf("", "file with its key, without a passphrase; root's alone")
    tls_dir: str = _leaf(
        "",
        "directory of pairs NAME.crt and NAME.key, or NAME.pem with both, instead: clients get the "
        "one that is for the host they ask for, else the first by name",
    )
    tls_port: int = _leaf(8443, "of the traffic over TLS; 0: none", low=0, high=65_535)
    tls_redirect: str = _leaf(
        "off",
        "plain HTTP answers 308 to the same place under https; ACME's challenges still go through",
        choices=("on", "off"),
    )
    tls_redirect_port: int = _leaf(
        0, "where clients find it, if another port leads to tls_port; 0: none", low=0, high=65_535
    )
    hsts_s: int = _leaf(
        0,
        "browsers are to use nothing but https so long (Strict-Transport-Security); 0: they are "
        "told nothing. They cannot be told otherwise afterwards",
        low=0,
        high=2_147_483_647,
    )
    tls_handshake_timeout_s: float = _leaf(
        5.0, "from a connection to the end of its handshake", low=0.01
    )

    @property
    def on(self) -> bool:
        return bool((self.tls_cert or self.tls_dir) and self.tls_port)

    @property
    def redirects(self) -> bool:
        return self.on and self.tls_redirect == "on"


@dataclass(frozen=True, slots=True)
class Health:
    """The lb's own checks of each backend, and what live requests say about it."""

    probe_path: str = _leaf(
        "/healthz", "what a check asks for; a backend's label lbctl.probe wins", check=read_path
    )
    probe_status: str = _leaf(
        "200-299", "statuses that pass, as 200-299 or 200,204", check=read_statuses
    )
    probe_body: str = _leaf(
        "", "text that the first 64 KiB of the answer must hold; empty: any answer", check=read_body
    )
    probe_headers: str = _leaf(
        "",
        'fields of a check, as "Host: site; X-Check: 1"; Host is the backend\'s address otherwise. '
        "Status shows their names alone",
        check=read_headers,
        shown=header_names,
    )

    probe_interval_s: float = _leaf(2.0, "between checks", low=0.05)
    probe_timeout_s: float = _leaf(1.0, "of one check", low=0.01)
    first_probe_interval_s: float = _leaf(0.1, "between the checks of a newcomer", low=0.01)
    first_probe_period_s: float = _leaf(10.0, "for which a newcomer is checked so often", low=0)
    probe_jitter: float = _leaf(0.1, "of an interval, to either side", low=0, high=0.5)
    fall: int = _leaf(3, "failures in a row that take a backend out", low=1)
    rise: int = _leaf(2, "passes in a row that bring it back; a newcomer needs one", low=1)
    eject_failures: int = _leaf(
        5,
        "live requests in a row that fail (no connection, no answer in time, 5xx), a worker, eject "
        "a backend; 0: never. Where clients can provoke a 5xx, a low number lets them eject",
        low=0,
    )
    eject_base_s: float = _leaf(30.0, "out, times the ejections of late", low=0.1)
    eject_limit_s: float = _leaf(300.0, "out at most", low=0.1)
    eject_floor_percent: float = _leaf(
        50.0,
        "of the known backends are never ejected; at 0 a fault that all share ejects all",
        low=0,
        high=100,
    )


@dataclass(frozen=True, slots=True)
class Control:
    """Discovery, membership and the publisher."""

    debounce_quiet_s: float = _leaf(0.02, "without a change before newcomers enter", low=0)
    debounce_limit_s: float = _leaf(0.1, "at most, however many come", low=0)
    resync_interval_s: float = _leaf(30.0, "between full looks at the runtime", low=0.1)
    reconnect_min_s: float = _leaf(0.1, "first wait after the event stream broke", low=0.01)
    reconnect_max_s: float = _leaf(5.0, "longest such wait", low=0.01)
    stopping_period_s: float = _leaf(
        15.0,
        "a container that was sent a terminating signal and still runs is taken to be leaving",
        low=0.1,
    )
    publish_timeout_s: float = _leaf(1.0, "to write a list into one backend", low=0.01)
    publish_concurrency: int = _leaf(64, "backends written to at a time", low=1)
    publish_retry_min_s: float = _leaf(0.1, "first wait after a failed write", low=0.01)
    publish_retry_max_s: float = _leaf(5.0, "longest such wait", low=0.01)
    repair_interval_s: float = _leaf(30.0, "between checks of each backend's list", low=0.1)
    drain_timeout_s: float = _leaf(10.0, "a leaving backend may finish its requests", low=0)
    scale_timeout_s: float = _leaf(30.0, "`scale` waits before it says who lags", low=1)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replacing backends: those that are ill, and all of them by a rollout."""

    heal: str = _leaf(
        "on",
        "replace backends that are gone or stay out of rotation, up to the wanted number",
        choices=("on", "off"),
    )
    heal_after_s: float = _leaf(
        30.0,
        "out of rotation before a backend is replaced; under fall times probe_interval_s every "
        "hiccup costs a backend",
        low=0.1,
    )
    heal_limit: int = _leaf(
        5, "replacements in a row that never came into rotation; then healing gives up", low=1
    )
    heal_retry_min_s: float = _leaf(
        5.0, "first wait after a replacement that was of no use; doubles", low=0.01
    )
    heal_retry_max_s: float = _leaf(300.0, "longest such wait", low=0.01)
    rollout_timeout_s: float = _leaf(
        60.0, "for a new backend to come into rotation; then the rollout goes back", low=0.1
    )


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of the past. Past any of these the oldest part is compressed, and readable."""

    history_rows: int = _leaf(
        100_000, "events in the database; each takes some 300 bytes", low=100, high=10_000_000
    )
    history_days: float = _leaf(30.0, "that an event stays in the database", low=0.01, high=36_500)
    history_mb: int = _leaf(
        256, "megabytes of the database and the files of lists together", low=1, high=1_000_000
    )


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin port."""

    admin_hosts: str = _leaf(
        "",
        "names under which browsers may ask the admin port, beside localhost and addresses, "
        "separated by commas; who owns one of them can have a browser read it",
        check=host_names,
    )
    admin_connections: int = _leaf(
        256, "to the admin port at a time; the idlest makes room for another", low=8
    )


@dataclass(frozen=True, slots=True)
class Deploy:
    """What `up` starts: the number of backends, and on docker from which images."""

    replicas: int = _leaf(
        0, "backends; 3 for a new stack, a running one keeps what it has", low=1, high=MAX_REPLICAS
    )
    lbs: int = _leaf(
        0, "lb containers behind one address; 2 on docker, the local runtime has 1", low=1, high=8
    )
    lb_image: str = _leaf("", "image of the lb; lbctl's own, built where it is absent")
    backend_image: str = _leaf("", "image of a backend; lbctl's own, built where it is absent")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    project: str = _leaf("lbctl", "name of the stack; several run side by side")
    runtime: str = _leaf("auto", "where backends live", choices=("auto", "docker", "local"))
    bind: str = _leaf("", "address of the traffic port; all on docker, 127.0.0.1 on local")
    port: int = _leaf(8080, "of the traffic", low=1, high=65_535)
    admin_bind: str = _leaf("127.0.0.1", "address of the admin port")
    admin_port: int = _leaf(9900, "of dashboard, metrics and API", low=1, high=65_535)
    workers: int = _leaf(0, "processes that proxy; 0: one a CPU", low=0, high=1024)
    heartbeat_timeout_s: float = _leaf(
        3.0,
        "a worker or controller whose event loop stands still so long is killed and replaced; "
        "less makes a busy machine kill what only waits for its turn",
        low=0.5,
    )
    access_log: str = _leaf("json", "one line a request", choices=("json", "off"))
    access_log_sample: float = _leaf(
        1.0, "share of the requests that is logged; 5xx always are", low=0, high=1
    )
    access_log_query: str = _leaf(
        "off",
        "log what stands behind the ? of a target; tokens and names often do",
        choices=("off", "on"),
    )
    log_level: str = _leaf(
        "info",
        "the least that the lb's processes say of themselves; the access log has its own setting",
        choices=("debug", "info", "warning", "error"),
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    retrying: Retries = field(default_factory=Retries)
    balancing: Balancing = field(default_factory=Balancing)
    trust: Trust = field(default_factory=Trust)
    tls: Tls = field(default_factory=Tls)
    health: Health = field(default_factory=Health)
    control: Control = field(default_factory=Control)
    fleet: Fleet = field(default_factory=Fleet)
    history: History = field(default_factory=History)
    admin: Admin = field(default_factory=Admin)
    deploy: Deploy = field(default_factory=Deploy)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: its section ("" at the top), name, type, default and constraints."""

    section: str
    name: str
    kind: type
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    check: Callable[[str], object] | None
    shown: Callable[[str], str] | None

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    def parse(self, raw: object, where: str) -> Any:
        """Convert and check one given value. Raises UsageError that names `where`."""
        if self.kind is str:
            value: Any = str(raw)
            if self.choices and value not in self.choices:
                raise UsageError(f"{where}: {value!r} is none of {', '.join(self.choices)}")
            if self.check is not None:
                try:
                    self.check(value)
                except ValueError as error:
                    raise UsageError(f"{where}: {error}") from None
            return value
        try:
            text = str(raw)
            # Python takes True, 1_000 and other scripts' digits for numbers; nobody means them.
            if isinstance(raw, bool) or not text.isascii() or "_" in text:
                raise ValueError
            value = int(text, 10) if self.kind is int else float(text)
        except ValueError:
            noun = "a whole number" if self.kind is int else "a number"
            raise UsageError(f"{where}: {raw!r} is not {noun}") from None
        if not self._within(value):
            raise UsageError(f"{where}: {raw} is out of range ({self.range_text()})")
        return value

    def _within(self, value: float) -> bool:
        # NaN fails every comparison, so the test is for being inside.
        above = value >= (self.low if self.low is not None else float("-inf"))
        below = value <= (self.high if self.high is not None else 1e12)
        return above and below

    def range_text(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else "finite"


def _walk(kind: type, section: str) -> Iterator[Leaf]:
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)  # noqa: S101 - narrows for the type checker
            yield from _walk(hint, item.name)
        else:
            meta = item.metadata
            yield Leaf(
                section, item.name, hint, item.default,
                meta["help"], meta["low"], meta["high"], meta["choices"], meta["check"],
                meta["shown"],
            )  # fmt: skip


LEAVES: dict[str, Leaf] = {leaf.name: leaf for leaf in _walk(Config, "")}


def project_name(raw: str) -> str:
    """Check a project's name: it becomes part of container, network and file names."""
    if not _PROJECT.fullmatch(raw):
        raise UsageError(
            f"project {raw!r}: 1 to 40 of a-z, 0-9, '-' and '_', starting with a letter or digit"
        )
    return raw


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    values: dict[str, Any] = {}
    sections = {leaf.section for leaf in LEAVES.values() if leaf.section}
    for key, value in document.items():
        inner = value if isinstance(value, dict) and key in sections else {key: value}
        for name, raw in inner.items():
            leaf = LEAVES.get(name)
            if leaf is None:
                raise UsageError(f"{path}: unknown setting {name!r}")
            if inner is value and leaf.section != key:
                place = f"in [{leaf.section}]" if leaf.section else "above all sections"
                raise UsageError(f"{path}: {name!r} stands in [{key}], and belongs {place}")
            values[name] = leaf.parse(raw, f"{path}: {name}")
    return values


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """Merge file, environment and flags (None = not given) into a Config.

    `file` defaults to LBCTL_CONFIG, then `lbctl.toml` here if there is one.
    Raises UsageError naming the setting and where it came from.
    """
    values = given(flags, environ=environ, file=file)
    project_name(values.get("project", "lbctl"))
    return _build(values)


def given(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """What somebody has set, by name; all else is its default. As `load` otherwise."""
    env = os.environ if environ is None else environ
    if file is None:
        named = env.get(ENV_PREFIX + "CONFIG")
        file = Path(named) if named else Path("lbctl.toml")
        if not named and not file.is_file():
            file = None
    values = _from_file(file) if file is not None else {}
    for leaf in LEAVES.values():
        text = env.get(leaf.variable)
        if text is not None:
            values[leaf.name] = leaf.parse(text, leaf.variable)
    for name, raw in (flags or {}).items():
        if raw is not None:
            values[name] = LEAVES[name].parse(raw, "--" + name.replace("_", "-"))
    return values


FIXED = (
    "project", "runtime", "bind", "port", "admin_bind", "admin_port",
    "tls_cert", "tls_key", "tls_dir", "tls_port",
)  # fmt: skip
"""What a running lb cannot change: its sockets, what it mounts, and what it is."""


def value_of(config: Config, name: str) -> Any:
    """One leaf's."""
    section = LEAVES[name].section
    return getattr(getattr(config, section) if section else config, name)


def settings_of(config: Config) -> dict[str, Any]:
    """Every leaf that the lb's processes heed, by name. (How to deploy is not theirs.)"""
    return {name: value_of(config, name) for name in LEAVES if LEAVES[name].section != "deploy"}


def shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what may be a secret. Unknown names are left out."""
    known = {name: LEAVES[name] for name in settings if name in LEAVES}
    return {
        name: settings[name] if leaf.shown is None else leaf.shown(str(settings[name]))
        for name, leaf in known.items()
    }


def changeable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of them that a running lb can change."""
    heeded = settings_of(Config())
    return {k: v for k, v in settings.items() if k in heeded and k not in FIXED}


def digest_of(config: Config) -> str:
    """Equal for two lbs that are set to the same. (What is fixed is each one's own.)"""
    text = json.dumps(changeable(settings_of(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def overlay(config: Config, settings: Mapping[str, Any], where: str) -> Config:
    """`config` with these leaves instead. Raises UsageError that names the setting and `where`."""
    values = settings_of(config) | dataclasses.asdict(config.deploy)
    for name, raw in settings.items():
        leaf = LEAVES.get(name)
        if leaf is None:
            raise UsageError(f"{where}: unknown setting {name!r}")
        values[name] = leaf.parse(raw, f"{where}: {name}")
    return _build(values)


def overlay_file(config: Config, path: Path) -> Config:
    """The same with a JSON file of settings, if it is there. Raises UsageError."""
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        return config
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name}: {error}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{path.name}: no settings")
    return overlay(config, settings, path.name)


def refuse_fixed(before: Config, after: Config) -> None:
    """Raises UsageError where what is fixed would change."""
    for name in FIXED:
        if value_of(before, name) != value_of(after, name):
            raise UsageError(f"{name} cannot change while the lb runs: end it and start it again")


def _build(values: Mapping[str, Any]) -> Config:
    hints = get_type_hints(Config)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(Config):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)  # noqa: S101 - narrows for the type checker
            names = {f.name for f in dataclasses.fields(hint)}
            arguments[item.name] = hint(**{k: v for k, v in values.items() if k in names})
        elif item.name in values:
            arguments[item.name] = values[item.name]
    return Config(**arguments)
