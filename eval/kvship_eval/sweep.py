"""Search: many settings on the same needle cases, each prompt read once, in process by kvship-inspect.

The services measure what the search has chosen (the other studies); here settings are only compared with each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import FUNCTION_CALL, HALVES, SET_APART, Case, Cases, Kind, score
from kvship_eval.inspect_program import Inspect
from kvship_eval.plots import byte_axis, listed, save, share, share_text, span, tokens_label
from kvship_eval.policy import KEEP_ALL, Policy
from kvship_eval.records import Record, Records

# Cases per kind and length: long prompts cost more.
NUM_CASES = {1000: 6, 2000: 6, 4000: 4, 7500: 2}

_INT4 = "encoder=int4,window=16,kernel=31"
CANDIDATES = [
    *(Policy(f"W{w} k{k}", f"scorer=snapkv,encoder=int4,window={w},kernel={k}") for w in (16, 32) for k in (7, 15, 31, 63)),
    *(Policy(f"W32 k{k} max pool", f"scorer=snapkv,encoder=int4,window=32,kernel={k},pool=max") for k in (15, 31)),
    Policy("W16 k31 group max", f"scorer=snapkv,{_INT4},group_reduce=max"),
    Policy("W16 k31 4 sinks", f"scorer=snapkv,{_INT4},sinks=4"),
    Policy("W16 k31 ada", f"scorer=snapkv,{_INT4},allocator=ada"),
    Policy("W16 k31 pyramid", f"scorer=snapkv,{_INT4},allocator=pyramid"),
    Policy("W16 k31 chunks", f"scorer=snapkv,{_INT4},selector=chunks"),
    Policy("W16 k31 int8", "scorer=snapkv,encoder=int8,window=16,kernel=31"),
    Policy("keydiff", f"scorer=keydiff,{_INT4}"),
    Policy("h2o", f"scorer=h2o,{_INT4}"),
    Policy("streaming_llm", f"scorer=streaming_llm,{_INT4}"),
]


def settings(policies: Sequence[Policy], factors: Sequence[float]) -> dict[str, str]:
    """Every policy at every byte factor, or with the budget that it names, beside the full cache, by name."""
    chosen = [KEEP_ALL, *(policy.at_bytes(factor) for factor in factors for policy in policies)]
    return {policy.name: policy.options for policy in chosen}


@dataclass(frozen=True)
class Point:
    """One case of a sweep."""

    kind: Kind
    num_tokens: int
    depth: float
    seed: int
    case: Case


def points(cases: Cases, lengths: Sequence[int], cases_each: int | None = None) -> list[Point]:
    """Cases of every kind and length (cases_each, or NUM_CASES), depths spread evenly."""
    out = []
    for num_tokens in lengths:
        num_cases = cases_each or NUM_CASES.get(num_tokens, 4)
        for kind in cases.kinds:
            for i in range(num_cases):
                depth = (i + 0.5) / num_cases
                out.append(Point(kind, num_tokens, depth, cases.seed + i, cases.needle(kind, num_tokens, depth, i)))
    return out


def run_sweep(inspect: Inspect, records: Records, half: str, settings: dict[str, str], points: Sequence[Point]) -> None:
    """Answers of every setting (name -> options) to every case. Raises RuntimeError with what kvship-inspect says."""
    wanted = []
    for point in points:
        where = f"{point.kind}/{point.num_tokens}/{point.depth:.3f}/{point.seed}"
        missing = {name: text for name, text in settings.items() if not records.holds(f"{where}/{name}", (point.case, text))}
        if missing:
            wanted.append((where, point, missing))
    if not wanted:
        return
    results = inspect.sweep([{"message": point.case.message, "max_tokens": point.case.max_tokens,
                              "compressions": list(missing.values())} for _, point, missing in wanted])
    for (where, point, missing), result in zip(tqdm(wanted, desc=f"sweep {half}"), results, strict=True):
        for (name, text), answer in zip(missing.items(), result["answers"], strict=True):
            records.add(f"{where}/{name}", (point.case, text), {
                "half": half, "kind": str(point.kind), "length": point.num_tokens, "depth": point.depth,
                "setting": name, "options": text, "prompt_tokens": result["prompt_tokens"],
                "score": score(answer["text"], point.case.expected), "text": answer["text"],
                "num_bytes": answer["num_bytes"], "kept_tokens": answer["kept_tokens"],
                "retained_mass": answer["retained_mass"]})


@dataclass(frozen=True)
class Row:
    """What a setting found and took, over its cases."""

    setting: str
    ratio: float  # times fewer bytes than the full cache
    score: float
    of_full: float  # the score as a share of the full cache's; NaN where that found nothing
    span: str  # of that; "-" of the full cache itself


def rows(records: Records) -> list[Row]:
    """A row per setting, the best first; none where the full cache was not measured."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["setting"]].append(record)
    full = {record["key"].removesuffix(f"/{KEEP_ALL.name}"): record for record in groups.get(KEEP_ALL.name, [])}
    found = []
    for setting, measured in groups.items():
        beside = [full[key] for record in measured if (key := record["key"].removesuffix(f"/{setting}")) in full]
        if len(beside) < len(measured):
            continue
        scores, full_scores = [r["score"] for r in measured], [r["score"] for r in beside]
        num_bytes, full_bytes = (np.mean([r["num_bytes"] / r["prompt_tokens"] for r in of]) for of in (measured, beside))
        found.append(Row(setting, full_bytes / num_bytes, float(np.mean(scores)),
                         share(float(np.mean(scores)), float(np.mean(full_scores))),
                         "-" if setting == KEEP_ALL.name else span(scores, full_scores)))
    return sorted(found, key=lambda row: -row.score)


def table(found: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'setting':34} {'bytes':>7} {'found':>6} {'of full':>8} {'95 %':>9}"]
    lines += [f"{row.setting:34} {row.ratio:6.1f}x {row.score:6.0%} {share_text(row.of_full):>8} {row.span:>9}" for row in found]
    return "\n".join(lines) + "\n"


def plot(folder: Path) -> list[Path]:
    """Score of each setting against the bytes it really took, and as a table."""
    made = []
    for half in HALVES:
        records = Records(folder, f"sweep-{half}")
        found = rows(records)
        if not found:
            continue
        (folder / f"sweep-{half}.txt").write_text(table(found), encoding="utf-8")
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in found:
            curves[re.sub(r" [\d.]+x$", "", row.setting)].append((row.ratio, row.of_full))
        figure, axis = pyplot.subplots(figsize=(10, 5.4), layout="constrained")
        axis.axhline(0.95, color="0.5", linestyle=":", label="95 % of the full cache")
        # The legend in the order of the curves' ends.
        by_end = sorted(curves.items(), key=lambda curve: -max(curve[1])[1])
        for i, (name, points) in enumerate(by_end):
            if name != KEEP_ALL.name:
                axis.plot(*zip(*sorted(points)), marker="osD^v<>PX*"[i % 10], color=pyplot.cm.tab20(i % 20), label=name)
        byte_axis(axis)
        axis.set_ylabel("found, as a share of the full cache's")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        num_cases = len({(record["kind"], record["length"], record["depth"]) for record in records})
        lengths = listed(map(tokens_label, sorted({record["length"] for record in records})))
        kinds = listed(sorted({record["kind"] for record in records}))
        told = (f" Settings chosen here are measured by the other studies, on {SET_APART}." if half == "choose"
                else f" Settings were chosen on {SET_APART}.")
        if kinds == str(FUNCTION_CALL):
            told = ""  # both halves have the same words
        made.append(save(figure, folder, f"sweep-{half}", f"Search over settings, the half {half}",
                         f"{num_cases} questions of the kinds {kinds} in documents of {lengths} tokens to each of {len(found) - 1} "
                         "settings, each prompt read once in one process. Curves show what a setting finds, as a share of what the full "
                         "cache finds, against how many times fewer bytes it took; above 1 it finds more, as dropped tokens no "
                         "longer distract a small model. In the table: 95 %, the interval of that share over the questions."
                         f"{told}"))
    return made
