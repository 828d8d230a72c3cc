"""LongBench's metrics (arXiv 2308.14508), each of one answer against one reference, 0 to 1."""

from __future__ import annotations

import difflib
import re
import string
from collections import Counter
from collections.abc import Sequence


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, in SQuAD's normal form."""
    said, wanted = normalise(answer).split(), normalise(reference).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L's f: the longest common subsequence of words against both lengths."""
    said, wanted = answer.split(), reference.split()
    if not said or not wanted:
        return 0.0
    row = [0] * (len(wanted) + 1)
    for word in said:
        diagonal = 0
        for j, other in enumerate(wanted, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    longest = row[-1]
    if longest == 0:
        return 0.0
    precision, recall = longest / len(said), longest / len(wanted)
    return 2 * precision * recall / (precision + recall)


def classification(answer: str, reference: str, classes: Sequence[str]) -> float:
    """One over the number of classes named, where the right one is among them; a name within the right one's does not count."""
    named = [name for name in classes if name in answer]
    named = [name for name in named if not (name in reference and name != reference)]
    return 1 / len(named) if reference in named else 0.0


def _share_of_numbers(answer: str, wanted: str) -> float:
    numbers = re.findall(r"\d+", answer)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def retrieval(answer: str, reference: str) -> float:
    """The share of the answer's numbers that are the reference's paragraph ("Paragraph 12")."""
    found = re.search(r"Paragraph (\d+)", reference)
    if found is None:
        raise ValueError(f"reference '{reference}' names no paragraph; wanted 'Paragraph N'")
    return _share_of_numbers(answer, found.group(1))


def count(answer: str, reference: str) -> float:
    """The share of the answer's numbers that are the reference."""
    return _share_of_numbers(answer, str(reference).strip())


def code_similarity(answer: str, reference: str) -> float:
    """Edit similarity of the first line that is code: fuzzywuzzy's ratio, which is difflib's, rounded to hundredths."""
    line = next((line for line in answer.lstrip("\n").split("\n")
                 if not any(mark in line for mark in ("`", "#", "//"))), "")
    if not line or not reference:
        return 0.0
    return round(difflib.SequenceMatcher(None, line, reference).ratio(), 2)
