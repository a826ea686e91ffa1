"""Pairs of certificate and key: which are found, which are used, and what is said of the others."""

from __future__ import annotations

import itertools
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lbctl.certificates import (
    FILE_LIMIT_BYTES,
    Credentials,
    Files,
    Source,
    load,
    open_to_others,
    open_where_mounted,
    read_pair,
    source_of,
)
from lbctl.config import Tls
from lbctl.errors import OperationError, UsageError
from tests.support.pairs import OPENSSL, Made, careless, make

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")


@pytest.fixture(scope="module")
def pairs() -> dict[str, Made]:
    return {
        "a": make("a.test", "*.shop.test"),
        "b": make("b.test", key="rsa"),
        "other": make("b.test"),
        "old": make("old.test", days=-1, begins_days=-30),
    }


def served(credentials: Credentials, host: str | None) -> tuple[bytes, dict[str, Any]]:
    """The certificate (DER) that a client gets who asks for `host`, and facts of the session."""
    ends: list[ssl.SSLObject] = []
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        careless().wrap_bio(back, there, server_hostname=host),
        credentials.wrap(there, back),
    ]
    waiting = ends
    while waiting:
        waiting = [end for end in waiting if not shaken(end)]
    facts = {"version": ends[0].version(), "cipher": ends[0].cipher()}
    return ends[0].getpeercert(binary_form=True) or b"", facts


def shaken(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def der(made: Made) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.cert.decode())


def test_a_directory_of_pairs(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["b"].put(tmp_path, "b.test")
    pairs["a"].put(tmp_path, "a")
    (tmp_path / "both.pem").write_bytes(pairs["old"].cert + pairs["old"].key)
    for name in ("notes.txt", ".hidden.crt", "x.issuer.crt", "lone.key", "a.json"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "a.pem").write_text("beside a pair of that name")
    credentials, problems = load(Source(directory=tmp_path))
    assert [one.name for one in credentials.certificates] == ["a", "b.test", "both"]
    assert problems == []


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("a.test", "a"),
        ("img.shop.test", "a"),
        ("b.test", "b"),
        ("B.TEST", "b"),
        ("old.test", "old"),
        ("x.img.shop.test", "a"),  # nobody's: the first by name
        ("nobody.test", "a"),
        (None, "a"),
    ],
)
def test_the_certificate_that_is_shown(
    tmp_path: Path, pairs: dict[str, Made], host: str | None, who: str
) -> None:
    for name in ("a", "b", "old"):
        pairs[name].put(tmp_path, name)
    credentials, _ = load(Source(directory=tmp_path))
    shown, facts = served(credentials, host)
    assert shown == der(pairs[who])
    assert facts["version"] == "TLSv1.3"


def test_one_pair_by_its_files(tmp_path: Path, pairs: dict[str, Made]) -> None:
    (tmp_path / "full.pem").write_bytes(pairs["a"].cert)
    (tmp_path / "private").write_bytes(pairs["a"].key)
    source = source_of(Tls(tls_cert=str(tmp_path / "full.pem"), tls_key=str(tmp_path / "private")))
    assert source is not None
    credentials, _ = load(source)
    assert served(credentials, "nobody.test")[0] == der(pairs["a"])
    assert [one.name for one in credentials.certificates] == ["full"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_cert": "a", "tls_dir": "b"}, "give one of them"),
        ({"tls_key": "a"}, "give both"),
        ({"tls_key": "a", "tls_dir": "b"}, "give both"),
    ],
)
def test_settings_that_contradict(settings: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        source_of(Tls(**settings))  # type: ignore[arg-type]


def test_no_port_and_no_files_are_no_tls() -> None:
    assert source_of(Tls()) is None
    assert source_of(Tls(tls_dir="x", tls_port=0)) is None


def spoil(directory: Path, how: str, pairs: dict[str, Made]) -> None:
    """Make the pair b one that cannot be used."""
    cert, key = directory / "b.crt", directory / "b.key"
    if how == "another key":
        key.write_bytes(pairs["other"].key)
    elif how == "half a certificate":
        cert.write_bytes(pairs["b"].cert[:300])
    elif how == "half a key":
        key.write_bytes(pairs["b"].key[:300])
    elif how == "no key":
        key.unlink()
    elif how == "empty":
        cert.write_bytes(b"")
    elif how == "directory":
        cert.unlink()
        cert.mkdir()
    elif how == "pipe":
        key.unlink()
        os.mkfifo(key)
    elif how == "huge":
        key.write_bytes(b"x" * (FILE_LIMIT_BYTES + 1))
    elif how == "short key":
        make("b.test", key="short").put(directory, "b")
    elif how == "not DER":
        cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    else:
        cert.write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n")


SPOILED = {
    "another key": "not that of the certificate",
    "half a certificate": "no certificate in it",
    "half a key": "b.key",
    "no key": "No such file",
    "empty": "no certificate in it",
    "directory": "Is a directory",
    "pipe": "is no file",
    "huge": "too large",
    "short key": "too short",
    "not DER": "b.crt",
    "not ASCII": "b.crt",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_pair_that_cannot_be_used_leaves_the_old_one(
    tmp_path: Path, pairs: dict[str, Made], how: str
) -> None:
    pairs["a"].put(tmp_path, "a")
    pairs["b"].put(tmp_path, "b")
    source = Source(directory=tmp_path)
    before, _ = load(source)
    newer = make("a.test")
    newer.put(tmp_path, "a")
    spoil(tmp_path, how, pairs)
    after, problems = load(source, before)
    assert served(after, "b.test")[0] == der(pairs["b"])
    assert served(after, "a.test")[0] == der(newer)
    assert len(problems) == 1
    assert SPOILED[how] in problems[0]
    assert problems[0].count("\n") == 0


@pytest.mark.parametrize("how", SPOILED)
def test_and_alone_it_is_refused(tmp_path: Path, pairs: dict[str, Made], how: str) -> None:
    pairs["b"].put(tmp_path, "b")
    spoil(tmp_path, how, pairs)
    with pytest.raises(OperationError, match=SPOILED[how]):
        load(Source(directory=tmp_path))


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["b"].put(tmp_path, "b")
    # Encrypted PKCS #8, as `openssl pkcs8 -topk8` writes it.
    import subprocess

    assert OPENSSL is not None
    done = subprocess.run(
        [OPENSSL, "pkcs8", "-topk8", "-in", "b.key", "-out", "locked", "-passout", "pass:abcd"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    with pytest.raises(OperationError, match="passphrase"):
        read_pair(Files("b", tmp_path / "b.crt", tmp_path / "locked"))


def test_what_has_not_changed_is_the_same(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["a"].put(tmp_path, "a")
    source = Source(directory=tmp_path)
    before, _ = load(source)
    pairs["a"].put(tmp_path, "a")
    assert load(source, before)[0] is before
    pairs["b"].put(tmp_path, "b")
    after, _ = load(source, before)
    assert after is not before
    assert after.pairs[0] is before.pairs[0]
    (tmp_path / "b.crt").unlink()
    (tmp_path / "b.key").unlink()
    assert [one.name for one in load(source, after)[0].certificates] == ["a"]


@pytest.mark.parametrize("gone", ["files", "directory"])
def test_without_any_pair_the_last_ones_stay(
    tmp_path: Path, pairs: dict[str, Made], gone: str
) -> None:
    directory = tmp_path / "tls"
    directory.mkdir()
    pairs["a"].put(directory, "a")
    source = Source(directory=directory)
    before, _ = load(source)
    for file in list(directory.iterdir()):
        file.unlink()
    if gone == "directory":
        directory.rmdir()
    after, problems = load(source, before)
    assert after is before
    assert len(problems) == 1
    with pytest.raises(OperationError, match=str(directory)):
        load(source)


def test_a_look_tells_whether_files_may_have_changed(
    tmp_path: Path, pairs: dict[str, Made]
) -> None:
    source = Source(directory=tmp_path)
    pairs["a"].put(tmp_path / "..", "a")
    for ending in ("crt", "key"):
        (tmp_path / f"a.{ending}").symlink_to(tmp_path / ".." / f"a.{ending}")
    seen = [source.look()]
    assert source.look() == seen[0]
    pairs["a"].put(tmp_path / "..", "a")  # what the link leads to
    seen.append(source.look())
    pairs["b"].put(tmp_path, "b")
    seen.append(source.look())
    (tmp_path / "b.key").unlink()
    seen.append(source.look())
    assert all(one != other for one, other in itertools.pairwise(seen))


def test_a_key_is_open_to_others_only_where_they_get_to_it(tmp_path: Path) -> None:
    shut, key = tmp_path / "shut", tmp_path / "shut" / "key"
    shut.mkdir()
    key.touch()
    everybodys = Path(tempfile.gettempdir())
    for directory in itertools.takewhile(
        lambda one: one != everybodys, (tmp_path, *tmp_path.parents)
    ):
        directory.chmod(0o711)
    for directory_mode, mode, expected in (
        (0o711, 0o644, True),
        (0o711, 0o640, False),
        (0o700, 0o644, False),
    ):
        shut.chmod(directory_mode)
        key.chmod(mode)
        assert open_to_others(key) is expected
    assert open_to_others(tmp_path / "no such") is False


def test_what_is_mounted_is_kept_by_no_directory_above(tmp_path: Path) -> None:
    """A key of mode 0644 below a home of mode 0700 is open to a worker in a container."""
    top, below = tmp_path / "shut" / "certs", tmp_path / "shut" / "certs" / "..data"
    below.mkdir(parents=True)
    key, link = below / "key", top / "link"
    key.touch()
    link.symlink_to("..data/key")
    (tmp_path / "shut").chmod(0o700)
    source = Source(directory=top)
    for top_mode, below_mode, mode, expected in (
        (0o755, 0o755, 0o644, True),
        (0o755, 0o755, 0o640, False),
        (0o750, 0o755, 0o644, False),
        (0o755, 0o750, 0o644, False),
    ):
        top.chmod(top_mode)
        below.chmod(below_mode)
        key.chmod(mode)
        assert open_where_mounted(key, source) is expected
        assert open_where_mounted(link, source) is expected
        assert not open_to_others(key)
    for path in (top, below):
        path.chmod(0o755)
    key.chmod(0o644)
    assert open_where_mounted(key, Source(pair=Files("key", key, key)))
    assert not open_where_mounted(key, Source(directory=tmp_path / "other"))  # a link out of it
    assert not open_where_mounted(top / "no such", source)
