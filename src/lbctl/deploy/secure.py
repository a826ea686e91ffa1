"""What TLS adds to a stack on an engine: a published port, and the directories of certificates,
mounted read-only into the lbs.

Directories and not files: a mounted file is the one of the moment, and whoever replaces it
replaces another.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lbctl.certificates import Source, closing, load, open_where_mounted, source_of
from lbctl.config import LEAVES
from lbctl.deploy import Address
from lbctl.errors import UsageError
from lbctl.runtime.containers import ENGINE_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.config import Config, Tls
    from lbctl.runtime.containers import Json

MOUNTED: Final = "/etc/lbctl/tls"
_KEY_MOUNTED: Final = "/etc/lbctl/tls-key"
_SHARED: Final = frozenset({"/", "/etc", "/root", "/run", "/var/run", "/home"})
_FIRST_UID, _NOBODY_UID = 1000, 65534
_LEAVES: Final = ("tls_cert", "tls_key", "tls_dir")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """`mounts`: directories of this machine, by those inside; `settings`: LBCTL_ variables that
    name the files inside.
    """

    mounts: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def outside(self) -> dict[str, str]:
        """The settings, with the names that files have on this machine."""
        named = {leaf: dict(self.settings).get(LEAVES[leaf].variable, "") for leaf in _LEAVES}
        return {leaf: self._outside(path) for leaf, path in named.items() if path}

    def _outside(self, path: str) -> str:
        for inside, source in self.mounts:
            if path == inside or path.startswith(f"{inside}/"):
                return source + path.removeprefix(inside)
        return path


def absolute(config: Config) -> Config:
    """The same for whoever works in another directory."""
    named: dict[str, Any] = {name: getattr(config.tls, name) for name in _LEAVES}
    whole = {name: str(Path(path).absolute()) for name, path in named.items() if path}
    return replace(config, tls=replace(config.tls, **(named | whole)))


def files_of(config: Config, *, here: bool, socket: str | None = None) -> TlsFiles:
    """What a stack with these settings mounts. `here`: the engine is this machine's, so that what
    it would mount can be looked at; `socket` is where it listens. Raises UsageError, and
    OperationError where nothing of it can be used.
    """
    tls = absolute(config).tls
    if not tls.on:
        return TlsFiles()
    for flag, directory in _mounted(tls):
        _refuse_what_holds_more(flag, directory, here=here, socket=socket or ENGINE_SOCKET)
    if here:
        _refuse_what_no_lb_could_serve(tls)
    if tls.tls_dir:
        if here:
            found = (
                path
                for pair in Source(directory=Path(tls.tls_dir)).files()
                for path in (pair.cert, pair.key)
            )
            for path in filter(Path.exists, found):
                _refuse_what_a_mount_hides("--tls-dir:", path)
        return TlsFiles(((MOUNTED, tls.tls_dir),), (_setting("tls_dir", MOUNTED),))
    cert, key = Path(tls.tls_cert), Path(tls.tls_key or tls.tls_cert)
    if here:
        for flag, path in (("--tls-cert", cert), ("--tls-key", key)):
            _refuse_what_a_mount_hides(flag, path)
    mounts = [(MOUNTED, str(cert.parent))]
    inside = MOUNTED
    if key.parent != cert.parent:
        inside = _KEY_MOUNTED
        mounts.append((inside, str(key.parent)))
    settings = [_setting("tls_cert", f"{MOUNTED}/{cert.name}")]
    if tls.tls_key:
        settings.append(_setting("tls_key", f"{inside}/{key.name}"))
    return TlsFiles(tuple(mounts), tuple(settings))


def files_in(lb: Json) -> TlsFiles:
    """What a present lb has (the engine's inspection of it)."""
    mounts = tuple(
        (mount["Target"], mount["Source"])
        for mount in lb["HostConfig"].get("Mounts") or ()
        if mount["Target"] in (MOUNTED, _KEY_MOUNTED)
    )
    variables = {LEAVES[leaf].variable for leaf in _LEAVES}
    given = (entry.partition("=") for entry in lb["Config"]["Env"] or ())
    settings = tuple((name, value) for name, _, value in given if name in variables)
    return TlsFiles(mounts, settings) if mounts else TlsFiles()


def mounts_of(files: TlsFiles) -> list[Json]:
    """The engine's words for them."""
    return [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
        for target, source in files.mounts
    ]


def addresses_of(config: Config) -> dict[str, Address]:
    """What is listened on outside, by the flag that sets the port. Traffic comes first."""
    tls = config.tls
    secure = {"--tls-port": Address(config.bind, tls.tls_port)} if tls.on else {}
    return {
        "--port": Address(config.bind, config.port),
        "--admin-port": Address(config.admin_bind, config.admin_port),
        **secure,
    }


def env_of(files: TlsFiles) -> Iterable[str]:
    return (f"{name}={value}" for name, value in files.settings)


def warnings_of(config: Config) -> Iterator[str]:
    """A line for the keys that more users than root can read where they are mounted."""
    tls = absolute(config).tls
    source = source_of(tls)
    if source is None:
        return
    bare = [one.key for one in source.files() if open_where_mounted(one.key, source)]
    if bare:
        more = f", and {len(bare) - 1} more" if len(bare) > 1 else ""
        yield f"every user in an lb's container can read {bare[0]}{more}: {closing(bare[0])}"


def _mounted(tls: Tls) -> list[tuple[str, Path]]:
    """What each flag makes a mount of."""
    if tls.tls_dir:
        return [("--tls-dir", Path(tls.tls_dir))]
    files = [("--tls-cert", tls.tls_cert), ("--tls-key", tls.tls_key)]
    return [(flag, Path(file).parent) for flag, file in files if file]


def _refuse_what_holds_more(flag: str, directory: Path, *, here: bool, socket: str) -> None:
    """A directory is mounted whole: not one where other secrets lie, or the engine's socket."""
    places = {_plain(directory)} | ({directory.resolve()} if here else set())
    sockets = {_plain(Path(socket))} | ({Path(socket).resolve()} if here else set())
    for place in places:
        if (
            str(place) in _SHARED
            or str(place.parent) == "/home"
            or (here and place in _homes())
            or any(one.is_relative_to(place) for one in sockets)
        ):
            raise UsageError(
                f"{flag}: {directory} holds more than certificates, and lbs would see all of it\n"
                "put the files into a directory of their own (docs/tls.md), and give that"
            )


def _plain(path: Path) -> Path:
    """Without "..", as far as that is known without a look."""
    return Path("/" + os.path.normpath(path).lstrip("/"))


def _homes() -> set[Path]:
    """Those of people, and of whoever types this."""
    homes = {Path(one.pw_dir) for one in pwd.getpwall() if _FIRST_UID <= one.pw_uid < _NOBODY_UID}
    with contextlib.suppress(RuntimeError):  # one without a home
        homes.add(Path.home())
    homes = {home for home in homes if home.is_absolute()}
    return homes | {home.resolve() for home in homes}


def _setting(leaf: str, value: str) -> tuple[str, str]:
    return LEAVES[leaf].variable, value


def _refuse_what_no_lb_could_serve(tls: Tls) -> None:
    """As far as it can be seen from here."""
    source = source_of(tls)
    assert source is not None  # noqa: S101 - the callers have looked
    if tls.tls_dir and not Path(tls.tls_dir).is_dir():
        raise UsageError(f"--tls-dir {tls.tls_dir}: no such directory")
    files = [
        (one.cert, one.key) for one in source.files() if one.cert.exists() and one.key.exists()
    ]
    if not all(os.access(path, os.R_OK) for pair in files for path in pair):
        return  # whoever types this may know less than the lb
    load(source)
    closed = [[path for path in pair if not _is_open_to_root(path)] for pair in files]
    if all(closed):
        raise UsageError(
            f"{closed[0][0]} is closed to root in a container, who may read no other user's files\n"
            f"give it to root: chown root {closed[0][0]}"
        )


def _is_open_to_root(path: Path) -> bool:
    """To one without capabilities: the lb has none to pass by the modes of files."""
    facts = path.stat()
    if facts.st_uid == 0:
        return bool(facts.st_mode & stat.S_IRUSR)
    return bool(facts.st_mode & (stat.S_IRGRP if facts.st_gid == 0 else stat.S_IROTH))


def _refuse_what_a_mount_hides(flag: str, path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{flag} {path}: no such file")
    mounted = path.parent.resolve()
    if path.is_symlink() and (
        path.readlink().is_absolute() or not path.resolve().is_relative_to(mounted)
    ):
        raise UsageError(
            f"{flag} {path} is a link out of its directory, which containers do not see\n"
            "copy the files to one directory at every renewal (docs/tls.md), and give that"
        )
