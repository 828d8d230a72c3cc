"""LongBench (arXiv 2308.14508): its 16 English and code sets from local JSONL, as published; prints the paper's Table 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import kvship
import numpy as np
from tqdm import tqdm

from kvship_eval import metrics
from kvship_eval.cases import CHARS_PER_TOKEN
from kvship_eval.policy import Policy
from kvship_eval.records import Record, Records
from kvship_eval.service import costs

Metric = Callable[[str, str, Sequence[str]], float]


def _plain(metric: Callable[[str, str], float]) -> Metric:
    return lambda answer, reference, _: metric(answer, reference)


@dataclass(frozen=True)
class Set:
    """How one set is asked and scored. `template` has {context} and {input}."""

    template: str
    max_tokens: int
    metric: Metric
    first_line: bool = False


_QA = ("Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\nThe "
       "following are given passages.\n{context}\n\nAnswer the question based on the given passages. Only give me the answer "
       "and do not output any other words.\n\nQuestion: {input}\nAnswer:")
_F1, _ROUGE = _plain(metrics.token_f1), _plain(metrics.rouge_l)

SETS: dict[str, Set] = {
    "narrativeqa": Set("You are given a story and a question. Answer the question as concisely as you can, using a single phrase "
                       "if possible.\n\nStory: {context}\n\nQuestion: {input}\n\nAnswer:", 128, _F1),
    "qasper": Set("You are given a scientific article and a question. Answer the question as concisely as you can. If it cannot "
                  "be answered from the article, write \"unanswerable\".\n\nArticle: {context}\n\nQuestion: {input}\n\nAnswer:",
                  128, _F1),
    "multifieldqa_en": Set("Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following question based "
                           "on the above text, only give me the answer and do not output any other words.\n\nQuestion: {input}\n"
                           "Answer:", 64, _F1),
    "hotpotqa": Set(_QA, 32, _F1),
    "2wikimqa": Set(_QA, 32, _F1),
    "musique": Set(_QA, 32, _F1),
    "gov_report": Set("You are given a report by a government agency. Write a one-page summary of the report.\n\nReport:\n"
                      "{context}\n\nNow, write a one-page summary of the report.\n\nSummary:", 512, _ROUGE),
    "qmsum": Set("You are given a meeting transcript and a query. Answer the query in one or more sentences.\n\nTranscript:\n"
                 "{context}\n\nQuery: {input}\nAnswer:", 512, _ROUGE),
    "multi_news": Set("You are given several news passages. Write a one-page summary of all news.\n\nNews:\n{context}\n\nNow, "
                      "write a one-page summary of all the news.\n\nSummary:", 512, _ROUGE),
    "trec": Set("Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}", 64,
                metrics.classification, first_line=True),
    "triviaqa": Set("Answer the question based on the given passage. Only give me the answer and do not output any other words. "
                    "The following are some examples.\n\n{context}\n\n{input}", 32, _F1, first_line=True),
    "samsum": Set("Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n\n{input}",
                  128, _ROUGE, first_line=True),
    "passage_count": Set("There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Determine how "
                         "many unique paragraphs there are.\n\n{context}\n\nPlease enter the final count of unique paragraphs "
                         "after removing duplicates, as a single number.\n\nThe final answer is: ", 32, _plain(metrics.count)),
    "passage_retrieval_en": Set("Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph "
                                "the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\nPlease enter "
                                "the number of the paragraph that the abstract is from, like \"Paragraph 1\".\n\nThe answer is: ",
                                32, _plain(metrics.retrieval)),
    "lcc": Set("Please complete the code given below. \n{context}Next line of code:\n", 64, _plain(metrics.code_similarity)),
    "repobench-p": Set("Please complete the code given below. \n{context}{input}Next line of code:\n", 64,
                       _plain(metrics.code_similarity)),
}
# Few-shot and code prompts go to the model as they are; the others as a user's message.
AS_TEXT = ("trec", "triviaqa", "samsum", "lcc", "repobench-p")


def score(name: str, answer: str, references: Sequence[str], classes: Sequence[str]) -> float:
    """The best over the references, as published."""
    study = SETS[name]
    if study.first_line:
        answer = answer.lstrip("\n").split("\n")[0]
    return max(study.metric(answer, reference, classes) for reference in references)


def load(name: str, folder: Path | None) -> list[dict[str, Any]]:
    """The questions of a set: FOLDER/NAME.jsonl in the published format, or the synthetic sample's.

    Raises ValueError naming file, line and field.
    """
    path = folder / f"{name}.jsonl" if folder else None
    try:
        text = path.read_text(encoding="utf-8") if path else (files("kvship_eval") / "data/longbench.jsonl").read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; wanted LongBench's {name} as JSON lines") from error
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path or 'sample'}:{number}"
        try:
            question = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        for field, kind in (("input", str), ("context", str), ("answers", list)):
            if not isinstance(question.get(field), kind):
                raise ValueError(f"{where}: field '{field}' is {question.get(field)!r}; wanted a {kind.__name__}")
        if path or question.get("dataset") == name:
            questions.append(question)
    return questions


def cut_middle(text: str, max_tokens: int) -> str:
    """The text without its middle, where it is longer: as published, the question often stands at an end."""
    num_chars = int(max_tokens * CHARS_PER_TOKEN * 0.85)  # code has shorter tokens
    if len(text) <= num_chars:
        return text
    return text[: num_chars // 2] + text[-(num_chars // 2):]


def run(client: kvship.Client, folder: Path, policies: Sequence[Policy], sets: Sequence[str], data: Path | None, context: int,
        limit: int | None) -> Records:
    """Every question of the sets under every policy."""
    records = Records(folder, "longbench")
    work = [(name, i, question, policy) for name in sets for i, question in enumerate(load(name, data)[:limit])
            for policy in policies]
    for name, i, question, policy in tqdm(work, desc="longbench"):
        key = f"{name}/{i}/{policy.name}"
        if key in records:
            continue
        study = SETS[name]
        prompt = cut_middle(study.template.format(context=question["context"], input=question["input"]), context)
        asked: dict[str, Any] = {"max_tokens": study.max_tokens, "compression": policy.options}
        if name in AS_TEXT:
            result = client.generate(prompt, **asked)
        else:
            result = client.generate(messages=[{"role": "user", "content": prompt}], **asked)
        records.add(key, {"set": name, "policy": policy.name, "options": policy.options, "text": result.text,
                          "score": score(name, result.text, question["answers"], question.get("all_classes") or []),
                          "prompt_tokens": result.usage.prompt_tokens, **costs(result)})
    return records


def table(records: Sequence[Record]) -> str:
    """Table 1's layout: means x 100 per set, the paper's rows below ours."""
    policies = list(dict.fromkeys(record["policy"] for record in records))
    paper = json.loads((files("kvship_eval") / "data/paper_table1.json").read_text("utf-8"))
    lines = [" ".join([f"{'':34}", *(f"{name[:9]:>9}" for name in SETS), f"{'mean':>9}"])]

    def add(label: str, cells: list[float]) -> None:
        mean = float(np.nanmean(cells)) if not all(map(np.isnan, cells)) else float("nan")
        lines.append(" ".join([f"{label[:34]:34}", *("        -" if np.isnan(cell) else f"{cell:9.2f}" for cell in cells),
                               f"{mean:9.2f}"]))

    for policy in policies:
        cells = []
        for name in SETS:
            scores = [r["score"] for r in records if (r["set"], r["policy"]) == (name, policy)]
            cells.append(100 * float(np.mean(scores)) if scores else float("nan"))
        add(policy, cells)
    lines.append("the paper's (arXiv 2404.14469, Table 1):")
    for row in paper["rows"]:
        add(f"{row['model']}, {row['method']}", [float(cell) for cell in row["scores"].values()])
    return "\n".join(lines) + "\n"


def plot(folder: Path) -> list[Path]:
    """The table, as a text file."""
    records = list(Records(folder, "longbench"))
    if not records:
        return []
    path = folder / "longbench.txt"
    path.write_text(table(records), encoding="utf-8")
    return [path]
