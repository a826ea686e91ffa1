"""Every error of lbctl, in one tree. Two questions decide where one belongs: whose fault is
it, and may the thing be tried again?

    LbctlError
    |-- UsageError            the caller asked for what cannot be        never      exit 2
    |-- MachineError          the machine lacks something                after help exit 3
    |   `-- EngineUnavailableError  no Docker engine answers             later
    |-- OperationError        it was tried and did not work              yes        exit 1
    |   |-- EngineError       the Docker engine refused or failed        maybe
    |   |-- ImageError        an image cannot be had or built            after a change
    |   |-- DeadlineError     not done within its deadline               yes
    |   `-- UnsupportedError  this lb has no such command                never
    `-- ProtocolError         an HTTP peer broke the rules               never (has a status)

Exceptions of a library are mapped into this tree at the boundary where the library is called;
nothing above that boundary catches a library's own.
"""

from __future__ import annotations


class LbctlError(Exception):
    """Base of all; its text is one or two plain lines meant for the user."""

    exit_status = 1


class UsageError(LbctlError):
    """What was asked for cannot be: a wrong flag, value or name."""

    exit_status = 2


class MachineError(LbctlError):
    """The machine lacks something; the text says what to install or start."""

    exit_status = 3


class EngineUnavailableError(MachineError):
    """No Docker engine answers, or it does not let this user in."""


class OperationError(LbctlError):
    """It was tried and failed."""


class EngineError(OperationError):
    """The Docker engine refused a request, or broke while answering it."""


class ImageError(OperationError):
    """An image is neither there nor can it be pulled or built."""


class DeadlineError(OperationError):
    """Not done within its deadline; the text says what lags, and why."""


class UnsupportedError(OperationError):
    """The lb that runs has no such command: it is of another version."""


class ProtocolError(LbctlError):
    """A peer's message breaks RFC 9110 or 9112, or passes a limit.

    `status` is what a client is told if the peer is the client (400, 431, ...) and 502 if
    the peer is a backend; `reason` is a short label for the metric `lbctl_refused_total`.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
