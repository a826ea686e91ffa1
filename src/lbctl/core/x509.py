"""What a certificate says of itself, read from its DER (RFC 5280, section 4.1; X.690).

Only what choosing one and watching it takes: DNS names and validity. Nothing is verified here:
whoever serves a certificate has made sure of it, and an expired one is to be read as well.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from lbctl.model import Certificate

_SEQUENCE, _OBJECT, _OCTETS, _BOOLEAN = 0x30, 0x06, 0x04, 0x01
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS, _DNS_NAME = 0xA0, 0xA3, 0x82  # context-specific
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"  # 2.5.29.17
_TIME = re.compile(rb"([0-9]{2}|[0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})Z")


class _Part(NamedTuple):
    tag: int
    content: bytes


def read(der: bytes, name: str) -> Certificate:
    """The certificate in `der`, under the name that it has here. Raises ValueError."""
    outer = _parts(der)
    if len(outer) != 1 or outer[0].tag != _SEQUENCE:
        raise ValueError("no certificate")
    signed = _parts(_first(_parts(outer[0].content), _SEQUENCE))
    fields = signed[1:] if signed and signed[0].tag == _VERSION else signed
    if len(fields) < 6:  # serial number, algorithm, issuer, validity, subject, key
        raise ValueError("no certificate")
    times = [_time(part) for part in _parts(fields[3].content)]
    if len(times) != 2:
        raise ValueError("no validity")
    extensions = next((part.content for part in fields if part.tag == _EXTENSIONS), b"")
    names = tuple(dict.fromkeys(_dns_names(extensions)))
    return Certificate(name, names, not_before_s=times[0], not_after_s=times[1])


def _parts(data: bytes) -> list[_Part]:
    """The elements that follow one another in `data`; a definite length each."""
    parts, at = [], 0
    while at < len(data):
        if len(data) - at < 2:
            raise ValueError("cut off")
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise ValueError("a length that DER does not have")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("cut off")
        parts.append(_Part(tag, data[at : at + length]))
        at += length
    return parts


def _first(parts: list[_Part], tag: int) -> bytes:
    if not parts or parts[0].tag != tag:
        raise ValueError("no certificate")
    return parts[0].content


def _time(part: _Part) -> int:
    """UTCTime or GeneralizedTime, to unix seconds (RFC 5280, section 4.1.2.5)."""
    match = _TIME.fullmatch(part.content)
    if match is None or part.tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("no time")
    year, *rest = (int(digits) for digits in match.groups())
    if part.tag == _UTC_TIME:
        year += 1900 if year >= 50 else 2000
    month, day, hour, minute, second = rest
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


def _dns_names(extensions: bytes) -> list[str]:
    """The dNSNames of subjectAltName, in lower case."""
    names: list[str] = []
    for wrapped in _parts(extensions):
        for extension in _parts(wrapped.content):
            parts = [part for part in _parts(extension.content) if part.tag != _BOOLEAN]
            if len(parts) != 2 or parts[0] != (_OBJECT, _SUBJECT_ALT_NAME):
                continue
            general = _first(_parts(parts[1].content), _SEQUENCE)
            names += [
                part.content.decode("ascii").lower()
                for part in _parts(general)
                if part.tag == _DNS_NAME
            ]
    return names
