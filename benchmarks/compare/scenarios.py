"""What is asked of the proxies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load: `connections` clients who each wait for an answer and ask again.

    `close`: with a new connection for every request. `bulk`: bytes a second are what counts.
    `varied`: no two requests are alike, so that nothing can be remembered.
    """

    name: str
    title: str
    target: str
    connections: int = 64
    method: str = "GET"
    body_bytes: int = 0
    close: bool = False
    bulk: bool = False
    varied: bool = False


SCENARIOS = (
    Scenario("small", "45 bytes, keep-alive, 64 connections", "/list.txt"),
    Scenario("varied", "45 bytes, keep-alive, 64 connections, every request another URL",
             "/list.txt", varied=True),
    Scenario("64k", "64 KiB, keep-alive, 64 connections", "/64k.bin"),
    Scenario("10m", "10 MiB, keep-alive, 16 connections", "/10m.bin", connections=16, bulk=True),
    Scenario(
        "post",
        "POST of 16 KiB, keep-alive, 64 connections",
        "/post",
        method="POST",
        body_bytes=16_384,
    ),
    Scenario("close", "45 bytes, a new connection for every request, 64 clients", "/list.txt",
             close=True),
    Scenario("1000", "45 bytes, keep-alive, 1,000 connections", "/list.txt", connections=1000),
)  # fmt: skip
