"""Answers held to a JSON schema, as OpenAI's own client asks for them."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

Day = Annotated[int, Field(ge=1, le=31)]


class Place(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    kind: Literal["town", "sea"]


class Tree(BaseModel):
    leaf: bool
    below: Annotated[list["Tree"], Field(max_length=1)]


class Trip(BaseModel):
    place: Place
    days: Annotated[list[Day], Field(max_length=3)]
    note: Annotated[str, Field(max_length=6)] | None
    sunny: bool


SMALL = [  # whatever is drawn for these ends soon
    {"enum": ["a", 1, None, {"x": [1, 2]}, "é\n\"", 1.5, True]},
    {"const": {"b": "é", "a": [1, None]}},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": -30, "exclusiveMaximum": 105},
    {"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 2.25},
    {"type": "string", "minLength": 3, "maxLength": 4},
    {"type": "string", "pattern": "^[A-ZÄ]{2}-[0-9]{1,4}$"},
    {"type": ["boolean", "null"]},
    {"type": "array", "prefixItems": [{"enum": [1, 2]}, {"type": "boolean"}], "items": {"type": "null"}, "minItems": 3, "maxItems": 4},
    {"type": "object", "properties": {"é": {"type": "boolean"}, "a\"b": {"enum": [7]}}, "required": ["a\"b"]},
    {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/few"}],
     "$defs": {"few": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2}}},
    {"oneOf": [{"type": "object", "properties": {"is": {"const": "a"}, "x": {"type": "boolean"}}, "required": ["is", "x"]},
               {"type": "object", "properties": {"is": {"const": "b"}, "y": {"type": "null"}}, "required": ["is", "y"]}]},
]
TOWN = {"type": "object", "properties": {"town": {"type": "string", "maxLength": 12},
                                         "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["town", "days"], "additionalProperties": False}
ASKED = "I stay in Oslo for 3 days."


def held_to(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def side_by_side(function, arguments) -> list:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(function, arguments))


def check(choices, schema: dict, least_ended: float) -> None:
    """Whatever was not cut off is of the schema; and so many, as a share of all, were not."""
    ended = [choice.message.content for choice in choices if choice.finish_reason == "stop"]
    for text in ended:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
    assert len(ended) >= least_ended * len(choices)


def parse(api, model, **fields):
    return api.client.chat.completions.parse(model=api.model, messages=[{"role": "user", "content": ASKED}],
                                             response_format=model, max_tokens=200, **fields)


def test_openais_client_parses_its_models(api):
    trip = parse(api, Trip, temperature=0).choices[0].message.parsed
    assert isinstance(trip, Trip)
    with api.client.chat.completions.stream(model=api.model, messages=[{"role": "user", "content": ASKED}], response_format=Trip,
                                            temperature=0, max_tokens=200) as stream:
        partial = [event.parsed for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == trip
    assert len(partial) > 5


def test_what_openais_client_parsed_can_be_sent_back(api):
    asked = {"role": "user", "content": ASKED}
    message = parse(api, Trip, temperature=0).choices[0].message
    for sent in (message, message.model_dump()):
        answer = api.client.chat.completions.parse(model=api.model, messages=[asked, sent, asked], response_format=Trip,
                                                   temperature=0, max_tokens=200)
        assert isinstance(answer.choices[0].message.parsed, Trip)


def test_each_choice_is_parsed(api):
    answer = parse(api, Place, n=4, seed=1, temperature=1.5)
    assert len(answer.choices) == 4 and all(isinstance(choice.message.parsed, Place) for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) > 1


@pytest.mark.parametrize("model", [Trip, Tree])
def test_a_hot_model_keeps_to_the_schema(api, model):
    def ended(seed: int) -> bool:
        try:
            return isinstance(parse(api, model, seed=seed, temperature=1.5).choices[0].message.parsed, model)
        except openai.LengthFinishReasonError:
            return False
    assert sum(side_by_side(ended, range(12))) > 6


@pytest.mark.parametrize("schema", SMALL)
def test_whatever_is_drawn_is_of_the_schema(api, schema):
    def choices(temperature: float):
        return api.chat("Say it as JSON.", response_format=held_to(schema), seed=3, n=4, temperature=temperature, max_tokens=100).choices
    check([choice for each in side_by_side(choices, [0.5, 1.5, 3, 20]) for choice in each], schema, least_ended=0.7)


def test_what_pushes_against_the_schema_does_not_get_through(api):
    # The token 100 is none of JSON's, and an end token or a brace that is pushed down has to come all the same.
    for fields in ({"logit_bias": {"100": 100, "2": -100}}, {"frequency_penalty": 2, "presence_penalty": 2},
                   {"frequency_penalty": -2}, {"extra_body": {"repetition_penalty": 5, "min_p": 0.9}}, {"top_p": 0.01}):
        answer = api.chat(ASKED, response_format=held_to(TOWN), seed=1, n=4, temperature=1.5, max_tokens=120, **fields)
        check(answer.choices, TOWN, least_ended=0.5)


def test_logprobs_are_the_models_own(api):
    """Of all tokens, whether allowed or not: a token that had to come may be an unlikely one."""
    answer = api.chat(ASKED, response_format=held_to(TOWN), temperature=0, logprobs=True, top_logprobs=1, max_tokens=120).choices[0]
    content = answer.logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == answer.message.content
    assert content[0].token.startswith("{") and not content[0].top_logprobs[0].token.startswith("{")
    assert content[0].logprob < content[0].top_logprobs[0].logprob


def test_a_stop_text_cuts_the_answer_off(api):
    fields = {"response_format": held_to(TOWN), "temperature": 0, "max_tokens": 120}
    whole = api.chat(ASKED, **fields).choices[0].message.content
    cut = api.chat(ASKED, stop='"days"', **fields).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == whole[:whole.index('"days"')]


def test_max_tokens_cuts_the_answer_off(api):
    fields = {"response_format": held_to(TOWN), "temperature": 0}
    whole = api.chat(ASKED, max_tokens=120, **fields).choices[0].message.content
    cut = api.chat(ASKED, max_tokens=3, **fields).choices[0]
    assert cut.finish_reason == "length" and whole.startswith(cut.message.content) and whole != cut.message.content


def test_a_seed_decides_the_answer_streamed_or_not(api):
    fields = {"response_format": held_to(TOWN), "temperature": 1.5, "seed": 7, "max_tokens": 120}
    whole = api.chat(ASKED, **fields).choices[0].message.content
    chunks = api.chat(ASKED, stream=True, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    # Beside others that are held to other schemas, too.
    others = [*SMALL[:6], TOWN]
    answers = side_by_side(lambda schema: api.chat(ASKED, **{**fields, "response_format": held_to(schema)}), others)
    assert answers[-1].choices[0].message.content == whole


def test_an_answer_that_is_of_the_schema_anyway_is_as_it_was(api):
    prompt, fields = '{"town": "Oslo", "days": 3}\n' * 6, {"max_tokens": 40, "temperature": 0}
    free = api.complete(prompt, stop="\n", **fields).choices[0].text
    held = api.complete(prompt, extra_body={"response_format": held_to(TOWN)}, **fields).choices[0]
    assert free == held.text == '{"town": "Oslo", "days": 3}' and held.finish_reason == "stop"


def test_json_object_is_an_object(api):
    for seed in range(4):
        answer = api.chat("Give a town's name as a JSON object.", response_format={"type": "json_object"}, seed=seed, temperature=0.5,
                          max_tokens=60).choices[0]
        assert answer.message.content.startswith("{")
        assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict)


def test_completions_are_held_too(api):
    # Of several prompts each has a place of its own in the schema.
    answer = api.complete(["One town:", "Another town:"], n=2, seed=1, temperature=1.5, max_tokens=120,
                          extra_body={"response_format": held_to(TOWN)})
    ended = [choice.text for choice in answer.choices if choice.finish_reason == "stop"]
    for text in ended:
        jsonschema.validate(json.loads(text), TOWN)
    assert len(answer.choices) == 4 and len(ended) >= 2


def test_text_is_held_to_nothing(api):
    fields = {"temperature": 0, "max_tokens": 12}
    assert api.chat(ASKED, response_format={"type": "text"}, **fields).choices == api.chat(ASKED, **fields).choices


SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize("schema, message", [
    ({"type": "integer", "multipleOf": 2}, ".multipleOf is 2; wanted it left out"),
    ({"properties": {"a": {"type": "string", "pattern": "x(?=y)"}}},
     '.properties.a.pattern is "x(?=y)"; wanted it without (?= at its character 1'),
    ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, ".allOf is [{"),
    ({"$ref": "#/$defs/x"}, '.$ref is "#/$defs/x"; wanted # or one of the schema\'s own $defs'),
    ({"type": "integer", "minimum": 3, "maximum": 2}, " allows numbers from 3 to 2; wanted at least one"),
    ({"type": "integer", "minimum": "3"}, '.minimum is "3"; wanted a number'),
    ({"type": "string", "minLength": 3, "maxLength": 2}, ".minLength is 3; wanted at most maxLength, which is 2"),
    ({"type": "array", "maxItems": -1}, ".maxItems is -1; wanted an integer from 0 to 128"),
    ({"enum": []}, ".enum is []; wanted a list of at least one"),
    ({"type": "string", "enum": [1]}, ".enum is 1; wanted values of the type beside it"),
    ({"type": "decimal"}, '.type is "decimal"; wanted one of array, boolean'),
    ({"type": "object", "required": ["a"]}, '.required is "a"; wanted names that properties has'),
    ({"type": "object", "properties": {"a": False}}, ".properties.a is false; wanted a schema"),
    ({"const": "x" * 70_000}, " has 70012 bytes; wanted at most 65536"),
    ({"enum": list(range(600))}, " has 600 or more values of enum and const; wanted at most 500"),
    ("x", ' is "x"; wanted a JSON schema, which is an object'),
])
def test_a_schema_that_cannot_be_held_is_refused(api, schema, message):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat(ASKED, response_format=held_to(schema))
    assert caught.value.param == SCHEMA and SCHEMA + message in caught.value.message


@pytest.mark.parametrize("value, param, message", [
    ({"type": "json_schema"}, "response_format.json_schema", "response_format.json_schema is missing"),
    ({"type": "json_schema", "json_schema": {"name": "x"}}, SCHEMA, SCHEMA + " is missing"),
    ({"type": "json_schema", "json_schema": 5}, "response_format.json_schema", "response_format.json_schema is 5; wanted an object"),
    ({"type": "json_schema", "json_schema": {"schema": {}, "strict": 5}}, "response_format.json_schema.strict",
     "response_format.json_schema.strict is 5; wanted true or false"),
    ({"type": "yaml"}, "response_format.type", 'response_format.type is "yaml"; wanted "text", "json_object" or "json_schema"'),
    ({"type": "json_object", "json_schema": {}}, "response_format.json_schema", 'has the field "json_schema"'),
    ({}, "response_format.type", "response_format.type is missing"),
    ("json_object", "response_format", 'response_format is "json_object"; wanted an object'),
])
def test_a_wrong_format_is_named(api, value, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat(ASKED, response_format=value)
    assert caught.value.param == param and message in caught.value.message


def test_an_answer_that_must_not_end_is_held_to_nothing(api):
    with pytest.raises(openai.BadRequestError, match="ignore_eos is true; wanted false where response_format is JSON") as caught:
        api.chat(ASKED, response_format=held_to(TOWN), extra_body={"ignore_eos": True})
    assert caught.value.param == "ignore_eos"
