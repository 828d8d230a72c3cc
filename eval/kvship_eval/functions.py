"""Function calls: a prompt full of function descriptions, and a request that one of them does.

Names and parameters are drawn, so that the request does not give them away: what deletes may be purge_, drop_, discard_ or erase_.
Others do the same to other things, or other things to the same. There are 144, of 10K tokens together.
"""

from __future__ import annotations

import json
import random

# What is asked for, what it is described as, and what it may be called.
TASKS = (
    ("delete", "Removes", ("purge", "drop", "discard", "erase")),
    ("create", "Adds", ("register", "open", "issue", "compose")),
    ("look up", "Returns", ("fetch", "load", "read", "retrieve")),
    ("approve", "Accepts", ("confirm", "grant", "endorse", "clear")),
    ("postpone", "Delays", ("defer", "reschedule", "hold", "shift")),
    ("hand over", "Transfers", ("assign", "pass", "route", "delegate")),
)
THINGS = ("invoice", "ticket", "shipment", "contract", "payment", "appointment", "complaint", "subscription", "refund", "lease",
          "voucher", "report", "permit", "booking", "delivery", "inspection", "warranty", "order", "claim", "survey", "account",
          "project", "recipe", "lesson")
# Roughly: in Qwen2.5's tokenizer prompts come out some 20 to 30 % longer than asked for, and report their true length.
CHARS_PER_TOKEN = 3.9
KEYS = ("serial", "reference", "code", "handle", "locator", "docket")
URGENCIES = ("low", "normal", "high")


def _function(task: tuple[str, str, tuple[str, ...]], thing: str, rng: random.Random) -> tuple[str, str, str]:
    """Its name, the parameter that names the thing, and its description as JSON."""
    _, describes, names = task
    name, key = f"{rng.choice(names)}_{thing}", rng.choice(KEYS)
    properties = {key: {"type": "string"}, "urgency": {"type": "string", "enum": URGENCIES}}
    return name, key, json.dumps({"name": name, "description": f"{describes} one {thing} of the customer's.",
                                  "parameters": {"type": "object", "properties": properties, "required": list(properties)}})


def prompt(num_tokens: int, depth: float, rng: random.Random) -> tuple[str, tuple[str, str]]:
    """About num_tokens of descriptions, that of the right one at `depth`, and a request; and the name and parameter that are right."""
    task, thing = rng.choice(TASKS), rng.choice(THINGS)
    name, key, described = _function(task, thing, rng)
    others = [(a, b) for a in TASKS for b in THINGS if (a, b) != (task, thing)]
    lines: list[str] = []
    total, most = len(described), int(num_tokens * CHARS_PER_TOKEN)
    for other in rng.sample(others, len(others)):
        if total >= most:
            break
        lines.append(_function(*other, rng)[2])
        total += len(lines[-1]) + 1
    lines.insert(round(depth * len(lines)), described)
    request = f"Please {task[0]} the {thing} {rng.randrange(100_000, 1_000_000)}, with {rng.choice(URGENCIES)} urgency."
    return ("These functions can be called:\n\n" + "\n".join(lines) + "\n\nAnswer with the one call that does what is asked for, as "
            f"JSON with the fields name and arguments. {request}"), (name, key)
