"""Tools as OpenAI's own client uses them, on a model that recites its calls."""

import itertools
import json
import re
from contextlib import contextmanager

import jsonschema
import openai
import pytest
from conftest import Api, server_pair
from reciting_model import write_reciting_model

# As Qwen2.5's, in short.
TEMPLATE = r"""{{- '<|im_start|>system\nYou help.' }}
{%- if tools %}{{- "\n\n# Tools\n\nYou have these:\n<tools>" }}{%- for tool in tools %}{{- "\n" + tool | tojson }}{%- endfor %}
{{- "\n</tools>\n\nCall them." }}{%- endif %}{{- '<|im_end|>\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}{{- '<|im_start|>assistant\n' }}"""
SAID = "I look é it up."
CALLS = [("weather", '{"town": "Köln", "days": [1, 2]}'), ("now", "{}")]
TEXT = SAID + "".join(f'\n<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>' for name, arguments in CALLS)
TOOLS = [{"type": "function", "function": {"name": name, "description": f"Says {name}", "parameters": {"type": "object"}}}
         for name, _ in CALLS]


def pieces_of(text: str, special: tuple[str, ...] = ()) -> list[str]:
    """Pieces of three and more characters, each another one; special tokens are pieces of their own."""
    pieces: list[str] = []
    for part in re.split("|".join(f"({re.escape(name)})" for name in special), text) if special else [text]:
        if part in special:
            pieces.append(part)
            continue
        while part:
            length = 3
            while part[:length] in pieces or 0 < len(part) - length < 3:
                length += 1
            pieces.append(part[:length])
            part = part[length:]
    return pieces


@contextmanager
def reciting(folder, text: str, template: str = TEMPLATE, **fields):
    """Servers of a model that says the text."""
    write_reciting_model(folder, pieces_of(text, fields.get("special", ())), template, **fields)
    with server_pair(folder, model=str(folder)) as pair:
        yield Api(pair.http_port, pair.ports["decode-admin-port"])


@pytest.fixture(scope="module")
def reciter(tmp_path_factory):
    with reciting(tmp_path_factory.mktemp("reciter"), TEXT) as api:
        yield api


def called(message) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def test_calls_are_told_from_text(reciter):
    answer = reciter.chat("Hi", temperature=0, tools=TOOLS)
    message = answer.choices[0].message
    assert message.content == SAID and called(message) == CALLS
    assert answer.choices[0].finish_reason == "tool_calls"
    assert len({call.id for call in message.tool_calls}) == 2 and all(call.type == "function" for call in message.tool_calls)


def test_a_stream_has_the_same_calls(reciter):
    with reciter.client.chat.completions.stream(model=reciter.model, messages=[{"role": "user", "content": "Hi"}],
                                                temperature=0, tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    assert final.message.content == SAID and called(final.message) == CALLS and final.finish_reason == "tool_calls"
    assert "".join(event.delta for event in events if event.type == "content.delta") == SAID


def test_what_came_of_calls_goes_back(reciter):
    messages = [{"role": "user", "content": "Hi"}]
    first = reciter.client.chat.completions.create(model=reciter.model, messages=messages, temperature=0, tools=TOOLS)
    call = first.choices[0].message
    messages += [call, *({"role": "tool", "tool_call_id": each.id, "content": "12:00"} for each in call.tool_calls)]
    second = reciter.client.chat.completions.create(model=reciter.model, messages=messages, temperature=0, tools=TOOLS)
    # A token a byte: what was said, called and answered, with its marks.
    turn = f"{TEXT}<|im_end|>\n<|im_start|>user\n" + "\n".join(["<tool_response>\n12:00\n</tool_response>"] * 2)
    turn += "<|im_end|>\n<|im_start|>assistant\n"
    assert second.usage.prompt_tokens == first.usage.prompt_tokens + len(turn.encode())


def test_the_model_is_told_of_the_tools(reciter):
    def prompt_tokens(**fields):
        return reciter.chat("Hi", temperature=0, max_tokens=1, **fields).usage.prompt_tokens
    listed = "\n\n# Tools\n\nYou have these:\n<tools>" + "".join(f"\n{json.dumps(tool)}" for tool in TOOLS)
    assert prompt_tokens(tools=TOOLS) == prompt_tokens() + len(listed + "\n</tools>\n\nCall them.")
    assert prompt_tokens(tools=TOOLS, tool_choice="none") == prompt_tokens()


def test_without_tools_a_call_is_text(reciter):
    for fields in {}, {"tools": TOOLS, "tool_choice": "none"}:
        answer = reciter.chat("Hi", temperature=0, **fields).choices[0]
        assert answer.message.content == TEXT and answer.message.tool_calls is None and answer.finish_reason == "stop"


def test_one_call_at_a_time_is_the_first(reciter):
    answer = reciter.chat("Hi", temperature=0, tools=TOOLS, parallel_tool_calls=False)
    assert called(answer.choices[0].message) == CALLS[:1] and answer.choices[0].finish_reason == "tool_calls"
    first = TEXT[:TEXT.index("</tool_call>") + len("</tool_call>")]
    pieces = list(itertools.accumulate(pieces_of(TEXT)))
    num_tokens = 1 + next(i for i, said in enumerate(pieces) if first in said)
    assert answer.usage.completion_tokens == num_tokens  # it ends there


def test_a_strict_tool_leaves_room_for_thoughts(tmp_path):
    """Whose marks are tokens of their own in some vocabularies."""
    marks = "<think>", "</think>"
    strict = [{"type": "function", "function": {"name": name, "strict": True, "parameters": {"type": "object"}}}
              for name, _ in CALLS]
    with reciting(tmp_path, f"<think>Well, well.</think>{TEXT}", special=marks) as api:
        message = api.chat("Hi", temperature=0, tools=strict).choices[0].message
        assert message.content == f"<think>Well, well.</think>{SAID}" and called(message) == CALLS


def test_where_one_call_can_be_sent_back_one_is_given(tmp_path):
    """As Llama's template has it."""
    template = r"""{%- if tools %}{{- tools | tojson }}{%- endif %}{%- for message in messages %}{{- message.content }}
{%- if message.tool_calls and message.tool_calls | length != 1 %}{{- raise_exception('One call at a time!') }}{%- endif %}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "parameters": ' + call.function.arguments | tojson + '}' }}
{%- endfor %}{%- endfor %}{{- '\n' }}"""
    calls = '{"name": "now", "parameters": {}}; {"name": "weather", "parameters": {"town": "Oslo"}}'
    with reciting(tmp_path, calls, template) as api:
        answer = api.chat("Hi", temperature=0, tools=TOOLS).choices[0].message
        assert called(answer) == [("now", "{}")]
        again = api.client.chat.completions.create(model=api.model, temperature=0, tools=TOOLS, messages=[
            {"role": "user", "content": "Hi"}, answer, {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "12:00"}])
        assert called(again.choices[0].message) == called(answer)
        answer.tool_calls.append(answer.tool_calls[0].model_copy(update={"id": "another"}))
        with pytest.raises(openai.BadRequestError, match="One call at a time!"):
            api.client.chat.completions.create(model=api.model, tools=TOOLS, messages=[{"role": "user", "content": "Hi"}, answer])


@pytest.mark.parametrize("choice, beginning", [("required", '{"name": "'),
                                               ({"type": "function", "function": {"name": "now"}}, '{"name": "now", "arguments":')])
def test_a_call_may_be_forced(tmp_path, choice, beginning):
    """The model goes on where the call's beginning, which the prompt has, ends."""
    call = '{"name": "now", "arguments": {"zone": [1, "é"]}}'
    with reciting(tmp_path, f"{call[len(beginning):]}\n</tool_call>", after=beginning[-1]) as api:
        free = api.chat("Hi", temperature=0, tools=TOOLS)
        forced = api.chat("Hi", temperature=0, tools=TOOLS, tool_choice=choice)
    assert free.choices[0].message.tool_calls is None
    assert called(forced.choices[0].message) == [("now", '{"zone": [1, "é"]}')] and forced.choices[0].message.content is None
    assert forced.choices[0].finish_reason == "tool_calls"
    assert forced.usage.prompt_tokens == free.usage.prompt_tokens + len("<tool_call>\n" + beginning)


def test_each_choice_has_its_calls(reciter):
    answer = reciter.chat("Hi", temperature=0, tools=TOOLS, n=2)
    assert [called(choice.message) for choice in answer.choices] == [CALLS, CALLS]
    assert len({call.id for choice in answer.choices for call in choice.message.tool_calls}) == 4


def test_a_call_that_was_cut_off_is_text(reciter):
    answer = reciter.chat("Hi", temperature=0, tools=TOOLS, max_tokens=len(pieces_of(TEXT)) - 1).choices[0]
    assert answer.finish_reason == "length" and called(answer.message) == CALLS[:1]
    assert answer.message.content.startswith(SAID + '\n<tool_call>\n{"name": "now"')


def test_a_model_that_was_taught_none_is_told_of_none(api):
    with pytest.raises(openai.BadRequestError, match="tools has 2 of them; wanted none, as the model's chat template") as caught:
        api.chat("Hi", tools=TOOLS)
    assert caught.value.param == "tools"


# What a strict tool takes, which is not what the model recites.
STRICT = {"type": "object", "properties": {"town": {"type": "string", "maxLength": 9},
                                           "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
          "required": ["town", "days"], "additionalProperties": False}
RECITED = '\n<tool_call>\n{"name": "weather", "arguments": {"town": "Köln", "days": ["one", "two"]}}\n</tool_call>'


def tool(name: str, **function) -> dict:
    return {"type": "function", "function": {"name": name, **function}}


@pytest.fixture(scope="module")
def stubborn(tmp_path_factory):
    """Where it may not go on with its recital, all that it may say is as likely."""
    with reciting(tmp_path_factory.mktemp("stubborn"), RECITED) as api:
        yield api


def calls_of(api, tools, **fields) -> list:
    """The calls of some seeds; some answers may be cut off, and none may be of a call that is wrong."""
    answer = api.chat("Hi", tools=tools, n=8, seed=1, temperature=1, max_tokens=200, **fields)
    calls = [call.function for choice in answer.choices for call in choice.message.tool_calls or []]
    assert len(calls) > 4
    return calls


def test_a_strict_tool_is_called_as_its_schema_says(stubborn):
    loose = calls_of(stubborn, [tool("weather", parameters=STRICT)])
    assert {call.arguments for call in loose} == {'{"town": "Köln", "days": ["one", "two"]}'}
    for call in calls_of(stubborn, [tool("weather", parameters=STRICT, strict=True)]):
        assert call.name == "weather" and json.loads(call.arguments)["town"] == "Köln"
        jsonschema.validate(json.loads(call.arguments), STRICT)


def test_beside_a_strict_tool_others_are_called_as_before(stubborn):
    for call in calls_of(stubborn, [tool("weather", parameters=STRICT), tool("now", parameters=STRICT, strict=True)]):
        assert (call.name, call.arguments) == ("weather", '{"town": "Köln", "days": ["one", "two"]}')


@pytest.mark.parametrize("strict, schema", [(True, STRICT), (False, {"type": "object"}), (None, {"type": "object"})])
def test_a_forced_call_has_arguments(stubborn, strict, schema):
    named = tool("now", parameters=STRICT, strict=strict)
    for call in calls_of(stubborn, [tool("weather"), named], tool_choice=tool("now")):
        assert call.name == "now"
        jsonschema.validate(json.loads(call.arguments), schema)


def test_a_required_call_is_of_one_of_the_tools(stubborn):
    tools = [tool("weather", parameters=STRICT, strict=True), tool("now", parameters=STRICT, strict=True)]
    calls = calls_of(stubborn, tools, tool_choice="required")
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), STRICT)
    assert {call.name for call in calls} == {"weather", "now"}


def ends_beside_a_schema(api: Api) -> set[str]:
    """How answers end that either call a strict tool or are what a schema says."""
    schema = {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}
    answer = api.chat("Hi", tools=[tool("weather", parameters=STRICT, strict=True)], n=8, seed=1, temperature=1, max_tokens=200,
                      response_format={"type": "json_schema", "json_schema": {"name": "days", "schema": schema}})
    for choice in answer.choices:
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content), schema)
        if choice.finish_reason == "tool_calls":
            assert choice.message.content is None
            jsonschema.validate(json.loads(choice.message.tool_calls[0].function.arguments), STRICT)
    return {choice.finish_reason for choice in answer.choices}


def test_a_schema_is_for_answers_that_call_nothing(stubborn):
    assert {"stop", "tool_calls"} <= ends_beside_a_schema(stubborn)


def test_a_model_that_may_think_calls_at_once_where_its_answer_is_held_to_a_schema(tmp_path):
    """As Qwen3's template has it: the prompt then ends behind its thoughts, of which there are none."""
    thinks = TEMPLATE + r"""
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"""
    with reciting(tmp_path, '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>', thinks) as api:
        for fields in ({"response_format": {"type": "json_object"}}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}):
            choice = api.chat("Hi", tools=[tool("weather")], temperature=0, max_tokens=100, **fields).choices[0]
            assert choice.finish_reason == "tool_calls" and called(choice.message) == [("weather", '{"town": "Oslo"}')]
        thought = api.chat("Hi", tools=[tool("weather")], temperature=0, max_tokens=100).choices[0]
        assert not thought.message.tool_calls  # all of it is thoughts, which do not end


@pytest.mark.parametrize("tools, fields, param, message", [
    ([tool("now"), tool("weather", strict=True, parameters={"type": "integer", "multipleOf": 2})], {}, "tools[1].function.parameters",
     "tools[1].function.parameters.multipleOf is 2; wanted it left out beside integer"),
    ([tool("now")], {"tool_choice": "required", "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
     "tool_choice", 'tool_choice is "required"; wanted "auto" or "none" where response_format is JSON'),
    ([tool("now", strict=True)], {"extra_body": {"ignore_eos": True}}, "tools", "tools is set; wanted end tokens heeded beside it"),
])
def test_what_cannot_be_held_is_named(stubborn, tools, fields, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        stubborn.chat("Hi", tools=tools, **fields)
    assert caught.value.param == param and message in caught.value.message
