"""Tools with the models that write calls otherwise than as JSON between <tool_call> and </tool_call>: Qwen3-Coder's and Mistral's, as
test_tools.py has the others."""

import json
import re
from dataclasses import dataclass

import jsonschema
import openai
import pytest
from test_tools import STRICT, called, calls_of, ends_beside_a_schema, reciting, tool

MARKS = ("[TOOL_CALLS]", "[ARGS]")
SAID = "I look é it up."
WEATHER = {"town": "Köln", "days": [1, 2]}
TOOLS = [tool("weather", parameters={"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "array"}}}),
         tool("now", parameters={"type": "object"})]

# As Qwen3-Coder's, in short.
XML_TEMPLATE = r"""{%- if tools %}{{- tools | tojson }}{%- endif %}{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n<function=' + call.function.name + '>\n' }}{%- for name, value in call.function.arguments | items %}
{{- '<parameter=' + name + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' }}
{%- endfor %}{{- '</function>\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}{{- '<|im_start|>assistant\n' }}"""
# As Devstral's and Mistral Nemo's, of which some want calls to have ids of nine characters.
CHECKED_ID = r"""{%- if call.id | length != 9 %}{{- raise_exception('No id: ' + call.id) }}{%- endif %}"""
MISTRAL = r"""{%- if tools %}{{- tools | tojson }}{%- endif %}{%- for message in messages %}{{- message.content }}
{%- if message.role == 'tool' %}{{- message.tool_call_id }}{%- endif %}{%- if message.tool_calls %}CALLS{%- endif %}
{%- endfor %}{{- '\n' }}"""
NAMED_TEMPLATE = MISTRAL.replace("CALLS", "{%- for call in message.tool_calls %}" + CHECKED_ID + r"""
{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}{%- endfor %}""")
LIST_TEMPLATE = MISTRAL.replace("CALLS", "{{- '[TOOL_CALLS][' }}{%- for call in message.tool_calls %}" + CHECKED_ID + r"""
{%- set written = call.function | tojson %}{{- written[:-1] + ', "id": "' + call.id + '"}' }}
{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']' }}""")


def as_json(arguments: dict) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def in_xml(name: str, arguments: dict) -> str:
    values = "".join(f"<parameter={key}>\n{value if isinstance(value, str) else as_json(value)}\n</parameter>\n"
                     for key, value in arguments.items())
    return f"\n<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>"


def named(name: str, arguments: dict) -> str:
    return f"[TOOL_CALLS]{name}[ARGS]{as_json(arguments)}"


def listed(*calls: tuple[str, dict]) -> str:
    return "[TOOL_CALLS][" + ", ".join(f'{{"name": "{name}", "arguments": {as_json(arguments)}}}' for name, arguments in calls) + "]"


@dataclass
class Syntax:
    template: str
    text: str  # that the model says
    calls: list[tuple[str, dict]]  # in it
    beginning: str  # of a forced call, to its name
    before_arguments: str
    forced: str  # behind the arguments
    wrong: str  # a call of weather that a strict one does not allow
    special: tuple[str, ...] = MARKS


BAD = {"town": "Köln", "days": ["one", "two"]}
SYNTAXES = {
    "xml": Syntax(XML_TEMPLATE, SAID + in_xml("weather", WEATHER) + in_xml("now", {}), [("weather", WEATHER), ("now", {})],
                  "<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", in_xml("weather", BAD), special=()),
    # (It cannot say one token twice.)
    "named": Syntax(NAMED_TEMPLATE, SAID + named("weather", WEATHER), [("weather", WEATHER)], "[TOOL_CALLS]", "[ARGS]", "",
                    named("weather", BAD)),
    "list": Syntax(LIST_TEMPLATE, SAID + listed(("weather", WEATHER), ("now", {})), [("weather", WEATHER), ("now", {})],
                   '[TOOL_CALLS][{"name": "', '", "arguments":', "}]", listed(("weather", BAD))),
}


@pytest.fixture(scope="module", params=SYNTAXES)
def syntax(request):
    return SYNTAXES[request.param]


@pytest.fixture(scope="module")
def reciter(syntax, tmp_path_factory):
    with reciting(tmp_path_factory.mktemp("reciter"), syntax.text, syntax.template, special=syntax.special) as api:
        yield api


def read(message) -> list[tuple[str, dict]]:
    return [(name, json.loads(arguments)) for name, arguments in called(message)]


def num_tokens(text: str) -> int:
    """A token a byte, and one for each special token."""
    return len(re.sub("|".join(map(re.escape, MARKS)), "x", text).encode())


def test_calls_are_told_from_text(syntax, reciter):
    answer = reciter.chat("Hi", temperature=0, tools=TOOLS, n=2)
    for choice in answer.choices:
        assert choice.message.content == SAID and read(choice.message) == syntax.calls and choice.finish_reason == "tool_calls"
    first = reciter.chat("Hi", temperature=0, tools=TOOLS, parallel_tool_calls=False).choices[0]
    assert read(first.message) == syntax.calls[:1]


def test_a_stream_has_the_same_calls(syntax, reciter):
    with reciter.client.chat.completions.stream(model=reciter.model, messages=[{"role": "user", "content": "Hi"}],
                                                temperature=0, tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    assert final.message.content == SAID and read(final.message) == syntax.calls and final.finish_reason == "tool_calls"
    assert "".join(event.delta for event in events if event.type == "content.delta") == SAID


def test_without_tools_special_tokens_are_no_text(syntax, reciter):
    text = syntax.text
    for name in syntax.special:
        text = text.replace(name, "")
    for fields in {}, {"tools": TOOLS, "tool_choice": "none"}:
        answer = reciter.chat("Hi", temperature=0, **fields).choices[0]
        assert answer.message.content == text and answer.message.tool_calls is None


def test_special_tokens_of_a_call_that_was_cut_off_are_no_text(syntax, reciter):
    whole = reciter.chat("Hi", temperature=0, tools=TOOLS)
    cut = reciter.chat("Hi", temperature=0, tools=TOOLS, max_tokens=whole.usage.completion_tokens - 9).choices[0]
    assert cut.finish_reason == "length" and len(cut.message.tool_calls or []) < len(syntax.calls)
    assert cut.message.content.startswith(SAID) and not any(name in cut.message.content for name in MARKS)


def test_what_came_of_calls_goes_back(syntax, reciter):
    """With the ids that clients know them by, which are not those that templates want."""
    messages = [{"role": "user", "content": "Hi"}]
    first = reciter.client.chat.completions.create(model=reciter.model, messages=messages, temperature=0, tools=TOOLS)
    said = first.choices[0].message
    assert all(len(call.id) != 9 for call in said.tool_calls)
    messages += [said, *({"role": "tool", "tool_call_id": each.id, "content": "12:00"} for each in said.tool_calls)]
    second = reciter.client.chat.completions.create(model=reciter.model, messages=messages, temperature=0, tools=TOOLS)
    added = second.usage.prompt_tokens - first.usage.prompt_tokens
    if syntax.special:
        ids = ', "id": "call00000"' if syntax.text.count("name") else ""
        assert added == num_tokens(syntax.text) + len(said.tool_calls) * (len(ids) + len("call00000" + "12:00"))
    else:
        assert added == num_tokens(syntax.text + "<|im_end|>\n" + "<|im_start|>tool\n12:00<|im_end|>\n" * 2 + "<|im_start|>assistant\n")


@pytest.mark.parametrize("names_it", [False, True])
def test_a_call_may_be_forced(syntax, names_it, tmp_path):
    """The model goes on where the call's beginning, which the prompt has, ends."""
    arguments = "<parameter=zone>\n1\n</parameter>\n" if not syntax.special else f'{" " if "name" in syntax.beginning else ""}{{"zone": 1}}'
    before, behind = syntax.beginning, "now" + syntax.before_arguments + arguments + syntax.forced
    if names_it:
        before, behind = before + "now" + syntax.before_arguments, arguments + syntax.forced
    after = next((name for name in syntax.special if before.endswith(name)), before[-1])
    choice = tool("now") if names_it else "required"
    zone = {"zone": {"type": "integer"}}
    tools = [TOOLS[0], tool("now", parameters={"type": "object", "properties": zone})]
    with reciting(tmp_path, behind, syntax.template, special=syntax.special, after=after) as api:
        free = api.chat("Hi", temperature=0, tools=tools, max_tokens=1)
        forced = api.chat("Hi", temperature=0, tools=tools, tool_choice=choice)
    assert read(forced.choices[0].message) == [("now", {"zone": 1})] and forced.choices[0].message.content is None
    assert forced.usage.prompt_tokens == free.usage.prompt_tokens + num_tokens(before)


@pytest.fixture(scope="module")
def stubborn(syntax, tmp_path_factory):
    """Where it may not go on with its recital, all that it may say is as likely."""
    with reciting(tmp_path_factory.mktemp("stubborn"), syntax.wrong, syntax.template, special=syntax.special) as api:
        yield api


def test_a_strict_tool_is_called_as_its_schema_says(stubborn):
    loose = calls_of(stubborn, [tool("weather", parameters=STRICT)])
    assert {as_json(json.loads(call.arguments)) for call in loose} == {as_json(BAD)}
    for call in calls_of(stubborn, [tool("weather", parameters=STRICT, strict=True)]):
        assert call.name == "weather" and json.loads(call.arguments)["town"] == "Köln"
        jsonschema.validate(json.loads(call.arguments), STRICT)


def test_a_forced_call_has_arguments(stubborn):
    tools = [tool("weather", parameters=STRICT, strict=True), tool("now", parameters=STRICT, strict=True)]
    names = set()
    for choice in "required", tool("now"):
        for call in calls_of(stubborn, tools, tool_choice=choice):
            jsonschema.validate(json.loads(call.arguments), STRICT)
            names.add(call.name)
    assert names == {"weather", "now"}


def test_a_schema_is_for_answers_that_call_nothing(stubborn):
    assert {"stop", "tool_calls"} & ends_beside_a_schema(stubborn)


def test_what_bare_text_does_not_tell_apart_is_refused(syntax, stubborn):
    either = {"type": "object", "properties": {"when": {"type": ["string", "integer"]}}, "required": ["when"]}
    strict = [tool("weather", parameters=either, strict=True)]
    if syntax.special:  # whose arguments are JSON
        stubborn.chat("Hi", tools=strict, max_tokens=1)
        return
    with pytest.raises(openai.BadRequestError, match="wanted no type but null beside string") as caught:
        stubborn.chat("Hi", tools=strict)
    assert caught.value.param == "tools[0].function.parameters"
