"""What becomes a request, and what is refused before it is sent."""

import asyncio
import types

import kvship
import pytest
from kvship.request import compression_options, generate_request
from kvship.results import event
from kvship.v1 import generation_pb2, types_pb2


def test_values_arrive_under_their_names():
    request = generate_request("One", max_tokens=7, min_tokens=3, temperature=0.5, top_p=1, top_k=3, seed=2**64 - 1, stop=["a", "b"],
                               cache_salt="mine", logprobs=2, forced_tokens=[5, 6], compression="scorer=snapkv,window=8", min_p=0.25,
                               presence_penalty=-2, frequency_penalty=0.5, repetition_penalty=1.05, logit_bias={7: -100, 9: 1.5})
    assert (request.prompt, request.max_tokens, request.min_tokens, request.logprobs) == ("One", 7, 3, 2)
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 1)
    assert (request.sampling.top_k, request.sampling.seed) == (3, 2**64 - 1)
    assert (request.sampling.min_p, request.sampling.presence_penalty, request.sampling.frequency_penalty) == (0.25, -2, 0.5)
    assert request.sampling.repetition_penalty == 1.05
    assert dict(request.sampling.logit_bias) == {7: -100, 9: 1.5}
    assert list(request.stop) == ["a", "b"] and list(request.forced_tokens) == [5, 6]
    assert (request.compression.window, request.cache_salt) == (8, "mine")
    assert list(generate_request(tokens=range(4)).tokens.ids) == [0, 1, 2, 3]


def test_a_schema_is_a_mapping_or_text():
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}, "alter": {}}}
    text = '{"type": "object", "properties": {"größe": {"type": "integer"}, "alter": {}}}'
    # In the order of its members, which is that of the answer's.
    assert generate_request("One", json_schema=schema).json_schema == text
    assert generate_request("One", json_schema=types.MappingProxyType(schema)).json_schema == text
    assert generate_request("One", json_schema=text).json_schema == text


def test_what_is_none_is_left_out():
    request = generate_request("One")
    assert request.json_schema == ""
    assert not any(request.sampling.HasField(name) for name in ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty",
                                                                 "frequency_penalty", "repetition_penalty"))
    assert not request.sampling.logit_bias
    assert generate_request(tokens=[]).WhichOneof("input") == "tokens"
    assert generate_request(messages=[]).WhichOneof("input") == "chat"


@pytest.mark.parametrize("fields, error, message", [
    ({"max_tokens": -1}, ValueError, "max_tokens is -1; wanted an integer from 0 to 4294967295"),
    ({"seed": -1}, ValueError, "seed is -1; wanted an integer from 0 to 18446744073709551615"),
    ({"top_k": -1}, ValueError, "top_k is -1; wanted an integer from 0 to 4294967295"),
    ({"logprobs": -1}, ValueError, "logprobs is -1; wanted an integer from 0 to 4294967295"),
    ({"max_tokens": 2**32}, ValueError, "max_tokens is 4294967296; wanted an integer from 0"),
    ({"max_tokens": 1.5}, TypeError, "max_tokens is 1.5; wanted an integer"),
    ({"top_k": "3"}, TypeError, "top_k is '3'; wanted an integer"),
    ({"temperature": "hot"}, TypeError, "temperature is 'hot'; wanted a number"),
    ({"top_p": [1]}, TypeError, r"top_p is \[1\]; wanted a number"),
    ({"min_p": "x"}, TypeError, "min_p is 'x'; wanted a number"),
    ({"logit_bias": [5]}, TypeError, r"logit_bias is \[5\]; wanted a mapping from token ids to numbers"),
    ({"logit_bias": {"5": 1}}, TypeError, "a token of logit_bias is '5'; wanted an integer"),
    ({"logit_bias": {5: None}}, TypeError, r"logit_bias\[5\] is None; wanted a number"),
    ({"compression": 5}, TypeError, "compression is 5; wanted text such as"),
    ({"max_tokens": True}, TypeError, "max_tokens is True; wanted an integer"),
    ({"max_tokens": 10**5000}, ValueError, "max_tokens is too long to be shown; wanted an integer"),
    ({"min_tokens": None}, TypeError, "min_tokens is None; wanted an integer"),
    ({"seed": float("nan")}, TypeError, "seed is nan; wanted an integer"),
    ({"temperature": True}, TypeError, "temperature is True; wanted a number"),
    ({"temperature": 10**400}, ValueError, "temperature is 10+; wanted a number that a double can hold"),
    ({"logit_bias": {5: -10**400}}, ValueError, r"logit_bias\[5\] is -10+; wanted a number that a double can hold"),
    ({"parse_special": "x"}, TypeError, "parse_special is 'x'; wanted True or False"),
    ({"ignore_end_tokens": 10**400}, TypeError, "ignore_end_tokens is 10+; wanted True or False"),
    ({"report_heads": 0.5}, TypeError, "report_heads is 0.5; wanted True or False"),
    ({"compression": {"window": -1}}, ValueError, "compression option window is -1; wanted a whole number from 0 to 4294967295"),
    ({"compression": "observe_begin=x"}, ValueError, "compression option observe_begin is 'x'; wanted a whole number from -2147"),
    ({"stop": None}, TypeError, "stop is None; wanted a sequence of strings"),
    ({"stop": 5}, TypeError, "stop is 5; wanted a sequence of strings"),
    ({"stop": "END"}, TypeError, "stop is 'END'; wanted a sequence of strings"),
    ({"stop": ["a", 1]}, TypeError, r"stop\[1\] is 1; wanted a string"),
    ({"json_schema": 5}, TypeError, "json_schema is 5; wanted a string"),
    ({"json_schema": ["a"]}, TypeError, r"json_schema is \['a'\]; wanted a string"),
    ({"json_schema": {"const": float("nan")}}, ValueError, "json_schema is no JSON: .*not JSON compliant"),
    ({"json_schema": {"const": b"x"}}, ValueError, "json_schema is no JSON: .*bytes"),
    ({"json_schema": {"const": "caf\udce9"}}, ValueError, r"json_schema has U\+DCE9 at index 14, half of a character"),
    ({"json_schema": "caf\udce9"}, ValueError, r"json_schema has U\+DCE9 at index 3, half of a character"),
    ({"forced_tokens": [1, -2]}, ValueError, r"forced_tokens\[1\] is -2; wanted an integer from 0"),
    ({"prompt": 5}, TypeError, "prompt is 5; wanted a string"),
    ({"prompt": "caf\udce9"}, ValueError, r"prompt has U\+DCE9 at index 3, half of a character"),
])
def test_wrong_values_are_named(fields, error, message):
    with pytest.raises(error, match=message):
        generate_request(**{"prompt": "text", **fields})


@pytest.mark.parametrize("options", ["budget_tokens=40,budget_ratio=0.1", {"budget_tokens": 40, "budget_ratio": 0.1},
                                     "budget_ratio=0.2, budget_ratio=0.1"])
def test_only_one_budget_is_taken_as_by_the_servers(options):
    told = "^compression option budget_ratio is given twice; wanted it, or another form of it, once$"
    with pytest.raises(ValueError, match=told):
        compression_options(options)


def test_every_option_beside_the_other_budget_is_taken():
    fields = types_pb2.CompressionOptions.DESCRIPTOR.fields
    options = {field.name: "x" if field.cpp_type == field.CPPTYPE_STRING else 1 for field in fields}
    del options["budget_ratio"]
    assert len(compression_options(options).ListFields()) == len(fields) - 1


@pytest.mark.parametrize("value", [None, b"\xff", [1], 1j, 10**400, "caf\udce9", "1_0", "0.1_1", "\u0663", "0x10"])
def test_every_option_names_itself_where_its_value_is_of_another_type(value):
    for field in types_pb2.CompressionOptions.DESCRIPTOR.fields:
        if field.cpp_type == field.CPPTYPE_STRING and isinstance(value, str) and value.isprintable():
            continue
        with pytest.raises(ValueError, match=f"^compression option {field.name} is .*; wanted [a-z]") as caught:
            compression_options({field.name: value})
        str(caught.value).encode()  # it can be printed


def test_options_that_are_counts_or_numbers_are_no_bools():
    assert compression_options({"normalised": True}).normalised
    for name in ("budget_tokens", "budget_ratio", "observe_begin", "scorer"):
        with pytest.raises(ValueError, match=f"compression option {name} is True; wanted"):
            compression_options({name: True})


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    request = generate_request(tokens=numpy.arange(3), max_tokens=numpy.int64(7), temperature=numpy.float32(0.5),
                               top_p=numpy.float64(0.25), logit_bias={numpy.int32(5): numpy.float16(1.5)},
                               ignore_end_tokens=numpy.True_, forced_tokens=[numpy.uint32(4)],
                               compression={"window": numpy.int64(8), "beta": numpy.float32(0.5), "normalised": numpy.True_})
    assert (list(request.tokens.ids), request.max_tokens, list(request.forced_tokens)) == ([0, 1, 2], 7, [4])
    assert (request.sampling.temperature, request.sampling.top_p, dict(request.sampling.logit_bias)) == (0.5, 0.25, {5: 1.5})
    assert request.ignore_end_tokens and request.compression.normalised
    assert (request.compression.window, request.compression.beta) == (8, 0.5)


@pytest.mark.parametrize("messages", [None, 5, "hello", {"role": "user", "content": "x"}])
def test_messages_that_are_no_sequence_are_named(messages):
    told = "exactly one of prompt" if messages is None else "messages is .*; wanted a sequence of mappings with role and content"
    with pytest.raises((TypeError, ValueError), match=told):
        generate_request(messages=messages)


@pytest.mark.parametrize("message, error, told", [
    ({"role": "user"}, ValueError, r"messages\[1\] has no content; wanted role and content"),
    ({"content": "x"}, ValueError, r"messages\[1\] has no role"),
    ({"role": "user", "content": "x", "name": "y"}, ValueError, r"messages\[1\] has 'name'; wanted role and content alone"),
    ({"role": "user", "content": None}, TypeError, r"messages\[1\]\['content'\] is None; wanted a string"),
    ("hello", TypeError, r"messages\[1\] is 'hello'; wanted a mapping with role and content"),
])
def test_wrong_messages_are_named(message, error, told):
    with pytest.raises(error, match=told):
        generate_request(messages=[{"role": "system", "content": "s"}, message])


@pytest.mark.parametrize("tokens, error, told", [
    ([1, 2, -1], ValueError, r"tokens\[2\] is -1; wanted an integer from 0 to 4294967295"),
    ([1, "2"], TypeError, r"tokens\[1\] is '2'; wanted an integer"),
    (5, TypeError, "tokens is 5; wanted a sequence of token ids"),
])
def test_wrong_tokens_are_named(tokens, error, told):
    with pytest.raises(error, match=told):
        generate_request(tokens=tokens)


def test_tokenizing_names_its_fields_too():
    with kvship.Client("127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="text is 5; wanted a string"):
            client.tokenize(5)
        with pytest.raises(ValueError, match=r"ids\[0\] is -1; wanted an integer"):
            client.detokenize([-1])
        with pytest.raises(TypeError, match="ids is None; wanted a sequence of token ids"):
            client.detokenize(None)
        with pytest.raises(TypeError, match="parse_special is 'x'; wanted True or False"):
            client.tokenize("text", parse_special="x")


WRONG_TIMEOUTS = [("3", TypeError, "timeout is '3'; wanted a number"), (True, TypeError, "timeout is True; wanted a number"),
                  (float("nan"), ValueError, "timeout is nan; wanted seconds above 0"),
                  (10**400, ValueError, "timeout is 10+; wanted a number that a double can hold")]


@pytest.mark.parametrize("timeout, error, told", [*WRONG_TIMEOUTS, (0, ValueError, "timeout is 0; wanted seconds above 0")])
def test_a_timeout_that_is_none_is_named_by_every_call(timeout, error, told):
    for kind in (kvship.Client, kvship.AsyncClient):
        with pytest.raises(error, match=told):
            kind("127.0.0.1:1", timeout=timeout)
    with kvship.Client("127.0.0.1:1") as client:
        for call in (lambda: client.generate("x", timeout=timeout), lambda: client.stream("x", timeout=timeout),
                     lambda: client.model_info(timeout), lambda: client.tokenize("x", timeout=timeout),
                     lambda: client.detokenize([1], timeout=timeout)):
            with pytest.raises(error, match=told):
                call()

    async def ask():
        async with kvship.AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(error, match=told):
                client.stream("x", timeout=timeout)
            for call in (client.generate("x", timeout=timeout), client.model_info(timeout), client.tokenize("x", timeout=timeout),
                         client.detokenize([1], timeout=timeout)):
                with pytest.raises(error, match=told):
                    await call

    asyncio.run(ask())


@pytest.mark.parametrize("timeout, error, told", WRONG_TIMEOUTS)
def test_so_it_is_by_who_waits_for_a_server(timeout, error, told):
    with kvship.Client("127.0.0.1:1") as client, pytest.raises(error, match=told):
        client.wait_until_ready(timeout)

    async def wait():
        async with kvship.AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(error, match=told):
                await client.wait_until_ready(timeout)

    asyncio.run(wait())


def test_fields_of_asynchronous_calls_are_named_too():
    async def ask():
        async with kvship.AsyncClient("127.0.0.1:1") as client:
            for call, told in ((client.generate("x", temperature=10**400), "temperature is 10+; wanted a number"),
                               (client.generate("x", ignore_end_tokens="x"), "ignore_end_tokens is 'x'; wanted True or False"),
                               (client.tokenize("x", parse_special="x"), "parse_special is 'x'; wanted True or False"),
                               (client.detokenize(None), "ids is None; wanted a sequence of token ids")):
                with pytest.raises((TypeError, ValueError), match=told):
                    await call

    asyncio.run(ask())


@pytest.mark.parametrize("kind", [kvship.Client, kvship.AsyncClient])
@pytest.mark.parametrize("fields, told", [
    ({"retries": None}, "retries is None; wanted an integer from 0"),
    ({"retries": -1}, "retries is -1; wanted an integer from 0"),
    ({"address": None}, "address is None; wanted a string"), ({"api_token": b"x"}, "api_token is of type bytes; wanted a string"),
])
def test_fields_of_clients_are_named_too(kind, fields, told):
    with pytest.raises((TypeError, ValueError), match=told):
        kind(**fields)


@pytest.mark.parametrize("token", ["gr\u00fc\u00df", "one\ntwo", "\x7f"])
@pytest.mark.parametrize("kind", [kvship.Client, kvship.AsyncClient])
def test_a_token_that_cannot_be_sent_is_refused_and_not_quoted(kind, token):
    with pytest.raises(ValueError, match=r"api_token has U\+00.. at index \d; wanted printable ASCII") as caught:
        kind("127.0.0.1:1", api_token=token)
    assert token not in str(caught.value)


def test_what_only_a_newer_server_knows_is_a_number():
    newer = generation_pb2.GenerateResponse(progress=generation_pb2.GenerateProgress(phase=7, fraction=0.5))
    assert event(newer).phase == "7"
    assert kvship.Generation(report=generation_pb2.GenerateReport(finish_reason=9)).finish_reason == "9"
    assert kvship.Generation(report=generation_pb2.GenerateReport(finish_reason=1)).finish_reason == "end"
