"""All policies at the same bytes: accuracy, retained mass, divergence from the full cache, time; one Pareto plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import Case, Cases, Kind
from kvship_eval.divergence import kl_and_agreement
from kvship_eval.plots import byte_axis, listed, save, share, share_text, span, tokens_label
from kvship_eval.policy import KEEP_ALL, Policy
from kvship_eval.records import Record, Records, mean_ratio
from kvship_eval.service import ask, holds_too_little

NUM_FORCED = 64
NUM_SUMMARIES = 8  # documents of each length
LIKELIEST = 20
PAGE_TOKENS = 32  # kernels/page_layout.h


def _forced(client: kvship.Client, case: Case, policy: Policy, tokens: Sequence[int]) -> kvship.Generation:
    return client.generate(messages=[{"role": "user", "content": case.message}], forced_tokens=list(tokens),
                           logprobs=LIKELIEST, compression=policy.options)


def _fitted_tokens(client: kvship.Client, case: Case, policy: Policy, factor: float, prompt_tokens: int) -> int:
    """The largest budget_tokens with which the case's cache is `factor` times smaller than in f16, as the service counts bytes."""
    def is_small(budget: int) -> bool:
        try:
            kv = client.generate(messages=[{"role": "user", "content": case.message}], max_tokens=1,
                                 compression=f"{policy.options},budget_tokens={budget}").kv
        except kvship.InvalidRequest as error:
            if holds_too_little(error):
                return True
            raise
        return kv.shipped_bytes * factor <= kv.uncompressed_bytes

    fits, exceeds = 0, prompt_tokens + 1
    # Right at once where all heads keep as many tokens.
    pages = int(policy.share(factor) * -(-prompt_tokens // PAGE_TOKENS))
    guesses = [pages * PAGE_TOKENS + 1, pages * PAGE_TOKENS]
    while exceeds - fits > 1:
        budget = guesses.pop() if guesses else (fits + exceeds) // 2
        if not fits < budget < exceeds:
            continue
        if is_small(budget):
            fits = budget
        else:
            exceeds = budget
    return fits


def _fitted(client: kvship.Client, records: Records, case: Case, policy: Policy, factor: float, length: int) -> Policy:
    """The policy with the budget of _fitted_tokens, which is on record as well."""
    name = f"{policy.name} {factor:g}x"
    key, asked = f"budget/{length}/{name}", (case, policy.options, factor)
    if not records.holds(key, asked):
        prompt_tokens = records.of(study="needle", length=length, policy=KEEP_ALL.name)[0]["prompt_tokens"]
        records.add(key, asked, {"study": "budget", "length": length, "policy": name,
                                 "budget_tokens": _fitted_tokens(client, case, policy, factor, prompt_tokens)})
    [record] = records.of(study="budget", length=length, policy=name)
    return Policy(name, f"{policy.options},budget_tokens={record['budget_tokens']}")


def _needle(client: kvship.Client, records: Records, case: Case, kind: Kind, length: int, i: int, policy: Policy) -> None:
    key, asked = f"{kind}/{length}/{i}/{policy.name}", (case, policy.options)
    if not records.holds(key, asked) and (answer := ask(client, case, policy)) is not None:
        records.add(key, asked, {"study": "needle", "kind": str(kind), "length": length, **answer})


def _divergences(client: kvship.Client, records: Records, case: Case, length: int, i: int, policies: Sequence[Policy]) -> None:
    full = None
    for policy in policies:
        key, asked = f"divergence/{length}/{i}/{policy.name}", (case, policy.options)
        if records.holds(key, asked):
            continue
        if full is None:
            free = client.generate(messages=[{"role": "user", "content": case.message}], max_tokens=NUM_FORCED,
                                   compression=KEEP_ALL.options, ignore_end_tokens=True)
            full = _forced(client, case, KEEP_ALL, [token.id for token in free.tokens])
        try:
            other = _forced(client, case, policy, [token.id for token in full.tokens])
        except kvship.InvalidRequest as error:
            if holds_too_little(error):
                continue
            raise
        kl, agreement = kl_and_agreement(full.tokens, other.tokens)
        records.add(key, asked, {"study": "divergence", "length": length, "policy": policy.name, "options": policy.options,
                                 "kl": kl, "top1_agreement": agreement})


def run(client: kvship.Client, records: Records, policies: Sequence[Policy], factors: Sequence[float], cases: Cases,
        lengths: Sequence[int], cases_per_kind: int) -> None:
    """Every policy at every byte factor on the same cases, beside keep_all.

    Budgets are fitted to the first question of each length: how full its last pages are depends on the policy.
    """
    num_cases = len(lengths) * (len(cases.kinds) * cases_per_kind + NUM_SUMMARIES)
    with tqdm(total=num_cases * (1 + len(factors) * len(policies)), desc="policies") as bar:
        for length in lengths:
            questions = [(kind, i, cases.needle(kind, length, (i + 0.5) / cases_per_kind, i))
                         for kind in cases.kinds for i in range(cases_per_kind)]
            for kind, i, case in questions:
                _needle(client, records, case, kind, length, i, KEEP_ALL)
            budgets = [_fitted(client, records, questions[0][2], policy, factor, length) for factor in factors
                       for policy in policies]
            for kind, i, case in questions:
                bar.update()
                for policy in budgets:
                    _needle(client, records, case, kind, length, i, policy)
                    bar.update()
            for i in range(NUM_SUMMARIES):
                _divergences(client, records, cases.summary(length, i, NUM_FORCED), length, i, [KEEP_ALL, *budgets])
                bar.update(1 + len(budgets))


def summary(folder: Path) -> list[Record]:
    """Per policy and budget: means over the cases."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in Records(folder, "policies"):
        groups[record["policy"]].append(record)
    rows = []
    for policy, records in groups.items():
        needles = [record for record in records if record["study"] == "needle"]
        if not needles:
            continue
        divergences = [record for record in records if record["study"] == "divergence"]

        def mean(name: str, of: list[Record]) -> float:
            return float(np.mean([record[name] for record in of])) if of else float("nan")

        rows.append({
            "policy": policy, "score": mean("score", needles), "cases": len(needles),
            "span": span([record["score"] for record in needles]),
            "retained_mass": mean("retained_mass", needles), "chosen_mass": mean("chosen_mass", needles),
            "ratio": mean_ratio(needles),
            "compress_ms": mean("compress_ms", needles), "kl": mean("kl", divergences),
            "top1_agreement": mean("top1_agreement", divergences)})
    return rows


def table(folder: Path) -> str:
    """The summary as text."""
    lines = [f"{'policy':34} {'bytes':>7} {'score':>6} {'95 %':>8} {'of full':>8} {'mass':>6} {'middle':>7} {'KL':>7} {'top-1':>6} "
             f"{'compress':>9}"]
    rows = summary(folder)
    full = next((row["score"] for row in rows if row["policy"] == KEEP_ALL.name), float("nan"))
    for row in rows:
        of_full = share_text(share(row["score"], full))
        lines.append(f"{row['policy']:34} {row['ratio']:6.1f}x {row['score']:6.2f} {row['span']:>8} {of_full:>8} "
                     f"{row['retained_mass']:6.3f} {row['chosen_mass']:7.3f} {row['kl']:7.3f} {row['top1_agreement']:6.2f} "
                     f"{row['compress_ms']:6.0f} ms")
    return "\n".join(lines) + "\n"


def plot(folder: Path) -> list[Path]:
    """Accuracy and divergence against bytes."""
    rows = summary(folder)
    if not rows:
        return []
    (folder / "policies.txt").write_text(table(folder), encoding="utf-8")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13.5, 4.8), layout="constrained")
    curves: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        name = row["policy"] if row["policy"] == KEEP_ALL.name else row["policy"].rsplit(" ", 1)[0]
        curves[name].append(row)
    for i, (name, points) in enumerate(curves.items()):
        if name == KEEP_ALL.name:
            left.axhline(points[0]["score"], color="0.4", linestyle=":", label=name)
            continue
        points.sort(key=lambda row: row["ratio"])
        style = {"marker": "osD^v<>PX*hp"[i % 12], "color": pyplot.cm.tab20(2 * i % 19), "label": name}
        left.plot([p["ratio"] for p in points], [p["score"] for p in points], **style)
        right.plot([p["ratio"] for p in points], [p["kl"] for p in points], **style)
    for axis, label in ((left, "needles found"), (right, "KL divergence from the full cache, nats")):
        byte_axis(axis)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    left.set_ylim(0, 1.05)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    records = Records(folder, "policies")
    lengths = listed(map(tokens_label, sorted({record["length"] for record in records})))
    return [save(figure, folder, "policies", "All policies at the same bytes",
                 f"{rows[0]['cases']} needle questions in documents of {lengths} tokens to every policy at every budget; a budget "
                 "is the most bytes that a policy may take, pages, scales and positions counted, against the full cache in f16, "
                 "fitted to the first question. "
                 "Left: the share of what was asked for that the answers hold. Right: how far the next-token distributions of "
                 f"summaries of {NUM_SUMMARIES} documents of each length, {NUM_FORCED} forced tokens each, are from the full "
                 "cache's. In the table: 95 %, the score's interval over the questions; mass, the window's attention on kept tokens; "
                 "middle, the same without the prompt's first 4 tokens and the window; top-1, the share of equal likeliest "
                 "tokens; compress, the time that it took, without h2o's column sums, which are taken while the prompt is read.")]
