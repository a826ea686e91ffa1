"""Certificates and keys: read from files, tried, and made into what connections are made with.

A pair is NAME.crt and NAME.key in a directory (or NAME.pem with both), or two files that are
named. It is read once, whole, and what was read is what is tried and served: files that are
replaced meanwhile are the next look's affair. A pair that cannot be used leaves the one of its
name in use that was used before.

What is spoken: TLS 1.2 and 1.3, suites with ECDHE and AEAD alone, no renegotiation, no
compression, and no tickets: workers would have to share the keys of those, and to change them.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.core.servernames import ServerNames
from lbctl.core.x509 import read
from lbctl.errors import OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.config import Tls
    from lbctl.model import Certificate

FILE_LIMIT_BYTES = 1 << 20
_PAIRS_LIMIT = 1000
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:@SECLEVEL=2"  # of TLS 1.2; 1.3 has no others
_ISSUER = ".issuer"  # what lego writes beside NAME.crt
_PEM_END = b"-----END CERTIFICATE-----"
_WORDS = {
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
    "KEY_TYPE_MISMATCH": "the key is not that of the certificate",
    "NO_CERTIFICATE_ASSIGNED": "the key is not that of the certificate",  # of another kind
    "EE_KEY_TOO_SMALL": "its key is too short: RSA takes 2048 bits",
    "CA_MD_TOO_WEAK": "a signature of its chain is too weak",
    "NO_START_LINE": "no PEM in it",
}


@dataclass(frozen=True, slots=True)
class Files:
    """Where one pair lies; `key` may be the same file."""

    name: str
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Source:
    """Where the pairs of an lb lie: one named pair, or a directory of them."""

    pair: Files | None = None
    directory: Path | None = None

    def files(self) -> list[Files]:
        """Every pair, in order of names. Raises OperationError where it cannot be looked."""
        if self.directory is None:
            assert self.pair is not None  # noqa: S101 - it is one of the two
            return [self.pair]
        try:
            names = {entry.name for entry in os.scandir(self.directory)}
        except OSError as error:
            raise OperationError(f"cannot read {self.directory}: {error.strerror}") from None
        found = {}
        for entry in names:
            name, _, ending = entry.rpartition(".")
            if not name or name.startswith(".") or ending not in ("crt", "pem"):
                continue
            key = f"{name}.key" if ending == "crt" else entry
            if ending == "pem" and f"{name}.crt" in names:
                continue
            if name.endswith(_ISSUER) and key not in names:
                continue
            found[name] = Files(name, self.directory / entry, self.directory / key)
        if len(found) > _PAIRS_LIMIT:
            raise OperationError(f"{self.directory} holds more than {_PAIRS_LIMIT} certificates")
        return [found[name] for name in sorted(found)]

    def look(self) -> object:
        """Something that differs whenever the files may."""
        try:
            files = {path for pair in self.files() for path in (pair.cert, pair.key)}
        except OperationError as error:
            return str(error)
        return {path: _mark(path) for path in files}


@dataclass(frozen=True, slots=True)
class Pair:
    """One that was tried. `digest` tells whether another one is the same."""

    certificate: Certificate
    digest: str
    context: ssl.SSLContext
    material: tuple[bytes, bytes]

    @property
    def name(self) -> str:
        return self.certificate.name


class Credentials:
    """The pairs in use, in order of names: what a connection is made with.

    Made before a worker is forked, and only read by it. The first pair is for whoever asks for
    no host, or for another.
    """

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        self.pairs = [pairs[name] for name in sorted(pairs)]
        names = ServerNames(self.certificates)
        # A context of its own: it carries the choice between all of them.
        self._front = _context(*self.pairs[0].material)
        if len(self.pairs) > 1:
            contexts = {pair.name: pair.context for pair in self.pairs}

            def choose(end: ssl.SSLSocket | ssl.SSLObject, host: str | None, _: object) -> None:
                name = names.choose(host) if host else None
                if name is not None:
                    end.context = contexts[name]

            self._front.sni_callback = choose

    @property
    def certificates(self) -> list[Certificate]:
        return [pair.certificate for pair in self.pairs]

    @property
    def digest(self) -> list[str]:
        return [pair.digest for pair in self.pairs]

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """A server's end of a connection, between two buffers."""
        return self._front.wrap_bio(incoming, outgoing, server_side=True)


def source_of(settings: Tls) -> Source | None:
    """Where the settings say that pairs lie; None without TLS. Raises UsageError."""
    if settings.tls_cert and settings.tls_dir:
        raise UsageError("--tls-cert and --tls-dir: give one of them")
    if settings.tls_key and not settings.tls_cert:
        raise UsageError("--tls-key without --tls-cert: give both")
    if not settings.on:
        return None
    if settings.tls_dir:
        return Source(directory=Path(settings.tls_dir))
    cert = Path(settings.tls_cert)
    return Source(pair=Files(cert.stem, cert, Path(settings.tls_key or cert)))


def load(source: Source, before: Credentials | None = None) -> tuple[Credentials, list[str]]:
    """What can be used of what lies there now, else of what was used before; and what is wrong,
    a line each. Where nothing has changed it is `before` itself.

    Raises OperationError where there is nothing to use at all.
    """
    old = {pair.name: pair for pair in before.pairs} if before is not None else {}
    pairs: dict[str, Pair] = {}
    problems = []
    try:
        files = source.files()
    except OperationError as error:
        files, pairs = [], old
        problems.append(str(error))
    for one in files:
        try:
            pairs[one.name] = read_pair(one, old.get(one.name))
        except OperationError as error:
            problems.append(str(error))
            if one.name in old:
                pairs[one.name] = old[one.name]
    if not pairs:
        pairs = old
        if not problems:
            problems.append(f"{source.directory}: no NAME.crt with a NAME.key, and no NAME.pem")
    if not pairs:
        raise OperationError("\n".join(problems[:2]))
    credentials = Credentials(pairs)
    if before is not None and credentials.digest == before.digest:
        return before, problems
    return credentials, problems


def read_pair(files: Files, before: Pair | None = None) -> Pair:
    """Read and try one; `before` itself where it is the same. Raises OperationError."""
    cert = _read(files.cert)
    key = cert if files.key == files.cert else _read(files.key)
    digest = hashlib.sha256(b"%d %b%b" % (len(cert), cert, key)).hexdigest()
    if before is not None and before.digest == digest:
        return before
    try:
        return Pair(certificate_in(cert, files.name), digest, _context(cert, key), (cert, key))
    except ValueError as error:  # ssl.SSLError is none
        raise OperationError(f"{files.cert}: {error}") from None
    except ssl.SSLError as error:
        reason = error.reason or "not a certificate and its key"
        words = _WORDS.get(reason, reason.replace("_", " ").lower())
        raise OperationError(f"{files.cert} and {files.key.name}: {words}") from None


def certificate_in(pem: bytes, name: str) -> Certificate:
    """What the first certificate of a file says. Raises ValueError."""
    start, end = pem.find(b"-----BEGIN CERTIFICATE-----"), pem.find(_PEM_END)
    if not 0 <= start < end:
        raise ValueError("no certificate in it (PEM)")
    text = pem[start : end + len(_PEM_END)].decode("ascii")
    return read(ssl.PEM_cert_to_DER_cert(text), name)


def open_to_others(path: Path) -> bool:
    """Whether another user of this machine may read a file: it, and every directory above."""
    real = path.resolve()
    try:
        modes = [one.stat().st_mode for one in real.parents]
        readable = real.stat().st_mode & stat.S_IROTH
    except OSError:
        return False
    return bool(readable) and all(mode & stat.S_IXOTH for mode in modes)


def open_where_mounted(key: Path, source: Source) -> bool:
    """The same in a container that has the key's directory mounted: those above it are not there,
    and so keep nobody out.
    """
    real, top = key.resolve(), (source.directory or key.parent).resolve()
    inside = [one for one in real.parents if one.is_relative_to(top)]
    try:
        shut = not all(one.stat().st_mode & stat.S_IXOTH for one in inside)
        return bool(inside) and not shut and bool(real.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def closing(key: Path) -> str:
    """What to type so that root alone can read it."""
    chmod = f"chmod 600 {key}"
    return chmod if key.stat().st_uid == 0 else f"chown root {key} && {chmod}"


def _context(cert: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= (
        ssl.OP_CIPHER_SERVER_PREFERENCE
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_TICKET
        | ssl.OP_SINGLE_ECDH_USE
    )
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    with ExitStack() as stack:
        # OpenSSL takes names of files; these two are in nobody's directory.
        first, second = (f"/proc/self/fd/{_in_memory(part, stack)}" for part in (cert, key))
        context.load_cert_chain(first, second, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    raise ValueError("its key has a passphrase, which nobody is there to type")


def _in_memory(data: bytes, stack: ExitStack) -> int:
    descriptor = os.memfd_create("pem")
    stack.callback(os.close, descriptor)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)
    return descriptor


def _read(path: Path) -> bytes:
    try:
        # Without waiting: what is no file may have nobody at its other end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OperationError(f"{path} is no file")
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise OperationError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > FILE_LIMIT_BYTES:
        raise OperationError(f"{path} is too large for a certificate")
    return data


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
