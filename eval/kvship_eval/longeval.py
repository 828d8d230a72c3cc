"""LongEval-Lines: registers of many lines, one asked for; lengths x depths, with and without pooling.

The paper's Fig. 8 (arXiv 2404.14469).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import Case
from kvship_eval.plots import heat_map, listed, save, span, tokens_label
from kvship_eval.policy import Policy
from kvship_eval.records import Records, mean_ratio
from kvship_eval.service import ask

_ADJECTIVES = ("makeshift", "quiet", "rapid", "gentle", "hollow", "bright", "ancient", "curious", "dusty", "eager", "frozen",
               "golden", "hidden", "idle", "jagged", "keen", "lonely", "mellow", "narrow", "orange")
_NOUNS = ("penguin", "valley", "engine", "harbor", "kitten", "ladder", "mirror", "needle", "ocean", "pillow", "quarry",
          "ribbon", "shadow", "tunnel", "umbrella", "village", "window", "anchor", "bridge", "candle")
_THIRD_WORDS = _NOUNS[:10]  # of the names past the first 400
TOKENS_PER_LINE = 22
_TOKENS_AROUND = 60
# Where every line has a name of its own.
MOST_TOKENS = _TOKENS_AROUND + TOKENS_PER_LINE * len(_ADJECTIVES) * len(_NOUNS) * (1 + len(_THIRD_WORDS))


def lines_case(num_tokens: int, depth: float, seed: int) -> Case:
    """About num_tokens, MOST_TOKENS at most, of `line NAME: REGISTER_CONTENT is <N>`, and the question for the line at `depth`.

    Format of LongChat's LongEval (lmsys.org/blog/2023-06-29-longchat).
    """
    rng = random.Random(f"longeval/{num_tokens}/{depth}/{seed}")
    num_lines = max(2, (num_tokens - _TOKENS_AROUND) // TOKENS_PER_LINE)
    names = [f"{a}-{b}" for a in _ADJECTIVES for b in _NOUNS]
    if num_lines > len(names):
        names += [f"{a}-{b}-{c}" for a in _ADJECTIVES for b in _NOUNS for c in _THIRD_WORDS]
    names = rng.sample(names, num_lines)
    values = [rng.randrange(1, 50_000) for _ in names]
    asked = min(num_lines - 1, round(depth * (num_lines - 1)))
    lines = "\n".join(f"line {name}: REGISTER_CONTENT is <{value}>" for name, value in zip(names, values))
    message = (f"Keep this record of lines in mind. Each line names itself, and holds a number as its <REGISTER_CONTENT>.\n\n"
               f"{lines}\n\nThat was the record. What is the <REGISTER_CONTENT> in line {names[asked]}? Answer with the number.")
    return Case(message, (str(values[asked]),), max_tokens=32)


def run(client: kvship.Client, records: Records, policies: Sequence[Policy], lengths: Sequence[int], num_depths: int,
        seed: int) -> None:
    """One line per length and depth under every policy."""
    depths = [i / (num_depths - 1) if num_depths > 1 else 0.5 for i in range(num_depths)]
    work = [(length, depth, policy) for length in lengths for depth in depths for policy in policies]
    for length, depth, policy in tqdm(work, desc="longeval"):
        case = lines_case(length, depth, seed)
        key = f"{length}/{depth:.3f}/{seed}/{policy.name}"
        asked = case, policy.options
        if records.holds(key, asked):
            continue
        answer = ask(client, case, policy)
        if answer is not None:
            records.add(key, asked, {"length": length, "depth": depth, **answer})


def table(records: Records) -> str:
    """The share of lines found, a row per policy and a column per length, beside the bytes."""
    lengths = sorted({record["length"] for record in records})
    lines = [" ".join([f"{'lines found':24}", *(f"{tokens_label(length):>7}" for length in lengths), f"{'mean':>7} {'95 %':>8}",
                       f"{'bytes':>7}"])]
    for policy in dict.fromkeys(record["policy"] for record in records):
        groups = [records.of(policy=policy, length=length) for length in lengths] + [records.of(policy=policy)]
        cells = (f"{np.mean([r['score'] for r in group]):7.0%}" if group else f"{'-':>7}" for group in groups)
        lines.append(" ".join([f"{policy[:24]:24}", *cells, f"{span([r['score'] for r in groups[-1]]):>8}",
                               f"{mean_ratio(groups[-1]):6.1f}x"]))
    return "\n".join(lines) + "\n"


def plot(folder: Path) -> list[Path]:
    """Found lines, a heat map per policy, and as a table."""
    records = Records(folder, "longeval")
    if not len(records):
        return []
    (folder / "longeval.txt").write_text(table(records), encoding="utf-8")
    policies = list(dict.fromkeys(record["policy"] for record in records))
    lengths = sorted({record["length"] for record in records})
    depths = sorted({record["depth"] for record in records})
    figure, axes = pyplot.subplots(1, len(policies), figsize=(3.8 * len(policies), 3), squeeze=False, layout="constrained")
    for axis, policy in zip(axes.flat, policies):
        scores = np.full((len(depths), len(lengths)), np.nan)
        for record in records.of(policy=policy):
            scores[depths.index(record["depth"]), lengths.index(record["length"])] = record["score"]
        heat_map(axis, scores, [tokens_label(length) for length in lengths], [f"{depth:.0%}" for depth in depths],
                 f"{policy}: {np.nanmean(scores):.0%}")
    return [save(figure, folder, "longeval", "LongEval-Lines, with and without pooling (the paper's Fig. 8)",
                 f"Records of lines with a number each, of {listed(map(tokens_label, lengths))} tokens, and a question for the "
                 f"number of one line; {len(depths)} lines asked for at each length, from the record's start to its end. A field "
                 "is green where the answer holds the number. Lines that look alike make it harder than needles: what the full "
                 "cache finds is the most that can be expected of any policy. In the table: 95 %, the mean's interval over the "
                 "lines.")]
