"""One question to the running service, as a record."""

from __future__ import annotations

import kvship
from google.protobuf.json_format import MessageToDict
from kvship.v1 import types_pb2

from kvship_eval.cases import Case, score
from kvship_eval.policy import Policy
from kvship_eval.records import Record, digest


def holds_too_little(error: kvship.InvalidRequest) -> bool:
    """The budget does not hold the tokens that the policy always keeps: nothing to measure, and no mistake."""
    return "always kept" in str(error) or "does not begin at the prompt's start" in str(error)


def identity(model: types_pb2.ModelInfo) -> str:
    """Of what answers: the model, and the options of which requests say nothing."""
    return digest([model.identity.hex(), MessageToDict(model.default_compression)])


def ask(client: kvship.Client, case: Case, policy: Policy) -> Record | None:
    """The answer and what it cost; none where the budget does not hold the tokens that are always kept.

    Raises kvship.Error for anything else that fails.
    """
    try:
        result = client.generate(messages=[{"role": "user", "content": case.message}], max_tokens=case.max_tokens,
                                 compression=policy.asked)
    except kvship.InvalidRequest as error:
        if holds_too_little(error):
            return None
        raise
    return {
        "policy": policy.name,
        "options": policy.options,
        "prompt_tokens": result.usage.prompt_tokens,
        "text": result.text,
        "score": score(result.text, case.expected),
        **costs(result),
    }


def costs(result: kvship.Generation) -> Record:
    """What the service reports of cache and time."""
    return {
        "kept_tokens": result.kv.kept_tokens,
        "uncompressed_bytes": result.kv.uncompressed_bytes,
        "shipped_bytes": result.kv.shipped_bytes,
        "retained_mass": result.kv.retained_mass_mean,
        "chosen_mass": result.kv.chosen_mass_mean,
        "prefill_ms": result.timing.prefill_ms,
        "compress_ms": result.timing.compress_ms,
        "transfer_ms": result.timing.transfer_ms,
        "first_token_ms": result.timing.first_token_ms,
        "tokens_per_second": result.timing.tokens_per_second,
    }
