"""LongBench's metrics (arXiv 2308.14508), each of one answer against one reference, 0 to 1.

They give what the published evaluation gives, its corner cases included, so that scores can be held against published ones.
"""

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
    """Harmonic mean of precision and recall over words, in SQuAD's normal form; 0 where no word is shared."""
    said, wanted = normalise(answer).split(), normalise(reference).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _sentences(text: str) -> list[list[str]]:
    """The words of each stretch between full stops. One of blanks alone is one empty word, as in the package `rouge`."""
    return [stretch.split() or [""] for stretch in text.split(".") if stretch]


def _common_words(said: Sequence[str], wanted: Sequence[str]) -> set[str]:
    """The words of the longest common subsequence that is found from the end, stepping back in `said` on ties."""
    longest = [[0] * (len(said) + 1) for _ in range(len(wanted) + 1)]
    for i, word in enumerate(wanted):
        for j, other in enumerate(said):
            longest[i + 1][j + 1] = longest[i][j] + 1 if word == other else max(longest[i][j + 1], longest[i + 1][j])
    words = set()
    i, j = len(wanted), len(said)
    while i and j:
        if wanted[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            words.add(wanted[i])
        elif longest[i - 1][j] > longest[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L's f over whole summaries, as the package `rouge` 1.0 has it, which the published evaluation uses.

    Counted are different words: those that lie on a longest common subsequence of any sentence of the answer with any of the
    reference, against all of the answer and all of the reference. 0 where either has no sentence.
    """
    said, wanted = _sentences(answer), _sentences(reference)
    if not said or not wanted:
        return 0.0
    shared = set().union(*(_common_words(ours, theirs) for theirs in wanted for ours in said))
    precision = len(shared) / len(set().union(*said))
    recall = len(shared) / len(set().union(*wanted))
    return 2 * precision * recall / (precision + recall + 1e-8)


def classification(answer: str, reference: str, classes: Sequence[str]) -> float:
    """One over the number of classes that the answer names, where the right one is among them.

    A name that is a part of the right one does not count; but of several such names in a row every second one does: the
    published evaluation takes names out of the list that it is walking along.
    """
    named = [name for name in classes if name in answer]
    place = 0
    while place < len(named):
        if named[place] != reference and named[place] in reference:
            named.remove(named[place])
        place += 1
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
    return _share_of_numbers(answer, reference)


def code_similarity(answer: str, reference: str) -> float:
    """Edit similarity, in hundredths, of the first line without a mark of comments or of Markdown; of none, that of "".

    fuzzywuzzy's ratio in its form without C code: twice the characters of matching blocks over all characters.
    """
    line = next((line for line in answer.lstrip("\n").split("\n") if not any(mark in line for mark in ("`", "#", "//"))), "")
    return round(100 * difflib.SequenceMatcher(None, line, reference).ratio()) / 100
