"""The clients against real servers."""

import asyncio
import gc
import hashlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import kvship
import pytest
from conftest import server_arguments
from kvship_processes import ServerPair

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
LONG = "The lighthouse keeper counted the ships that passed. " * 150


def reserved_bytes(servers) -> float:
    url = f"http://127.0.0.1:{servers.ports['decode-admin-port']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("kvship_decode_pool_reserved_bytes")))


def becomes_zero(servers) -> bool:
    deadline = time.monotonic() + 5
    while reserved_bytes(servers) != 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def client(address):
    with kvship.Client(address, timeout=120) as made:
        yield made


def test_generate_answers_and_reports(client):
    result = client.generate(messages=QUESTION, max_tokens=16)
    assert "Paris" in result.text
    assert result.finish_reason in ("end", "length")
    assert result.usage.output_tokens == len(result.tokens)
    assert result.kv.shipped_bytes > 0
    assert result.timing.total_ms > 0


@pytest.mark.parametrize("compression", ["scorer=snapkv,budget_tokens=128,encoder=int4",
                                         {"scorer": "snapkv", "budget_tokens": 128, "encoder": "int4"}])
def test_compression_is_a_text_or_a_mapping(client, compression):
    result = client.generate(LONG, max_tokens=4, compression=compression, report_heads=True)
    assert result.kv.kept_tokens == 128
    assert result.kv.compression.encoder == "int4"
    assert result.kv.uncompressed_bytes > 10 * result.kv.shipped_bytes
    assert [sum(layer.kept_tokens) for layer in result.kv.layers] == [3 * 128] * 30


def test_stream_tells_progress_then_text(client):
    with client.stream(LONG, max_tokens=8) as stream:
        events = list(stream)
    outputs = [event for event in events if isinstance(event, kvship.Output)]
    assert isinstance(events[0], kvship.Progress) and events[0].phase == "queued"
    assert "".join(event.text for event in outputs) == stream.result.text
    assert stream.report.usage.output_tokens == 8


def test_cancelling_frees_the_pool(client, servers):
    with client.stream(LONG, max_tokens=500, ignore_end_tokens=True) as stream:
        for event in stream:
            if isinstance(event, kvship.Output):
                break
        assert reserved_bytes(servers) > 0
        stream.cancel()
        with pytest.raises(kvship.Cancelled):
            list(stream)
    assert becomes_zero(servers)
    with pytest.raises(RuntimeError, match="has not ended"):
        stream.report


def test_leaving_the_block_cancels(client, servers):
    with client.stream(LONG, max_tokens=500, ignore_end_tokens=True) as stream:
        next(iter(stream))
    assert becomes_zero(servers)


def test_a_stream_that_is_dropped_ends_its_request(client, servers):
    for event in client.stream(LONG, max_tokens=1000, ignore_end_tokens=True):
        if isinstance(event, kvship.Output):
            break
    gc.collect()
    assert becomes_zero(servers)


def test_a_deadline_passes(client, servers):
    with pytest.raises(kvship.DeadlineExceeded):
        client.generate(LONG, max_tokens=2000, ignore_end_tokens=True, timeout=0.3)
    assert becomes_zero(servers)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_beyond_all_clocks_is_none(client, timeout):
    assert client.generate("Once", max_tokens=1, timeout=timeout).report.usage.output_tokens == 1


def test_wrong_fields_are_named(client):
    with pytest.raises(kvship.InvalidRequest, match="kernel is '4'") as caught:
        client.generate("text", compression={"kernel": 4})
    assert caught.value.violations[0].field.startswith("compression")
    with pytest.raises(kvship.NotServable, match="max_tokens is 100000"):
        client.generate("text", max_tokens=100_000)
    with pytest.raises(ValueError, match="unknown compression option 'colour'"):
        client.generate("text", compression="colour=red")
    with pytest.raises(ValueError, match="exactly one of prompt, messages and tokens"):
        client.generate("text", tokens=[1])
    with pytest.raises(ValueError, match="timeout is 0"):
        client.generate("text", timeout=0)


def test_forced_tokens_come_back_with_logprobs(client):
    free = client.generate(messages=QUESTION, max_tokens=6)
    forced = client.generate(messages=QUESTION, forced_tokens=[token.id for token in free.tokens], logprobs=5)
    assert [token.id for token in forced.tokens] == [token.id for token in free.tokens]
    for token in forced.tokens:
        assert len(token.top) == 5
        assert token.top[0] == (token.id, token.logprob)  # greedy output is the likeliest
        assert token.logprob <= 0


SCHEMA = {"type": "object", "properties": {"town": {"type": "string", "maxLength": 12}, "is_capital": {"type": "boolean"}},
          "required": ["town", "is_capital"], "additionalProperties": False}


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_an_answer_is_held_to_a_schema(client, schema):
    result = client.generate(messages=QUESTION, json_schema=schema, max_tokens=100)
    answer = json.loads(result.text)
    assert result.finish_reason == "end" and list(answer) == ["town", "is_capital"]
    assert len(answer["town"]) <= 12 and isinstance(answer["is_capital"], bool)
    with client.stream(messages=QUESTION, json_schema=schema, max_tokens=100) as stream:
        list(stream)
    assert stream.result.text == result.text


@pytest.mark.parametrize("schema, fields, message", [
    ({"multipleOf": 2}, {}, "json_schema.multipleOf is 2; wanted it left out"),
    ("{", {}, "json_schema is no JSON object; wanted one"),
    ("5", {}, "json_schema is no JSON object; wanted one"),
    (SCHEMA, {"forced_tokens": [5]}, "json_schema is set; wanted it left out beside forced_tokens"),
    (SCHEMA, {"ignore_end_tokens": True}, "json_schema is set; wanted end tokens heeded beside it"),
])
def test_a_schema_that_no_answer_can_be_held_to_is_refused(client, schema, fields, message):
    with pytest.raises(kvship.InvalidRequest, match=message) as caught:
        client.generate("text", json_schema=schema, **fields)
    assert caught.value.violations[0].field == "json_schema"


def test_the_cpp_example_streams(servers, address):
    program = Path(os.environ["KVSHIP_BIN"]) / "kvship-stream-example"
    done = subprocess.run([program, address, "What is the capital of France?"], capture_output=True, text=True, check=True)
    assert "Paris" in done.stdout
    assert "bytes of KV cache were shipped" in done.stdout


def test_model_info(client):
    assert client.model_info().num_layers == 30


def test_tokens_are_those_of_a_prompt(client):
    text = "A prompt of 7 words, and <|im_end|>."
    ids = client.tokenize(text)
    assert client.detokenize(ids) == text
    assert client.generate(tokens=ids, max_tokens=3).tokens == client.generate(text, max_tokens=3).tokens
    assert client.tokenize("") == [] and client.detokenize([]) == ""


def test_special_tokens_are_parsed_where_asked_for(client):
    assert len(client.tokenize("<|im_end|>")) > 1
    ids = client.tokenize("<|im_end|>", parse_special=True)
    assert len(ids) == 1 and client.detokenize(ids) == "<|im_end|>"


def test_wrong_ids_are_named_by_index(client):
    with pytest.raises(kvship.InvalidRequest, match=r"ids\[2\] is 49152; wanted an id below"):
        client.detokenize([0, 1, 49152])


def test_nobody_there_is_unavailable():
    with kvship.Client("127.0.0.1:1", retries=1) as client:
        with pytest.raises(kvship.Unavailable):
            client.generate("text")
        with pytest.raises(kvship.Unavailable, match="no server answered"):
            client.wait_until_ready(0.2)


def test_a_late_server_is_found(tmp_path):
    arguments = server_arguments()
    results = []

    def ask():
        with kvship.Client(f"127.0.0.1:{arguments.decode_port}", retries=20, timeout=60) as client:
            results.append(client.generate("One, two,", max_tokens=2))

    asker = threading.Thread(target=ask)
    asker.start()
    time.sleep(0.5)
    with ServerPair(arguments, str(tmp_path)):
        asker.join(60)
    assert len(results[0].tokens) == 2


def test_a_server_with_tokens_serves_known_ones(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice:{hashlib.sha256(b'secret').hexdigest()}\n")

    async def ask(address: str, token: str | None) -> int:
        async with kvship.AsyncClient(address, api_token=token, timeout=60) as client:
            await client.model_info()
            return len((await client.generate("One, two,", max_tokens=2)).tokens)

    with ServerPair(server_arguments(), str(tmp_path), [f"--api_tokens_file={tokens}"]) as pair:
        address = f"127.0.0.1:{pair.ports['decode-port']}"
        assert asyncio.run(ask(address, "secret")) == 2
        with kvship.Client(address, api_token="secret", timeout=60) as client:
            assert client.tokenize("One") and len(client.generate("One, two,", max_tokens=2).tokens) == 2
        for token in [None, "guessed"]:
            with kvship.Client(address, api_token=token) as client, pytest.raises(kvship.Unauthenticated):
                client.generate("One, two,")
            with pytest.raises(kvship.Unauthenticated):
                asyncio.run(ask(address, token))


def test_async_calls_run_at_once(address):
    async def main():
        async with kvship.AsyncClient(address, timeout=120) as client:
            await client.wait_until_ready(10)
            first, second = await asyncio.gather(client.generate(messages=QUESTION, max_tokens=8),
                                                 client.generate(messages=QUESTION, max_tokens=8))
            assert first.text == second.text != ""
            assert (await client.model_info()).num_layers == 30
            assert await client.detokenize(await client.tokenize("One, two")) == "One, two"
            async with client.stream(LONG, max_tokens=3) as stream:
                events = [event async for event in stream]
            assert any(isinstance(event, kvship.Output) for event in events)
            with pytest.raises(kvship.InvalidRequest):
                await client.generate("text", compression={"window": 0})

    asyncio.run(main())


def test_async_calls_can_be_cancelled_and_have_deadlines(address, servers):
    async def main():
        async with kvship.AsyncClient(address) as client:
            stream = client.stream(LONG, max_tokens=1000, ignore_end_tokens=True)
            with pytest.raises(kvship.Cancelled):
                async for _ in stream:
                    stream.cancel()
            with pytest.raises(kvship.DeadlineExceeded):
                await client.generate(LONG, max_tokens=1000, ignore_end_tokens=True, timeout=0.3)

    asyncio.run(main())
    assert becomes_zero(servers)


def test_an_async_stream_that_is_dropped_ends_its_request(address, servers):
    async def main():
        async with kvship.AsyncClient(address) as client:
            async for event in client.stream(LONG, max_tokens=1000, ignore_end_tokens=True):
                if isinstance(event, kvship.Output):
                    break
            gc.collect()
            return await asyncio.to_thread(becomes_zero, servers)

    assert asyncio.run(main())


def test_cancelling_a_task_frees_the_pool(address, servers):
    async def main():
        async with kvship.AsyncClient(address) as client:
            task = asyncio.create_task(client.generate(LONG, max_tokens=1000, ignore_end_tokens=True))
            while reserved_bytes(servers) == 0:
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert becomes_zero(servers)
