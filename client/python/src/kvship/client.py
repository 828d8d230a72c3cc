"""The blocking client. Thread safe; one channel for all calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from kvship import errors
from kvship._retry import Attempts, timeout_seconds
from kvship.request import check_flag, check_text, generate_request, token_ids
from kvship.results import Generation, Output, Progress, StreamedResult
from kvship.v1 import generation_pb2, generation_pb2_grpc, types_pb2

# Calls are made again by kvship._retry's rules; the channel must try to connect as often.
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 5000),
    # A server that vanished without a word is noticed while a prompt is read in silence.
    ("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000), ("grpc.http2.max_pings_without_data", 0))


Metadata = tuple[tuple[str, str], ...]


def call_metadata(api_token: str | None) -> Metadata:
    """What each call of a client carries. Raises TypeError or ValueError, not quoting it, for a token that cannot be sent."""
    if api_token is None:
        return ()
    if not isinstance(api_token, str):
        raise TypeError(f"api_token is of type {type(api_token).__name__}; wanted a string")
    for index, character in enumerate(api_token):
        if not " " <= character <= "~":
            raise ValueError(f"api_token has U+{ord(character):04X} at index {index}; "
                             "wanted printable ASCII characters alone, in one line")
    return (("authorization", f"Bearer {api_token}"),)


class _Closing:
    """Whether a client has been closed, which those that pause between attempts hear of at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._changed = threading.Condition()

    def set(self) -> None:
        self.is_set = True
        self.wake()

    def wake(self) -> None:
        """Who pauses looks again at what it waits for."""
        with self._changed:
            self._changed.notify_all()

    def pause(self, seconds: float | None, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Whether the client was closed, or the call cancelled, by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_set or cancelled(), seconds)

    def check(self) -> None:
        """Raises Cancelled if the client was closed."""
        if self.is_set:
            raise errors.cancelled("the client is closed")

    def invoke(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        """A call. Raises Cancelled if the client was closed, and what the call raises."""
        self.check()
        try:
            return method(request, timeout=timeout, metadata=metadata)
        except ValueError:  # gRPC's word for a closed channel
            self.check()
            raise


class Stream(StreamedResult):
    """A request under way: iterate over its Progress and Output; then `report` and `result` are there.

    Leaving the `with` block, or cancel(), ends the request and frees all that it holds on the servers.
    """

    def __init__(self, stub: Any, request: generation_pb2.GenerateRequest, attempts: Attempts, metadata: Metadata,
                 closed: _Closing) -> None:
        super().__init__()
        self._closed = closed
        self._stub = stub
        self._request = request
        self._metadata = metadata
        self._attempts = attempts
        self._cancelled = False
        self._call = self._start()
        self._events = self._read()

    def _start(self) -> Any:
        return self._closed.invoke(self._stub.Generate, self._request, self._attempts.timeout(), self._metadata)

    def _read(self) -> Iterator[Progress | Output]:
        try:
            yield from self._read_to_end()
        finally:  # closed or dropped by a loop that was left
            if not self._done:
                self._call.cancel()

    def _read_to_end(self) -> Iterator[Progress | Output]:
        has_output = False
        while True:
            try:
                for response in self._call:
                    told = self._take(response)
                    has_output = has_output or isinstance(told, Output)
                    if told is not None:
                        yield told
                self._done = True
                return
            except grpc.RpcError as rpc_error:
                ended = self._cancelled or self._closed.is_set
                error = errors.from_rpc(rpc_error, ended)
                delay = None if has_output or ended else self._attempts.delay_after(error)
                if delay is None:
                    raise error from None
            if self._closed.pause(delay, lambda: self._cancelled):
                raise errors.cancelled()
            self._call = self._start()
            if self._cancelled:  # since the pause
                self._call.cancel()

    def __iter__(self) -> Iterator[Progress | Output]:
        return self._events

    def cancel(self) -> None:
        """Ends the request; the iteration then raises Cancelled."""
        self._cancelled = True
        self._call.cancel()
        self._closed.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.cancel()


class Client:
    """A connection to a kvship decode server, plaintext unless `credentials` are given.

    `api_token` (printable ASCII characters) is what a server with --api_tokens_file knows the client by; in plaintext, whoever sees
    a call sees it.
    `timeout` (seconds) holds for every call that names none. A call that finds no server, or no room, before any output
    is made again up to `retries` times. `channel_options` are further arguments of the gRPC channel. What is asked of a closed client,
    and what is under way when it is closed, is Cancelled.
    """

    def __init__(self, address: str = "localhost:50050", *, timeout: float | None = None, retries: int = 3,
                 credentials: grpc.ChannelCredentials | None = None, api_token: str | None = None,
                 channel_options: Sequence[tuple[str, Any]] = ()) -> None:
        check_text("address", address)
        Attempts(retries, timeout)  # refuses what no call can have
        self._timeout = timeout
        self._retries = retries
        self._closed = _Closing()
        self._metadata = call_metadata(api_token)
        options = [*CHANNEL_OPTIONS, *channel_options]
        self._channel = (grpc.insecure_channel(address, options) if credentials is None
                         else grpc.secure_channel(address, credentials, options))
        self._stub: Any = generation_pb2_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def stream(self, prompt: str | None = None, *, timeout: float | None = None, **options: Any) -> Stream:
        """Starts a request; `options` are those of kvship.request.generate_request. Errors of the call come while it is read."""
        attempts = Attempts(self._retries, timeout if timeout is not None else self._timeout)
        return Stream(self._stub, generate_request(prompt, **options), attempts, self._metadata, self._closed)

    def generate(self, prompt: str | None = None, *, timeout: float | None = None, **options: Any) -> Generation:
        """A whole answer. Raises kvship.Error."""
        with self.stream(prompt, timeout=timeout, **options) as stream:
            for _ in stream:
                pass
            return stream.result

    def model_info(self, timeout: float | None = None) -> types_pb2.ModelInfo:
        """The model that the server runs, and its defaults."""
        request = generation_pb2.GenerationServiceGetModelInfoRequest()
        response: generation_pb2.GenerationServiceGetModelInfoResponse = self._unary(self._stub.GetModelInfo, request, timeout)
        return response.model

    def tokenize(self, text: str, *, parse_special: bool = False, timeout: float | None = None) -> list[int]:
        """The ids of a text, without the begin token; names of special tokens are text unless `parse_special`."""
        request = generation_pb2.TokenizeRequest(text=check_text("text", text),
                                                 parse_special=check_flag("parse_special", parse_special))
        response: generation_pb2.TokenizeResponse = self._unary(self._stub.Tokenize, request, timeout)
        return list(response.ids)

    def detokenize(self, ids: Sequence[int], *, timeout: float | None = None) -> str:
        """The text of ids. Raises InvalidRequest, naming the index, for one outside the vocabulary."""
        request = generation_pb2.DetokenizeRequest(ids=token_ids("ids", ids))
        response: generation_pb2.DetokenizeResponse = self._unary(self._stub.Detokenize, request, timeout)
        return response.text

    def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:
        attempts = Attempts(self._retries, timeout if timeout is not None else self._timeout)
        while True:
            try:
                return self._closed.invoke(method, request, attempts.timeout(), self._metadata)
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc(rpc_error, self._closed.is_set)
                delay = None if self._closed.is_set else attempts.delay_after(error)
                if delay is None:
                    raise error from None
            if self._closed.pause(delay):
                raise errors.cancelled()

    def wait_until_ready(self, timeout: float) -> None:
        """Returns once a server answers. Raises Unavailable after `timeout` seconds."""
        seconds = timeout_seconds(timeout)
        self._closed.check()
        ready = grpc.channel_ready_future(self._channel)
        ready.add_done_callback(lambda _: self._closed.wake())
        try:
            answered = self._closed.pause(seconds, ready.done)
        finally:
            ready.cancel()
        self._closed.check()
        if not answered:
            raise errors.no_answer(timeout)

    def close(self) -> None:
        """Ends all calls."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
