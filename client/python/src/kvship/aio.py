"""The client for asyncio. Belongs to one event loop. Cancelling a task cancels its call."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from kvship import errors
from kvship._retry import Attempts, timeout_seconds
from kvship.client import CHANNEL_OPTIONS, Metadata, call_metadata
from kvship.request import check_flag, check_text, generate_request, token_ids
from kvship.results import Generation, Output, Progress, StreamedResult
from kvship.v1 import generation_pb2, generation_pb2_grpc, types_pb2


def _task_is_cancelled() -> bool:
    """Whether a CancelledError is meant for the task that runs, and not for its call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


class AsyncStream(StreamedResult):
    """A request under way, as kvship.Stream: `async for` over its Progress and Output."""

    def __init__(self, stub: Any, request: generation_pb2.GenerateRequest, attempts: Attempts,
                 metadata: Metadata) -> None:
        super().__init__()
        self._stub = stub
        self._request = request
        self._metadata = metadata
        self._attempts = attempts
        self._cancelled = asyncio.Event()
        self._call = self._start()
        self._events = self._read()

    def _start(self) -> Any:
        return self._stub.Generate(self._request, timeout=self._attempts.timeout(), metadata=self._metadata)

    async def _read(self) -> AsyncIterator[Progress | Output]:
        try:
            async for told in self._read_to_end():
                yield told
        finally:  # closed or dropped by a loop that was left
            if not self._done:
                self._call.cancel()

    async def _read_to_end(self) -> AsyncIterator[Progress | Output]:
        has_output = False
        while True:
            try:
                async for response in self._call:
                    told = self._take(response)
                    has_output = has_output or isinstance(told, Output)
                    if told is not None:
                        yield told
                self._done = True
                return
            except grpc.aio.AioRpcError as rpc_error:
                ended = self._cancelled.is_set()
                error = errors.from_rpc(rpc_error, ended)
                delay = None if has_output or ended else self._attempts.delay_after(error)
                if delay is None:
                    raise error from None
            except asyncio.CancelledError:
                if not self._cancelled.is_set() or _task_is_cancelled():
                    raise
                raise errors.cancelled() from None
            if await _is_set_within(self._cancelled, delay):
                raise errors.cancelled()
            self._call = self._start()

    def __aiter__(self) -> AsyncIterator[Progress | Output]:
        return self._events

    def cancel(self) -> None:
        """Ends the request; the iteration then raises Cancelled."""
        self._cancelled.set()
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.cancel()


class AsyncClient:
    """As kvship.Client, for asyncio."""

    def __init__(self, address: str = "localhost:50050", *, timeout: float | None = None, retries: int = 3,
                 credentials: grpc.ChannelCredentials | None = None, api_token: str | None = None,
                 channel_options: Sequence[tuple[str, Any]] = ()) -> None:
        check_text("address", address)
        Attempts(retries, timeout)  # refuses what no call can have
        self._timeout = timeout
        self._retries = retries
        self._metadata = call_metadata(api_token)
        self._closed = asyncio.Event()
        self._streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()
        options = [*CHANNEL_OPTIONS, *channel_options]
        self._channel = (grpc.aio.insecure_channel(address, options) if credentials is None
                         else grpc.aio.secure_channel(address, credentials, options))
        self._stub: Any = generation_pb2_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def stream(self, prompt: str | None = None, *, timeout: float | None = None, **options: Any) -> AsyncStream:
        """As Client.stream."""
        attempts = Attempts(self._retries, timeout if timeout is not None else self._timeout)
        request = generate_request(prompt, **options)
        self._check_open()
        stream = AsyncStream(self._stub, request, attempts, self._metadata)
        self._streams.add(stream)
        return stream

    async def generate(self, prompt: str | None = None, *, timeout: float | None = None, **options: Any) -> Generation:
        """A whole answer. Raises kvship.Error."""
        async with self.stream(prompt, timeout=timeout, **options) as stream:
            async for _ in stream:
                pass
            return stream.result

    async def model_info(self, timeout: float | None = None) -> types_pb2.ModelInfo:
        """The model that the server runs, and its defaults."""
        request = generation_pb2.GenerationServiceGetModelInfoRequest()
        response: generation_pb2.GenerationServiceGetModelInfoResponse = await self._unary(
            self._stub.GetModelInfo, request, timeout)
        return response.model

    async def tokenize(self, text: str, *, parse_special: bool = False, timeout: float | None = None) -> list[int]:
        """As Client.tokenize."""
        request = generation_pb2.TokenizeRequest(text=check_text("text", text),
                                                 parse_special=check_flag("parse_special", parse_special))
        response: generation_pb2.TokenizeResponse = await self._unary(self._stub.Tokenize, request, timeout)
        return list(response.ids)

    async def detokenize(self, ids: Sequence[int], *, timeout: float | None = None) -> str:
        """As Client.detokenize."""
        request = generation_pb2.DetokenizeRequest(ids=token_ids("ids", ids))
        response: generation_pb2.DetokenizeResponse = await self._unary(self._stub.Detokenize, request, timeout)
        return response.text

    async def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:
        attempts = Attempts(self._retries, timeout if timeout is not None else self._timeout)
        while True:
            self._check_open()
            try:
                return await method(request, timeout=attempts.timeout(), metadata=self._metadata)
            except grpc.aio.AioRpcError as rpc_error:
                error = errors.from_rpc(rpc_error, self._closed.is_set())
                delay = None if self._closed.is_set() else attempts.delay_after(error)
                if delay is None:
                    raise error from None
            except asyncio.CancelledError:
                if not self._closed.is_set() or _task_is_cancelled():
                    raise
                raise errors.cancelled() from None
            await _is_set_within(self._closed, delay)

    async def wait_until_ready(self, timeout: float) -> None:
        """Returns once a server answers. Raises Unavailable after `timeout` seconds."""
        seconds = timeout_seconds(timeout)
        self._check_open()
        ready = asyncio.ensure_future(self._channel.channel_ready())
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((ready, closed), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            if not ready.done():
                raise errors.no_answer(timeout)
        finally:
            ready.cancel()
            closed.cancel()
            # A channel that closes is an error of gRPC's to who waits for it.
            await asyncio.gather(ready, closed, return_exceptions=True)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise errors.cancelled("the client is closed")

    async def close(self) -> None:
        """Ends all calls."""
        self._closed.set()
        for stream in list(self._streams):
            stream.cancel()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()
