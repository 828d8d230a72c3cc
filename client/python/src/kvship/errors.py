"""Errors by what the caller should do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from kvship._details import field_violations, retry_delay


@dataclass(frozen=True)
class Violation:
    """A field of the request that is wrong, and what was wanted."""

    field: str
    description: str


class Error(Exception):
    """A call that failed. `code` is gRPC's; str(error) is the server's sentence."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidRequest(Error):
    """A field is wrong: change the request. `violations` name the fields where the server did."""

    violations: tuple[Violation, ...] = ()


class Unauthenticated(Error):
    """The server wants an API token, and does not know this one."""


class PermissionDenied(Error):
    """The server takes no calls from the name in this client's certificate."""


class NotServable(Error):
    """This server can never serve the request: it is longer than the context, the whole pool or the longest message."""


class Overloaded(Error):
    """No room now; try again after `retry_after` seconds."""

    retry_after: float = 1.0


class Unavailable(Error):
    """No server was reached, it has no prefill node, or it was lost in the midst of its answer: make the whole call again."""


class DeadlineExceeded(Error):
    """The timeout has passed."""


class Cancelled(Error):
    """The call was cancelled, or its client closed."""


def cancelled(message: str = "the call was cancelled") -> Cancelled:
    """By this side."""
    return Cancelled(grpc.StatusCode.CANCELLED, message)


def no_answer(timeout: float) -> Unavailable:
    """After so many seconds."""
    return Unavailable(grpc.StatusCode.UNAVAILABLE, f"no server answered within {timeout:g} s")


_KINDS: dict[grpc.StatusCode, type[Error]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.FAILED_PRECONDITION: NotServable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def _from_grpc(code: grpc.StatusCode, message: str) -> Error | None:
    """What gRPC says by itself, where other things are meant. Servers' own errors have details."""
    # Not for want of room, which passes, as with gRPC's other such ends.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in message:
        return NotServable(code, f"a message, most likely the request, is too large for its receiver: {message}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Error(code, "the server does not serve this call of kvship.v1.GenerationService; wanted a decode node's address "
                           f"(is this a prefill node's?): {message}")
    return None


def from_rpc(error: Any, cancelled: bool = False) -> Error:
    """The Error that a grpc.RpcError (or grpc.aio.AioRpcError) stands for; `cancelled` is whether this side ended the call."""
    code = error.code()
    if code is grpc.StatusCode.CANCELLED and not cancelled:
        # What gRPC's servers do with calls that arrive as the port is closed.
        return Unavailable(grpc.StatusCode.UNAVAILABLE, "the server let the call go")
    message = error.details() or code.name
    # By way of a list: the keys() of grpc.aio's metadata are pairs in older versions.
    metadata = dict(list(error.trailing_metadata() or ()))
    details = metadata.get("grpc-status-details-bin", b"")
    if not details and (explained := _from_grpc(code, message)) is not None:
        return explained
    made = _KINDS.get(code, Error)(code, message)
    if isinstance(made, InvalidRequest):
        made.violations = tuple(Violation(field, text) for field, text in field_violations(details))
    if isinstance(made, Overloaded):
        made.retry_after = retry_delay(details) or made.retry_after
    return made
