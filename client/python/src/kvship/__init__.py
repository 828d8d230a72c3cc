"""Client of kvship: text from a prompt's compact KV cache, and a report of what was kept and shipped.

    with kvship.Client("localhost:50050") as client:
        result = client.generate("Once upon a time", max_tokens=32, compression="scorer=snapkv,budget_tokens=512")
        print(result.text, result.kv.shipped_bytes)
"""

from kvship.aio import AsyncClient, AsyncStream
from kvship.client import Client, Stream
from kvship.errors import (
    Cancelled,
    DeadlineExceeded,
    Error,
    InvalidRequest,
    NotServable,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Violation,
)
from kvship.results import Generation, Output, Progress, Token

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "Error",
    "Generation",
    "InvalidRequest",
    "NotServable",
    "Output",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "Stream",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]
