"""What becomes of calls when one side closes, or gRPC itself refuses them."""

import asyncio
import threading
import time
from concurrent import futures

import grpc
import kvship
import pytest
from kvship.v1 import generation_pb2, generation_pb2_grpc


class Service(generation_pb2_grpc.GenerationServiceServicer):
    """Lets the first calls go, as a server does that closes its port, and answers the next one when it may."""

    def __init__(self, num_let_go: int, code: grpc.StatusCode = grpc.StatusCode.CANCELLED) -> None:
        self.code = code
        self.num_calls = 0
        self.called = threading.Event()
        self.may_answer = threading.Event()
        self._num_let_go = num_let_go

    def _arrive(self, context):
        self.num_calls += 1
        self.called.set()
        if self.num_calls <= self._num_let_go:
            context.abort(self.code, self.code.name)
        self.may_answer.wait(timeout=20)

    def Tokenize(self, request, context):
        self._arrive(context)
        return generation_pb2.TokenizeResponse()

    def Generate(self, request, context):
        self._arrive(context)
        yield generation_pb2.GenerateResponse(output=generation_pb2.GenerateOutput(text="answer"))
        yield generation_pb2.GenerateResponse(report=generation_pb2.GenerateReport())


@pytest.fixture
def serve():
    servers = []

    def start(service):
        server = grpc.server(futures.ThreadPoolExecutor(2))
        if service is not None:
            generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0)


def test_a_call_that_the_server_lets_go_is_made_again(serve):
    service = Service(num_let_go=2)
    service.may_answer.set()
    with kvship.Client(serve(service), timeout=20) as client:
        assert client.generate("text").text == "answer"
    assert service.num_calls == 3


def test_a_message_that_is_too_large_is_no_want_of_room(serve):
    service = Service(num_let_go=0)
    with kvship.Client(serve(service), timeout=60, retries=20) as client:
        start = time.monotonic()
        # gRPC's servers take 4 MiB by default.
        with pytest.raises(kvship.NotServable, match="too large for its receiver"):
            client.generate("x" * (5 << 20))
        assert time.monotonic() - start < 15, "no attempt was made again: each would wait a second"
    assert service.num_calls == 0


def test_a_server_without_the_service_is_named(serve):
    with kvship.Client(serve(None), timeout=20) as client:
        with pytest.raises(kvship.Error, match="does not serve this call of kvship.v1.GenerationService") as caught:
            client.generate("text")
        assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_closing_the_client_ends_its_calls_for_good(serve):
    service = Service(num_let_go=0)
    client = kvship.Client(serve(service), timeout=20)
    errors = []

    def ask():
        try:
            client.generate("text")
        except kvship.Error as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert service.called.wait(timeout=20)
    client.close()
    thread.join(timeout=20)
    service.may_answer.set()
    assert [type(error) for error in errors] == [kvship.Cancelled]
    assert service.num_calls == 1


@pytest.mark.parametrize("ending", ["cancel", "close"])
def test_a_call_that_is_ended_between_two_attempts_is_not_made_again(serve, ending):
    service = Service(num_let_go=1, code=grpc.StatusCode.RESOURCE_EXHAUSTED)  # a pause of a second
    client = kvship.Client(serve(service), timeout=20)
    stream = client.stream("text")
    timer = threading.Timer(0.3, stream.cancel if ending == "cancel" else client.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises(kvship.Cancelled):
        list(stream)
    assert time.monotonic() - start < 0.9
    timer.join()
    client.close()
    assert service.num_calls == 1


@pytest.mark.parametrize("call", [
    lambda client: client.stream("text"), lambda client: client.generate("text"), lambda client: client.model_info(),
    lambda client: client.tokenize("text"), lambda client: client.wait_until_ready(5)])
def test_a_closed_client_says_so(serve, call):
    client = kvship.Client(serve(Service(num_let_go=0)), timeout=20)
    client.close()
    with pytest.raises(kvship.Cancelled, match="the client is closed"):
        call(client)


def test_who_waits_for_a_server_hears_of_the_closing_and_leaves_nothing_behind():
    client = kvship.Client("127.0.0.1:1")
    with pytest.raises(kvship.Unavailable, match="no server answered within 0.1 s"):
        client.wait_until_ready(0.1)
    assert not client._channel._connectivity_state.callbacks_and_connectivities
    timer = threading.Timer(0.2, client.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises(kvship.Cancelled):
        client.wait_until_ready(10)
    assert time.monotonic() - start < 5
    timer.join()


def test_a_caller_that_the_server_does_not_take_is_told_so(serve):
    service = Service(num_let_go=1, code=grpc.StatusCode.PERMISSION_DENIED)
    with kvship.Client(serve(service), timeout=20) as client, pytest.raises(kvship.PermissionDenied):
        client.generate("text")


@pytest.mark.parametrize("call", ["generate", "tokenize"])
def test_closing_the_async_client_ends_its_calls_for_good(serve, call):
    service = Service(num_let_go=0)

    async def ask():
        client = kvship.AsyncClient(serve(service), timeout=20)
        task = asyncio.create_task(getattr(client, call)("text"))
        assert await asyncio.to_thread(service.called.wait, 20)
        await client.close()
        with pytest.raises(kvship.Cancelled):
            await task

    asyncio.run(ask())
    service.may_answer.set()
    assert service.num_calls == 1


@pytest.mark.parametrize("call", ["generate", "tokenize"])
def test_an_async_client_that_is_closed_between_two_attempts_makes_no_other(serve, call):
    service = Service(num_let_go=1, code=grpc.StatusCode.RESOURCE_EXHAUSTED)  # a pause of a second

    async def ask():
        client = kvship.AsyncClient(serve(service), timeout=20)
        task = asyncio.create_task(getattr(client, call)("text"))
        await asyncio.sleep(0.3)
        start = time.monotonic()
        await client.close()
        with pytest.raises(kvship.Cancelled):
            await task
        assert time.monotonic() - start < 0.6

    asyncio.run(ask())
    assert service.num_calls == 1


@pytest.mark.parametrize("call", ["stream", "generate", "model_info", "tokenize", "wait_until_ready"])
def test_a_closed_async_client_says_so(serve, call):
    arguments = {"model_info": (), "wait_until_ready": (5,)}.get(call, ("text",))

    async def ask():
        client = kvship.AsyncClient(serve(Service(num_let_go=0)), timeout=20)
        await client.close()
        with pytest.raises(kvship.Cancelled, match="the client is closed"):
            made = getattr(client, call)(*arguments)
            if call != "stream":
                await made

    asyncio.run(ask())


def test_who_waits_for_a_server_hears_of_the_async_clients_closing():
    async def ask():
        client = kvship.AsyncClient("127.0.0.1:1")
        with pytest.raises(kvship.Unavailable, match="no server answered within 0.1 s"):
            await client.wait_until_ready(0.1)
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(client.close()))
        start = time.monotonic()
        with pytest.raises(kvship.Cancelled):
            await client.wait_until_ready(10)
        assert time.monotonic() - start < 5

    asyncio.run(ask())


def test_a_task_that_is_cancelled_while_its_client_closes_is_cancelled(serve):
    service = Service(num_let_go=0)

    async def ask():
        client = kvship.AsyncClient(serve(service), timeout=20)
        task = asyncio.create_task(client.generate("text"))
        assert await asyncio.to_thread(service.called.wait, 20)
        task.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    service.may_answer.set()


def test_an_async_call_that_is_cancelled_between_two_attempts_is_not_made_again(serve):
    service = Service(num_let_go=1, code=grpc.StatusCode.RESOURCE_EXHAUSTED)

    async def ask():
        async with kvship.AsyncClient(serve(service), timeout=20) as client:
            stream = client.stream("text")
            asyncio.get_running_loop().call_later(0.3, stream.cancel)
            start = time.monotonic()
            with pytest.raises(kvship.Cancelled):
                async for _ in stream:
                    pass
            assert time.monotonic() - start < 0.9

    asyncio.run(ask())
    assert service.num_calls == 1
