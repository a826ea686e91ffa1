"""What opens one backend's admin port, and no other's.

    secret       of the stack: 64 hex digits, the controller's alone
    key          drawn from it for one backend (its id) at one address: 64 hex digits
    fingerprint  of that key: 22 characters
    token        key.fingerprint, which that backend is sent with each list
    name         address-fingerprint: a file of this name on the volume that all backends share

nginx is shown a token. It looks for the name of its own address and the fingerprint, and computes
whether the key has that fingerprint (secure_link), so that who reads the volume learns nothing
that opens a port, and who was sent a token learns nothing that opens another's.

The fingerprint is MD5, the only digest that nginx computes by itself. Nobody chooses a key, so of
MD5 only this is needed: that no key can be found for a fingerprint. Its collisions do not touch
that, and a key has 256 bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.model import Backend


def token_of(secret: str, backend: Backend) -> str:
    """What `backend` is sent. Another backend at the same address has another one, and so has the
    same one at another address.
    """
    message = f"lbctl lists\0{backend.id}\0{backend.ip}"
    key = hmac.digest(secret.encode(), message.encode(), "sha256").hex()
    return f"{key}.{_fingerprint(key)}"


def name_of(token: str, ip: str) -> str:
    """The name of the file by which the nginx at `ip` knows the token."""
    return f"{ip}-{token.rpartition('.')[2]}"


def _fingerprint(key: str) -> str:
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
