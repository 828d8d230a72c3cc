"""How each of LongBench's 16 English and code sets is asked and scored (arXiv 2308.14508).

Prompts are in words of our own, with the content and the order of the published ones; files in the published format take
their place.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvship_eval import metrics

Metric = Callable[[str, str, Sequence[str]], float]


def _plain(metric: Callable[[str, str], float]) -> Metric:
    return lambda answer, reference, _: metric(answer, reference)


@dataclass(frozen=True)
class Set:
    """How one set is asked and scored. `template` has {context} and, where there is a question, {input}."""

    template: str
    max_tokens: int
    metric: Metric
    # Only the answer's first line counts: few-shot prompts make models go on with the next example.
    first_line: bool = False

    def score(self, answer: str, references: Sequence[str], classes: Sequence[str]) -> float:
        """The best over the references; 0 where there are none."""
        if self.first_line:
            answer = answer.lstrip("\n").split("\n")[0]
        return max((self.metric(answer, reference, classes) for reference in references), default=0.0)


_F1, _ROUGE, _CODE = _plain(metrics.token_f1), _plain(metrics.rouge_l), _plain(metrics.code_similarity)
_BRIEF = "Give the answer alone, without any other words."
_PASSAGES = Set(f"Use these passages to answer a question. {_BRIEF}\n\nThe passages:\n{{context}}\n\nUse the passages above to "
                f"answer this question. {_BRIEF}\n\nQuestion: {{input}}\nAnswer:", 32, _F1)

SETS: dict[str, Set] = {
    "narrativeqa": Set("Here is a story, a novel or a script, and a question about it. Answer in one short phrase, without "
                       "explaining.\n\nStory: {context}\n\nAnswer this question about the story in one short phrase, without "
                       "explaining.\n\nQuestion: {input}\n\nAnswer:", 128, _F1),
    "qasper": Set("Here is a scientific article and a question about it. Answer in a phrase or a sentence; say \"unanswerable\" "
                  "if the article does not tell, and \"yes\" or \"no\" where that is the question.\n\nArticle: {context}\n\n"
                  "Answer from the article in a phrase or a sentence, or with \"unanswerable\", \"yes\" or \"no\", without "
                  "explaining.\n\nQuestion: {input}\n\nAnswer:", 128, _F1),
    "multifieldqa_en": Set(f"Read this text, then answer a question.\n\n{{context}}\n\nAnswer the question from the text above. "
                           f"{_BRIEF}\n\nQuestion: {{input}}\nAnswer:", 64, _F1),
    "hotpotqa": _PASSAGES,
    "2wikimqa": _PASSAGES,
    "musique": _PASSAGES,
    "gov_report": Set("Here is a report of a government agency, to be summed up on one page.\n\nReport:\n{context}\n\nSum up the "
                      "report on one page.\n\nSummary:", 512, _ROUGE),
    "qmsum": Set("Here is what was said in a meeting, and something to be answered about it in a few sentences.\n\nTranscript:\n"
                 "{context}\n\nAnswer in a few sentences from the transcript above.\n\nQuery: {input}\nAnswer:", 512, _ROUGE),
    "multi_news": Set("Here are several news articles, to be summed up together on one page.\n\nNews:\n{context}\n\nSum up all of "
                      "the news on one page.\n\nSummary:", 512, _ROUGE),
    "trec": Set("What type does the last question have? These examples show the types.\n\n{context}\n{input}", 64,
                metrics.classification, first_line=True),
    "triviaqa": Set(f"Answer the question from its passage. {_BRIEF} Some examples first.\n\n{{context}}\n\n{{input}}", 32, _F1,
                    first_line=True),
    "samsum": Set("Sum up the last dialogue in a few short sentences, as in these examples.\n\n{context}\n\n{input}", 128, _ROUGE,
                  first_line=True),
    "passage_count": Set("Below are paragraphs from Wikipedia, some of them more than once. Read them and count how many "
                         "different ones there are.\n\n{context}\n\nHow many different paragraphs are there? Write the number "
                         "alone, like 1, 2 or 3.\n\nThe number is: ", 32, _plain(metrics.count)),
    "passage_retrieval_en": Set("Below are 30 paragraphs from Wikipedia and the summary of one of them. Find the paragraph.\n\n"
                                "{context}\n\nThe summary:\n\n{input}\n\nWhich paragraph does it sum up? Answer like "
                                "\"Paragraph 1\" or \"Paragraph 2\".\n\nThe answer is: ", 32, _plain(metrics.retrieval)),
    "lcc": Set("Complete this code.\n{context}The next line of the code:\n", 64, _CODE),
    "repobench-p": Set("Complete this code.\n{context}{input}The next line of the code:\n", 64, _CODE),
}
# Few-shot and code prompts never become a user's message, whatever the model: as published.
AS_TEXT = ("trec", "triviaqa", "samsum", "lcc", "repobench-p")


def _read(path: Path, names: Sequence[str], kind: type, wanted: str) -> dict[str, Any]:
    """Set -> value from a JSON file. Raises ValueError naming file and set."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; wanted an object of sets")
    for name in names:
        if name not in values:
            raise ValueError(f"{path} has nothing for the set '{name}'; wanted {wanted}, or --sets without it")
        if type(values[name]) is not kind:
            raise ValueError(f"{path}: '{name}' is {values[name]!r}; wanted {wanted}")
    return values


def _check_template(path: Path, name: str, template: str) -> None:
    try:
        fields = [field for _, field, spec, conversion in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"{path}: the prompt of '{name}' cannot be filled in: {error}") from error
    for field in fields:
        if field not in ("context", "input"):
            raise ValueError(f"{path}: the prompt of '{name}' has the placeholder {{{field}}}; wanted {{context}} and {{input}}")
    if "context" not in fields:
        raise ValueError(f"{path}: the prompt of '{name}' has no placeholder {{context}}")


def chosen(names: Sequence[str], prompts: Path | None, max_lengths: Path | None) -> dict[str, Set]:
    """The sets, with prompts and output lengths from files in the published format where such are given.

    That is an object of set -> prompt with {context} and {input} (dataset2prompt.json), and one of set -> output tokens
    (dataset2maxlen.json). Raises ValueError naming file, set and what was wanted.
    """
    sets = {name: SETS[name] for name in names}
    if prompts is not None:
        templates = _read(prompts, names, str, "its prompt")
        for name in names:
            _check_template(prompts, name, templates[name])
            sets[name] = replace(sets[name], template=templates[name])
    if max_lengths is not None:
        lengths = _read(max_lengths, names, int, "its output tokens, at least 1")
        for name in names:
            if lengths[name] < 1:
                raise ValueError(f"{max_lengths}: '{name}' is {lengths[name]}; wanted its output tokens, at least 1")
            sets[name] = replace(sets[name], max_tokens=lengths[name])
    return sets
