"""When a call that failed before any output is made again: only where no server took it, inside the deadline."""

from __future__ import annotations

import math
import random
import time

from kvship.errors import Error, Overloaded, Unavailable
from kvship.request import check_integer, check_number, wrong

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_LONGEST_TIMEOUT_S = 1e9  # of longer ones, infinity too, gRPC makes deadlines that have passed
_SECONDS = "seconds above 0"


def timeout_seconds(timeout: float | None) -> float | None:
    """The timeout, None if it never passes. Raises TypeError or ValueError, naming it, for what is no number of seconds."""
    if timeout is None:
        return None
    seconds = check_number("timeout", timeout)
    if math.isnan(seconds):
        raise ValueError(wrong("timeout", seconds, _SECONDS))
    return seconds if seconds <= _LONGEST_TIMEOUT_S else None


class Attempts:
    """The attempts of one call. Raises TypeError or ValueError for retries that are no count, or a timeout not above 0."""

    def __init__(self, retries: int, timeout: float | None) -> None:
        self._left = check_integer("retries", retries)
        seconds = timeout_seconds(timeout)
        if seconds is not None and seconds <= 0:
            raise ValueError(wrong("timeout", timeout, _SECONDS))
        self._delay = _FIRST_DELAY_S
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def timeout(self) -> float | None:
        """Seconds left of the deadline."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def delay_after(self, error: Error) -> float | None:
        """Seconds to wait before the next attempt; none where there must not be one."""
        if self._left <= 0 or not isinstance(error, (Unavailable, Overloaded)):
            return None
        self._left -= 1
        if isinstance(error, Overloaded):
            least, most = error.retry_after, 1.5 * error.retry_after  # never sooner than the server asked
        else:
            least, most = self._delay / 2, self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
        left = self.timeout()
        if left is not None and least >= left:
            return None
        # Random, so that clients who lost the same server, or were refused together, do not come back at once.
        return random.uniform(least, most if left is None else min(most, left))
