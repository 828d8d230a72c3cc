"""LongBench (arXiv 2308.14508): its 16 English and code sets from local JSONL, as published; prints the paper's Table 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import kvship
import numpy as np
from tqdm import tqdm

from kvship_eval import metrics
from kvship_eval.longbench_sets import AS_TEXT, SETS, Set
from kvship_eval.plots import describe
from kvship_eval.policy import Policy
from kvship_eval.records import Record, Records
from kvship_eval.service import costs

_DATA = files("kvship_eval") / "data"


def load(name: str, folder: Path | None) -> list[dict[str, Any]]:
    """The questions of a set: FOLDER/NAME.jsonl in the published format, or the synthetic sample's.

    Raises ValueError naming file, line and field.
    """
    path = folder / f"{name}.jsonl" if folder else None
    try:
        text = (path or _DATA / "longbench.jsonl").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; wanted LongBench's {name} as JSON lines") from error
    wanted = [("input", str), ("context", str), ("answers", list)]
    if SETS[name].metric is metrics.classification:
        wanted.append(("all_classes", list))
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path or 'sample'}:{number}"
        try:
            question = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        if path is None and question["dataset"] != name:
            continue
        for field, kind in wanted:
            if not isinstance(question.get(field), kind):
                raise ValueError(f"{where}: field '{field}' is {question.get(field)!r}; wanted a {kind.__name__}")
        questions.append(question)
    return questions


def cut_middle(client: kvship.Client, text: str, max_tokens: int) -> str:
    """The text; where it is longer, its first and its last max_tokens / 2 tokens, as published."""
    ids = client.tokenize(text)
    if len(ids) <= max_tokens:
        return text
    half = max_tokens // 2
    return client.detokenize(ids[:half]) + client.detokenize(ids[len(ids) - half:])


def _ask(client: kvship.Client, as_text: bool, prompt: str, max_tokens: int, policy: Policy) -> kvship.Generation:
    asked: dict[str, Any] = {"max_tokens": max_tokens, "compression": policy.asked}
    if as_text:
        return client.generate(prompt, **asked)
    return client.generate(messages=[{"role": "user", "content": prompt}], **asked)


def run(client: kvship.Client, records: Records, policies: Sequence[Policy], sets: Mapping[str, Set], data: Path | None,
        context: int, limit: int | None, chat: bool = True) -> None:
    """Every question of the sets under every policy, at most `limit` of each set; prompts are cut to `context` tokens.

    Those of AS_TEXT, and without `chat` all, go to the model as they are; the others as a user's message.
    """
    questions = [(name, i, question) for name in sets for i, question in enumerate(load(name, data)[:limit])]
    with tqdm(total=len(questions) * len(policies), desc="longbench") as bar:
        for name, i, question in questions:
            study = sets[name]
            as_text = not chat or name in AS_TEXT
            whole = study.template.format(context=question["context"], input=question["input"])
            answers, classes = question["answers"], question.get("all_classes") or []
            prompt = None
            for policy in policies:
                bar.update()
                key = f"{name}/{i}/{policy.name}"
                asked = whole, context, as_text, study.max_tokens, answers, classes, policy.options
                if records.holds(key, asked):
                    continue
                if prompt is None:
                    prompt = cut_middle(client, whole, context)
                result = _ask(client, as_text, prompt, study.max_tokens, policy)
                score = study.score(result.text, answers, classes)
                records.add(key, asked, {"set": name, "policy": policy.name, "options": policy.options, "text": result.text,
                                         "score": score, "prompt_tokens": result.usage.prompt_tokens, **costs(result)})


def table(records: Sequence[Record]) -> str:
    """Table 1's layout: means x 100 per set, the paper's rows below ours."""
    policies = list(dict.fromkeys(record["policy"] for record in records))
    paper = json.loads((_DATA / "paper_table1.json").read_text("utf-8"))
    lines = [" ".join([f"{'':40}", *(f"{name[:9]:>9}" for name in SETS), f"{'mean':>9}"])]

    def add(label: str, cells: list[float]) -> None:
        mean = float(np.nanmean(cells)) if not all(map(np.isnan, cells)) else float("nan")
        lines.append(" ".join([f"{label[:40]:40}", *("        -" if np.isnan(cell) else f"{cell:9.2f}" for cell in cells),
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
    num_sets = len({record["set"] for record in records})
    describe(folder, "longbench", "LongBench in the layout of SnapKV's Table 1",
             f"{len(records)} answers to questions of {num_sets} of LongBench's 16 English and code sets, greedy; scores are the "
             "published metrics, means x 100. The paper's own rows, of models of 7B and more, stand below for the layout: only "
             "rows of one model and one prompt can be compared.")
    return [path]
