"""What becomes a request, and what is refused before it is sent."""

import types

import kvship
import pytest
from kvship.request import generate_request
from kvship.results import event
from kvship.v1 import generation_pb2


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
    ({"compression": {"window": -1}}, ValueError, "compression option window is '-1'"),
    ({"compression": "window=8, window=16"}, ValueError, "compression option window is '16'; wanted each option at most once"),
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
