"""What errors say, and how long a call waits for its next attempt; no server."""

import collections.abc

import grpc
import kvship
from kvship import errors
from kvship._retry import Attempts


class OlderMetadata(grpc.aio.Metadata):
    """As up to grpcio 1.75."""

    def keys(self):
        return collections.abc.KeysView(self)


def test_errors_of_asynchronous_calls_are_read_whatever_grpcs_version():
    trailing = OlderMetadata(("grpc-status-details-bin", b""), ("other", "value"))
    told = errors.from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "gone"))
    assert isinstance(told, kvship.Unavailable) and "gone" in str(told)


def test_clients_that_were_refused_together_do_not_come_back_together():
    full = kvship.Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
    full.retry_after = 4
    delays = sorted(Attempts(1, None).delay_after(full) for _ in range(100))
    assert 4 <= delays[0] and delays[-1] <= 6 and delays[-1] - delays[0] > 1


def test_the_servers_delay_is_waited_where_it_fits():
    full = kvship.Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
    full.retry_after = 40
    assert all(40 <= Attempts(1, 45).delay_after(full) < 45 for _ in range(100))
    assert Attempts(1, 39).delay_after(full) is None


def test_who_found_no_server_comes_back_sooner():
    gone = kvship.Unavailable(grpc.StatusCode.UNAVAILABLE, "gone")
    attempts = Attempts(2, None)
    assert 0.05 <= attempts.delay_after(gone) <= 0.1 and 0.1 <= attempts.delay_after(gone) <= 0.2
    assert attempts.delay_after(gone) is None
