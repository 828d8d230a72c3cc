"""How far a compressed cache's next-token distributions are from the full cache's, teacher-forced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import kvship


def kl_and_agreement(full: Sequence[kvship.Token], other: Sequence[kvship.Token]) -> tuple[float, float]:
    """Mean KL divergence (nats) of the full cache's distribution from the other's, and the share of equal top tokens.

    Both are the same forced tokens with the logprobs of the likeliest. What neither list names is one outcome, "the rest";
    a token that the other list lacks has at most that list's least probability there. So the divergence is a lower bound
    that is close where the lists hold most of the probability.
    """
    if len(full) != len(other) or not full:
        raise ValueError(f"{len(full)} and {len(other)} forced tokens cannot be compared; wanted equally many, at least one")
    total = 0.0
    agree = 0
    for ours, theirs in zip(full, other):
        p = {token: math.exp(logprob) for token, logprob in ours.top}
        q = {token: math.exp(logprob) for token, logprob in theirs.top}
        least = min(q.values())
        kl = 0.0
        shared = 0.0
        for token, probability in p.items():
            likely = q.get(token, min(least, max(1e-12, 1 - sum(q.values()))))
            shared += likely
            kl += probability * math.log(probability / likely) if probability > 0 else 0.0
        rest_p, rest_q = max(1e-12, 1 - sum(p.values())), max(1e-12, 1 - shared)
        kl += rest_p * math.log(rest_p / rest_q)
        total += max(0.0, kl)
        agree += max(p, key=p.__getitem__) == max(q, key=q.__getitem__)
    return total / len(full), agree / len(full)
