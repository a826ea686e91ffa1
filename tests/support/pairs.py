"""Certificates and keys for tests, made when they are needed by the `openssl` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.deadlines import scaled

OPENSSL = shutil.which("openssl")
_DAY_S = 86_400
_CONFIG = """\
[ca]
default_ca = own
[own]
new_certs_dir = .
database = index
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A self-signed pair, as PEM."""

    cert: bytes
    key: bytes

    def put(self, directory: Path, name: str) -> None:
        """As NAME.crt and NAME.key, one after the other, each in one step."""
        for ending, data in (("crt", self.cert), ("key", self.key)):
            fresh = directory / f".{name}.{ending}"
            fresh.write_bytes(data)
            fresh.chmod(0o600)
            fresh.replace(directory / f"{name}.{ending}")


def make(*names: str, days: float = 90, begins_days: float = -1, key: str = "ec") -> Made:
    """One for these DNS names, valid until `days` from now, which may lie behind."""
    kinds = {
        "ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "rsa": ["rsa:2048"],
        "short": ["rsa:1024"],
    }
    with tempfile.TemporaryDirectory(prefix="lbctl-pair-") as scratch:
        where = Path(scratch)
        (where / "config").write_text(_CONFIG)
        (where / "index").touch()
        (where / "serial").write_text("01\n")
        asked = ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)]
        _openssl(
            where, "req", "-new", "-newkey", *kinds[key], "-nodes", "-keyout", "key", "-out", "csr",
            "-subj", "/CN=test", *(asked if names else ()),
        )  # fmt: skip
        _openssl(
            where, "ca", "-selfsign", "-batch", "-notext", "-config", "config", "-keyfile", "key",
            "-in", "csr", "-out", "cert", "-startdate", _time(begins_days), "-enddate", _time(days),
        )  # fmt: skip
        return Made((where / "cert").read_bytes(), (where / "key").read_bytes())


def _openssl(where: Path, *arguments: str) -> None:
    assert OPENSSL is not None, "no openssl on this machine"
    done = subprocess.run(
        [OPENSSL, *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _time(days: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * _DAY_S))


def trusting(*made: Made) -> ssl.SSLContext:
    """A client that verifies, and trusts exactly these."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for one in made:
        context.load_verify_locations(cadata=one.cert.decode())
    return context


def careless() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
