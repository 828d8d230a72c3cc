"""What gRPC's rich errors hold: google.rpc.Status with BadRequest and RetryInfo details.

Source: cloud.google.com/apis/design/errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]


def _details(status: bytes) -> status_pb2.Status:
    message = status_pb2.Status()
    try:
        message.ParseFromString(status)
    except DecodeError:
        pass  # an intermediary's; the code and its message are there all the same
    return message


def field_violations(status: bytes) -> Iterator[tuple[str, str]]:
    """Fields and what is wrong with them."""
    for detail in _details(status).details:
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            for violation in bad_request.field_violations:
                yield violation.field, violation.description


def retry_delay(status: bytes) -> float | None:
    """Seconds to wait, where the server said so."""
    for detail in _details(status).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            delay: timedelta = retry.retry_delay.ToTimedelta()
            return delay.total_seconds()
    return None
