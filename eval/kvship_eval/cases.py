"""Needle cases: a document with facts hidden in it, a question at its end, and what a right answer holds.

The forms are RULER's (arXiv 2404.06654): one fact; one among others of the same kind; several facts of one key, all asked for;
facts of several keys, all asked for. Answers are digits, words or a sentence.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from kvship_eval.haystack import CHOOSE_TEXTS, REPORT_TEXTS, Haystack

FORMS = ("single", "multi_key", "multi_value", "multi_query")
ANSWERS = ("digits", "words", "sentence")

_PLACES = ("archive", "library", "harbour", "observatory", "laboratory", "greenhouse", "workshop", "theatre",
           "bakery", "museum", "lighthouse", "station")
_WORDS = ("amber", "falcon", "river", "copper", "meadow", "violin", "granite", "pepper", "lantern", "cedar", "silver",
          "walnut", "canyon", "marble", "orchid", "thunder", "velvet", "beacon", "saffron", "glacier")
_ACTS = ("feed the geese", "count the windows", "polish the brass bell", "draw a map of the garden",
         "sing to the old clock", "paint the gate green", "water the lemon trees", "read the names on the wall",
         "ring the small bell twice", "sweep the stone stairs")


@dataclass(frozen=True)
class Kind:
    """What a case asks for."""

    form: str
    answer: str

    def __str__(self) -> str:
        return f"{self.form}-{self.answer}"


# Each half has texts, seeds and pairings of form and answer of its own: settings chosen on one are reported on the other. Both make
# their sentences by the same patterns, of the same places and words.
HALVES = {
    "choose": (CHOOSE_TEXTS, 0, (Kind("single", "digits"), Kind("multi_key", "words"), Kind("multi_query", "digits"),
                                 Kind("single", "sentence"))),
    "report": (REPORT_TEXTS, 1_000_000, (Kind("single", "words"), Kind("multi_key", "digits"),
                                         Kind("multi_value", "digits"), Kind("multi_key", "sentence"))),
}


# What sets one half apart from the other, in words for captions.
SET_APART = "other texts, seeds and pairings of form and answer, in sentences of the same patterns"


@dataclass(frozen=True)
class Case:
    """A prompt and what its answer must hold."""

    message: str
    expected: tuple[str, ...]
    max_tokens: int


# English text in SmolLM2's tokenizer; prompts report their true length.
CHARS_PER_TOKEN = 4.6


def score(text: str, expected: tuple[str, ...]) -> float:
    """The share of what was expected that the text holds, case and spacing aside."""
    said = " ".join(text.lower().split())
    return sum(" ".join(part.lower().split()) in said for part in expected) / len(expected)


def _value(answer: str, rng: random.Random) -> str:
    if answer == "digits":
        return str(rng.randrange(1_000_000, 10_000_000))
    if answer == "words":
        return "-".join(rng.sample(_WORDS, 3))
    return rng.choice(_ACTS)


def _fact(answer: str, place: str, value: str) -> str:
    if answer == "sentence":
        return f"The best thing to do in the {place} is to {value}."
    name = "access code" if answer == "digits" else "password"
    return f"The {name} of the {place} is {value}."


def _question(answer: str, places: list[str], several: bool) -> str:
    asked = " and of the ".join(places) if answer != "sentence" else " and in the ".join(places)
    if answer == "sentence":
        return f"What is the best thing to do in the {asked}?"
    name = "access code" if answer == "digits" else "password"
    if several:
        return f"What are all the {name}s of the {asked}?"
    return f"What is the {name} of the {asked}?"


def make_case(kind: Kind, num_tokens: int, depth: float, seed: int, haystack: Haystack) -> Case:
    """A prompt of about num_tokens. The (first) fact that is asked for stands at `depth`, 0 to 1; others anywhere."""
    rng = random.Random(f"{kind}/{num_tokens}/{depth}/{seed}")
    num_chars = int(num_tokens * CHARS_PER_TOKEN)
    num_facts = {"single": 1, "multi_key": 4, "multi_value": 2, "multi_query": 2}[kind.form]
    places = rng.sample(_PLACES, num_facts)
    if kind.form == "multi_value":
        places = places[:1] * num_facts
    values: list[str] = []
    while len(values) < num_facts:
        value = _value(kind.answer, rng)
        if value not in values:
            values.append(value)
    facts = [_fact(kind.answer, place, value) for place, value in zip(places, values)]
    num_asked = 1 if kind.form in ("single", "multi_key") else num_facts
    asked = places[:1] if kind.form == "multi_value" else places[:num_asked]

    paragraphs = haystack.paragraphs(num_chars - sum(map(len, facts)), rng)
    depths = [depth] + [rng.random() for _ in facts[1:]]
    # From the back, so that earlier places stay where they are.
    for at, fact in sorted(zip(depths, facts), reverse=True):
        paragraphs.insert(round(at * len(paragraphs)), fact)
    document = "\n\n".join(paragraphs)
    question = _question(kind.answer, asked, kind.form == "multi_value")
    message = f"Read this document.\n\n{document}\n\nAnswer from the document. {question}"
    return Case(message, tuple(values[:num_asked]), max_tokens=24 * num_asked + 8)
