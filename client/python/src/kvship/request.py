"""Requests from Python values."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from kvship.v1 import generation_pb2, types_pb2

Compression = str | Mapping[str, Any]

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1


def wrong(name: str, value: Any, wanted: str) -> str:
    """What is to be said of a field's value."""
    try:
        shown = repr(value)
    except ValueError:  # Python's, of integers with thousands of digits
        shown = "too long to be shown"
    return f"{name} is {shown}; wanted {wanted}"


def check_integer(name: str, value: Any, most: int = _UINT32_MAX) -> int:
    """The value. Raises TypeError or ValueError, naming the field, for anything but an integer from 0 to `most`."""
    wanted = f"an integer from 0 to {most}"
    try:
        integer = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        integer = None
    if integer is None:
        raise TypeError(wrong(name, value, wanted))
    if not 0 <= integer <= most:
        raise ValueError(wrong(name, integer, wanted))
    return integer


def check_number(name: str, value: Any) -> float:
    """The value. Raises TypeError or ValueError, naming the field, for anything but a number that a double can hold."""
    try:
        # Not of text: float() reads that, too.
        number = float(value) if hasattr(value, "__float__") and not isinstance(value, (str, bool)) else None
    except OverflowError:
        raise ValueError(wrong(name, value, "a number that a double can hold")) from None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(wrong(name, value, "a number"))
    return number


def check_flag(name: str, value: Any) -> bool:
    """The value; None is false. Raises TypeError, naming the field, for what is neither true nor false to protobuf."""
    try:
        return generation_pb2.TokenizeRequest(parse_special=value).parse_special
    except (TypeError, ValueError, OverflowError):
        raise TypeError(wrong(name, value, "True or False")) from None


def check_text(name: str, value: Any) -> str:
    """The value. Raises TypeError for anything but a string, ValueError for one that UTF-8 cannot say; both name the field."""
    if not isinstance(value, str):
        raise TypeError(wrong(name, value, "a string"))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has U+{ord(value[error.start]):04X} at index {error.start}, half of a character; "
                         "wanted text that can be sent as UTF-8") from None
    return value


def token_ids(name: str, ids: Sequence[int]) -> list[int]:
    """The ids. Raises TypeError or ValueError, naming the field and the index, for what can be none."""
    wanted = "a sequence of token ids"
    if ids is None:  # no ids, to protobuf
        raise TypeError(wrong(name, ids, wanted))
    try:
        return list(generation_pb2.TokenIds(ids=ids).ids)
    except (TypeError, ValueError):
        # Looked at one by one only now: prompts have millions.
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise TypeError(wrong(name, ids, wanted)) from None
        return [check_integer(f"{name}[{i}]", value) for i, value in enumerate(ids)]


def _members(name: str, value: Any, wanted: str) -> Iterator[Any]:
    """What the value holds. Raises TypeError, naming the field, for what holds nothing, a text (its characters) or a mapping."""
    try:
        members: Iterator[Any] | None = None if isinstance(value, (str, bytes, Mapping)) else iter(value)
    except TypeError:
        members = None
    if members is None:
        raise TypeError(wrong(name, value, wanted))
    return members


# What an option may be, by its field's type.
_WANTED = {
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_UINT32: f"a whole number from 0 to {_UINT32_MAX}",
    FieldDescriptor.CPPTYPE_INT32: f"a whole number from {-2**31} to {2**31 - 1}",
}


def compression_options(compression: Compression) -> types_pb2.CompressionOptions:
    """From a mapping or the text form "scorer=snapkv,budget_tokens=512", by the names of the message's fields.

    Raises ValueError for a name that is none, an option that comes twice or in both its forms, or a value of the wrong type, and
    TypeError for neither a mapping nor a text; what values mean, the server checks.
    """
    if not isinstance(compression, (str, Mapping)):
        raise TypeError(wrong("compression", compression, "text such as 'scorer=snapkv,budget_tokens=512', or a mapping"))
    message = types_pb2.CompressionOptions()
    fields = types_pb2.CompressionOptions.DESCRIPTOR.fields_by_name
    for name, value in _pairs(compression) if isinstance(compression, str) else compression.items():
        if name not in fields:
            raise ValueError(f"unknown compression option '{name}'; wanted one of {', '.join(fields)}")
        field = fields[name]
        # Each is in a oneof, a budget's two forms in the same: setting one would unset the other.
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None:
            raise ValueError(f"compression option {name} is given twice; wanted it, or another form of it, once")
        try:
            setattr(message, name, _of_type(field.cpp_type, value))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(wrong(f"compression option {name}", value, _WANTED[field.cpp_type])) from None
    return message


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        if pair.strip():
            yield name.strip(), value.strip()


def _of_type(cpp_type: int, value: Any) -> Any:
    """The value as its field takes it. Raises TypeError or ValueError, without words, for a text or a bool that is none."""
    if isinstance(value, bool) and cpp_type != FieldDescriptor.CPPTYPE_BOOL:
        raise TypeError
    if not isinstance(value, str) or cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return value
    if cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if value not in ("true", "false"):
            raise ValueError
        return value == "true"
    # Digits of other scripts, and "_" among digits, are in Python's numbers alone.
    if "_" in value or not value.isascii():
        raise ValueError
    return float(value) if cpp_type == FieldDescriptor.CPPTYPE_DOUBLE else int(value)


def _chat(messages: Sequence[Mapping[str, str]]) -> generation_pb2.ChatMessages:
    chat = generation_pb2.ChatMessages()
    for i, message in enumerate(_members("messages", messages, "a sequence of mappings with role and content")):
        if not isinstance(message, Mapping):
            raise TypeError(wrong(f"messages[{i}]", message, "a mapping with role and content"))
        for field in ("role", "content"):
            if field not in message:
                raise ValueError(f"messages[{i}] has no {field}; wanted role and content")
        for field in message:
            if field not in ("role", "content"):
                raise ValueError(f"messages[{i}] has {field!r}; wanted role and content alone")
        chat.messages.add(role=check_text(f"messages[{i}]['role']", message["role"]),
                          content=check_text(f"messages[{i}]['content']", message["content"]))
    return chat


def _stop_texts(stop: Sequence[str]) -> list[str]:
    return [check_text(f"stop[{i}]", text) for i, text in enumerate(_members("stop", stop, "a sequence of strings"))]


def _sampling(numbers: Mapping[str, float | None], top_k: int | None, seed: int | None,
              logit_bias: Mapping[int, float] | None) -> types_pb2.SamplingOptions:
    if logit_bias is None:
        logit_bias = {}
    if not isinstance(logit_bias, Mapping):
        raise TypeError(wrong("logit_bias", logit_bias, "a mapping from token ids to numbers"))
    return types_pb2.SamplingOptions(
        **{name: check_number(name, value) for name, value in numbers.items() if value is not None},
        top_k=None if top_k is None else check_integer("top_k", top_k),
        seed=None if seed is None else check_integer("seed", seed, _UINT64_MAX),
        logit_bias={check_integer("a token of logit_bias", token): check_number(f"logit_bias[{token}]", bias)
                    for token, bias in logit_bias.items()})


def _json_schema(schema: Mapping[str, Any] | str | None) -> str:
    if schema is None:
        return ""
    if isinstance(schema, Mapping):
        try:
            schema = json.dumps(dict(schema), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"json_schema is no JSON: {error}") from None
    return check_text("json_schema", schema)


def generate_request(
    prompt: str | None = None,
    *,
    messages: Sequence[Mapping[str, str]] | None = None,
    tokens: Sequence[int] | None = None,
    parse_special: bool = False,
    max_tokens: int | None = None,
    min_tokens: int = 0,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    stop: Sequence[str] = (),
    logprobs: int = 0,
    forced_tokens: Sequence[int] = (),
    compression: Compression | None = None,
    ignore_end_tokens: bool = False,
    report_heads: bool = False,
    json_schema: Mapping[str, Any] | str | None = None,
    cache_salt: str = "",
) -> generation_pb2.GenerateRequest:
    """A request for text after `prompt`, after a chat's `messages` ({"role", "content"}), or after token ids.

    With `json_schema`, a mapping or text, the answer is JSON of that schema. With `cache_salt` the prompt's beginning is shared, in
    the prefill nodes' prefix caches, only with prompts of the same salt. Everything that is None is the server's default.
    Raises ValueError unless exactly one of the three is given, and TypeError or ValueError, naming the field, for a value that no
    request can carry; what values mean, the server checks.
    """
    if sum(given is not None for given in (prompt, messages, tokens)) != 1:
        raise ValueError("wanted exactly one of prompt, messages and tokens")
    request = generation_pb2.GenerateRequest(
        parse_special=check_flag("parse_special", parse_special),
        max_tokens=0 if max_tokens is None else check_integer("max_tokens", max_tokens),
        min_tokens=check_integer("min_tokens", min_tokens),
        stop=_stop_texts(stop), logprobs=check_integer("logprobs", logprobs),
        forced_tokens=None if forced_tokens is None else token_ids("forced_tokens", forced_tokens),
        ignore_end_tokens=check_flag("ignore_end_tokens", ignore_end_tokens),
        report_heads=check_flag("report_heads", report_heads),
        json_schema=_json_schema(json_schema), cache_salt=check_text("cache_salt", cache_salt),
        sampling=_sampling({"temperature": temperature, "top_p": top_p, "min_p": min_p, "presence_penalty": presence_penalty,
                            "frequency_penalty": frequency_penalty, "repetition_penalty": repetition_penalty}, top_k, seed, logit_bias))
    if prompt is not None:
        request.prompt = check_text("prompt", prompt)
    elif messages is not None:
        request.chat.CopyFrom(_chat(messages))
        request.chat.SetInParent()
    elif tokens is not None:
        request.tokens.ids.extend(token_ids("tokens", tokens))
        request.tokens.SetInParent()
    if compression is not None:
        request.compression.CopyFrom(compression_options(compression))
    return request
