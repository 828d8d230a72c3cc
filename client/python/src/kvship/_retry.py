"""When a call that failed before any output is made again: only where no server took it, inside the deadline."""

from __future__ import annotations

import random
import time

from kvship.errors import Error, Overloaded, Unavailable

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_LONGEST_TIMEOUT_S = 1e9  # of longer ones, infinity too, gRPC makes deadlines that have passed


class Attempts:
    """The attempts of one call. Raises ValueError for a timeout that is not above 0."""

    def __init__(self, retries: int, timeout: float | None) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; wanted seconds above 0")
        self._left = retries
        self._delay = _FIRST_DELAY_S
        if timeout is not None and timeout > _LONGEST_TIMEOUT_S:
            timeout = None
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def timeout(self) -> float | None:
        """Seconds left of the deadline."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def delay_after(self, error: Error) -> float | None:
        """Seconds to wait before the next attempt; none where there must not be one."""
        if self._left <= 0 or not isinstance(error, (Unavailable, Overloaded)):
            return None
        self._left -= 1
        delay = error.retry_after if isinstance(error, Overloaded) else self._delay * random.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
        left = self.timeout()
        return delay if left is None or delay < left else None
