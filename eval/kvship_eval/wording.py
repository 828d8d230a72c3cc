"""Sentences of needle cases: what the facts are about, and how they are told and asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sentences:
    """Of facts with one sort of answer."""

    fact: str  # with {place} and {value}
    question: str  # with {places}
    plural_question: str  # the same, where a place has several values
    joint: str  # between places


@dataclass(frozen=True)
class Wording:
    """Places, the parts of values, and the sentences for each sort of answer."""

    places: Sequence[str]
    words: Sequence[str]
    acts: Sequence[str]
    sentences: Mapping[str, Sentences]


CHOOSE = Wording(
    places=("archive", "library", "harbour", "observatory", "laboratory", "greenhouse", "workshop", "theatre", "bakery", "museum",
            "lighthouse", "station"),
    words=("amber", "falcon", "river", "copper", "meadow", "violin", "granite", "pepper", "lantern", "cedar", "silver", "walnut",
           "canyon", "marble", "orchid", "thunder", "velvet", "beacon", "saffron", "glacier"),
    acts=("feed the geese", "count the windows", "polish the brass bell", "draw a map of the garden", "sing to the old clock",
          "paint the gate green", "water the lemon trees", "read the names on the wall", "ring the small bell twice",
          "sweep the stone stairs"),
    sentences={
        "digits": Sentences("The access code of the {place} is {value}.", "What is the access code of the {places}?",
                            "What are all the access codes of the {places}?", " and of the "),
        "words": Sentences("The password of the {place} is {value}.", "What is the password of the {places}?",
                           "What are all the passwords of the {places}?", " and of the "),
        "sentence": Sentences("The best thing to do in the {place} is to {value}.",
                              "What is the best thing to do in the {places}?",
                              "What are all the best things to do in the {places}?", " and in the "),
    })

REPORT = Wording(
    places=("hotel", "castle", "bridge", "factory", "monastery", "orchard", "quarry", "stadium", "ferry", "hospital", "windmill",
            "embassy"),
    words=("ivory", "sparrow", "tunnel", "cobalt", "prairie", "trumpet", "basalt", "ginger", "candle", "willow", "bronze", "almond",
           "lagoon", "pebble", "tulip", "blizzard", "cotton", "compass", "vanilla", "iceberg"),
    acts=("tune the grand piano", "wind up the tower clock", "hang blue curtains", "bury a jar of coins", "whistle to the horses",
          "mend the fishing nets", "plant three cherry trees", "copy the oldest letter", "knock on the red door",
          "carry the chairs outside"),
    sentences={
        "digits": Sentences("For the {place}, the phone number is {value}.", "What is the phone number for the {places}?",
                            "What are all the phone numbers for the {places}?", " and for the "),
        "words": Sentences("The motto above the door of the {place} is {value}.",
                           "What is the motto above the door of the {places}?",
                           "What are all the mottos above the door of the {places}?", " and of the "),
        "sentence": Sentences("Visitors to the {place} are asked to {value}.", "What are visitors to the {places} asked to do?",
                              "What are all the things that visitors to the {places} are asked to do?", " and to the "),
    })
