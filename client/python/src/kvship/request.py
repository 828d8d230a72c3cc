"""Requests from Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from kvship.v1 import generation_pb2, types_pb2

Compression = str | Mapping[str, Any]


def compression_options(compression: Compression) -> types_pb2.CompressionOptions:
    """From a mapping or the text form "scorer=snapkv,budget_tokens=512", by the names of the message's fields.

    Raises ValueError for a name that is none, or a value of the wrong type; what values mean, the server checks.
    """
    if isinstance(compression, str):
        pairs = [pair.partition("=") for pair in compression.split(",") if pair.strip()]
        options: Mapping[str, Any] = {name.strip(): value.strip() for name, _, value in pairs}
    else:
        options = compression
    message = types_pb2.CompressionOptions()
    fields = types_pb2.CompressionOptions.DESCRIPTOR.fields_by_name
    for name, value in options.items():
        if name not in fields:
            raise ValueError(f"unknown compression option '{name}'; wanted one of {', '.join(fields)}")
        try:
            setattr(message, name, _of_type(fields[name].cpp_type, value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"compression option {name} is '{value}': {error}") from error
    return message


def _of_type(cpp_type: int, value: Any) -> Any:
    if not isinstance(value, str) or cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return value
    if cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if value not in ("true", "false"):
            raise ValueError("wanted true or false")
        return value == "true"
    return float(value) if cpp_type == FieldDescriptor.CPPTYPE_DOUBLE else int(value)


def generate_request(
    prompt: str | None = None,
    *,
    messages: Sequence[Mapping[str, str]] | None = None,
    tokens: Sequence[int] | None = None,
    parse_special: bool = False,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: int = 0,
    forced_tokens: Sequence[int] = (),
    compression: Compression | None = None,
    ignore_end_tokens: bool = False,
    report_heads: bool = False,
) -> generation_pb2.GenerateRequest:
    """A request for text after `prompt`, after a chat's `messages` ({"role", "content"}), or after token ids.

    Everything that is None is the server's default. Raises ValueError unless exactly one of the three is given.
    """
    if sum(given is not None for given in (prompt, messages, tokens)) != 1:
        raise ValueError("wanted exactly one of prompt, messages and tokens")
    request = generation_pb2.GenerateRequest(
        parse_special=parse_special, max_tokens=max_tokens or 0, stop=stop, logprobs=logprobs,
        forced_tokens=forced_tokens, ignore_end_tokens=ignore_end_tokens, report_heads=report_heads)
    if prompt is not None:
        request.prompt = prompt
    elif messages is not None:
        request.chat.SetInParent()
        for message in messages:
            request.chat.messages.add(role=message["role"], content=message["content"])
    else:
        request.tokens.ids.extend(tokens or ())
        request.tokens.SetInParent()
    for name, value in (("temperature", temperature), ("top_p", top_p), ("top_k", top_k), ("seed", seed)):
        if value is not None:
            setattr(request.sampling, name, value)
    if compression is not None:
        request.compression.CopyFrom(compression_options(compression))
    return request
