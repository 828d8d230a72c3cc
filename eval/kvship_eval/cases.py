"""Needle cases: a document with facts hidden in it, a question at its end, and what a right answer holds.

The forms are RULER's (arXiv 2404.06654): one fact; one among others of the same kind; several facts of one key, all asked for;
facts of several keys, all asked for. Answers are digits, words or a sentence. Or the document is one of functions, one of which
is to be called.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvship_eval import functions, wording
from kvship_eval.haystack import CHARS_PER_TOKEN, CHOOSE_TEXTS, REPORT_TEXTS, Haystack
from kvship_eval.wording import Wording

FORMS = ("single", "multi_key", "multi_value", "multi_query")
ANSWERS = ("digits", "words", "sentence")


@dataclass(frozen=True)
class Kind:
    """What a case asks for."""

    form: str
    answer: str

    def __str__(self) -> str:
        return f"{self.form}-{self.answer}"


# Which function of many to call, and with what (functions.py). In no half: the demo model cannot do it.
FUNCTION_CALL = Kind("function", "call")


@dataclass(frozen=True)
class Half:
    """What cases are made of, and the kinds that are asked."""

    texts: Sequence[Path]
    wording: Wording
    kinds: Sequence[Kind]
    seed: int


# Settings are chosen on one half and reported on the other.
HALVES = {
    "choose": Half(CHOOSE_TEXTS, wording.CHOOSE, (Kind("single", "digits"), Kind("multi_key", "words"),
                                                  Kind("multi_query", "digits"), Kind("single", "sentence")), 0),
    "report": Half(REPORT_TEXTS, wording.REPORT, (Kind("single", "words"), Kind("multi_key", "digits"),
                                                  Kind("multi_value", "digits"), Kind("multi_key", "sentence")), 1_000_000),
}

# What sets one half apart from the other, in words for captions.
SET_APART = "other texts, sentences, places, seeds and pairings of form and answer"


@dataclass(frozen=True)
class Case:
    """A prompt and what its answer must hold."""

    message: str
    expected: tuple[str, ...]
    max_tokens: int


def score(text: str, expected: tuple[str, ...]) -> float:
    """The share of what was expected that the text holds, case and spacing aside."""
    said = " ".join(text.lower().split())
    return sum(" ".join(part.lower().split()) in said for part in expected) / len(expected)


class Cases:
    """The cases of a half. Raises ValueError for texts that cannot be read."""

    def __init__(self, half: Half) -> None:
        self.kinds = half.kinds
        self.seed = half.seed
        self._wording = half.wording
        self._haystack = Haystack(half.texts)

    def needle(self, kind: Kind, num_tokens: int, depth: float, i: int = 0) -> Case:
        """The i-th such prompt of about num_tokens. The (first) fact asked for stands at `depth`, 0 to 1; others anywhere."""
        rng = random.Random(f"{kind}/{num_tokens}/{depth}/{self.seed + i}")
        if kind == FUNCTION_CALL:
            return Case(*functions.prompt(num_tokens, depth, rng), max_tokens=48)
        num_facts = {"single": 1, "multi_key": 4, "multi_value": 2, "multi_query": 2}[kind.form]
        places = rng.sample(self._wording.places, num_facts)
        if kind.form == "multi_value":
            places = places[:1] * num_facts
        values: list[str] = []
        while len(values) < num_facts:
            value = self._value(kind.answer, rng)
            if value not in values:
                values.append(value)
        sentences = self._wording.sentences[kind.answer]
        facts = [sentences.fact.format(place=place, value=value) for place, value in zip(places, values)]
        num_asked = 1 if kind.form in ("single", "multi_key") else num_facts
        asked = sentences.joint.join(places[:1] if kind.form == "multi_value" else places[:num_asked])
        question = sentences.plural_question if kind.form == "multi_value" else sentences.question

        paragraphs = self._haystack.paragraphs(int(num_tokens * CHARS_PER_TOKEN) - sum(map(len, facts)), rng)
        depths = [depth] + [rng.random() for _ in facts[1:]]
        # From the back, so that earlier places stay where they are.
        for at, fact in sorted(zip(depths, facts), reverse=True):
            paragraphs.insert(round(at * len(paragraphs)), fact)
        document = "\n\n".join(paragraphs)
        message = f"Read this document.\n\n{document}\n\nAnswer from the document. {question.format(places=asked)}"
        return Case(message, tuple(values[:num_asked]), max_tokens=24 * num_asked + 8)

    def summary(self, num_tokens: int, i: int, max_tokens: int) -> Case:
        """The i-th document to be summed up: its answer leans on all of it."""
        rng = random.Random(f"summary/{num_tokens}/{self.seed + i}")
        document = self._haystack.document(num_tokens, rng)
        return Case(f"Read this document.\n\n{document}\n\nSum up what the document says.", ("",), max_tokens)

    def _value(self, answer: str, rng: random.Random) -> str:
        if answer == "digits":
            return str(rng.randrange(1_000_000, 10_000_000))
        if answer == "words":
            return "-".join(rng.sample(self._wording.words, 3))
        return rng.choice(self._wording.acts)
