#!/usr/bin/env python3
"""Makes prompts.json, which tests/engine/chat_program_test.cc holds our prompts against: what jinja2 makes of published chat
templates, set up as transformers does.

    make_prompts.py ~/.cache/kvship/jinja/templates >prompts.json     # jinja2 3.1
"""

import json
import sys
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = """
    Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct Qwen-Qwen3-0.6B Qwen3-Coder NVIDIA-Nemotron-Nano-v2
    deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1 meta-llama-Llama-3.1-8B-Instruct
    meta-llama-Llama-3.3-70B-Instruct microsoft-Phi-3.5-mini-instruct mistralai-Mistral-Nemo-Instruct-2407
    google-gemma-2-2b-it GLM-4.6 moonshotai-Kimi-K2 ibm-granite-granite-4.0 Qwen3.5-4B
    mistralai-Ministral-3-14B-Reasoning-2512
""".split()

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a town: \"dry\" or <wet>, 5 °C", "parameters": {
        "type": "object", "required": ["town"], "properties": {
            "town": {"type": "string", "enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1}}}}}
ARGUMENTS = {"town": "Oslo", "days": 2, "share": 0.1234567}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, *arguments):
    message = {"role": "assistant", "content": content}
    return {**message, "tool_calls": [{"name": "weather", "arguments": a} for a in arguments]} if arguments else message


SYSTEM = {"role": "system", "content": "Be brief."}
RESULT = {"role": "tool", "content": "5 degrees, \"rain\""}
CONVERSATIONS = [
    {"messages": [user("Hello")]},
    {"messages": [SYSTEM, user(" Grüße 日本 😀 \n"), assistant(" Hello! \n"), user("Bye")]},
    {"messages": [user("Hi"), assistant("<think>\nHm.\n</think>\n\nHello"), user("Bye"), assistant("<think>\nSo?\n</think>\n\nCiao")]},
    {"messages": [user("Hi"), assistant("A"), assistant("B"), SYSTEM]},
    {"messages": [assistant("Hi"), user("A")]},
    {"messages": [user("Hi")], "enable_thinking": False},
    {"messages": [user("Hi")], "enable_thinking": True},
    {"messages": [user("Hi")], "tools": [TOOL]},
    {"messages": [SYSTEM, user("Hi"), assistant("", ARGUMENTS), RESULT, assistant("5 degrees"), user("Thanks")], "tools": [TOOL]},
    {"messages": [user("Hi"), assistant("Let me see.", ARGUMENTS, {"town": "Rome"}), RESULT, {**RESULT, "content": "20"}],
     "tools": [TOOL, TOOL]},
]


def as_transformers_has_it(messages):
    called = 0
    answered = 0
    names = []
    out = []
    for message in messages:
        item = dict(message)
        if "tool_calls" in item:
            item["tool_calls"] = [{"id": f"call{called + i:05}", "type": "function", "function": call}
                                  for i, call in enumerate(message["tool_calls"])]
            called += len(item["tool_calls"])
            names += [call["name"] for call in message["tool_calls"]]
        if item["role"] == "tool":
            item |= {"name": names[answered], "tool_call_id": f"call{answered:05}"}
            answered += 1
        out.append(item)
    return out


def refuse(message):
    raise TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main(folder):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    prompts = {}
    for name in TEMPLATES:
        program = environment.from_string((folder / f"{name}.jinja").read_text(encoding="utf-8"))
        prompts[name] = []
        for conversation in CONVERSATIONS:
            given = {"tools": None, "documents": None, **conversation,
                     "messages": as_transformers_has_it(conversation["messages"])}
            try:
                prompts[name].append(program.render(bos_token="<s>", eos_token="</s>", add_generation_prompt=True, **given))
            except Exception as error:  # the program's refusal, or what it runs into
                prompts[name].append({"error": str(error)})
    for conversation in CONVERSATIONS:  # as our messages have them
        conversation["tools"] = [json.dumps(tool, ensure_ascii=False) for tool in conversation.get("tools", [])]
        for message in conversation["messages"]:
            for call in message.get("tool_calls", []):
                if not isinstance(call["arguments"], str):
                    call["arguments"] = json.dumps(call["arguments"])
    json.dump({"conversations": CONVERSATIONS, "prompts": prompts}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
