"""Needles in haystacks: lengths x depths for each policy, the paper's Fig. 6 (arXiv 2404.14469), in RULER's forms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import Cases
from kvship_eval.plots import heat_map, listed, save, span, tokens_label
from kvship_eval.policy import Policy
from kvship_eval.records import Records, mean_ratio
from kvship_eval.service import ask


def run(client: kvship.Client, records: Records, policies: Sequence[Policy], cases: Cases, lengths: Sequence[int],
        num_depths: int) -> None:
    """Asks for one needle per kind, length and depth under every policy; what is on record is not asked again."""
    depths = [i / (num_depths - 1) if num_depths > 1 else 0.5 for i in range(num_depths)]
    work = [(kind, length, depth, policy) for length in lengths for kind in cases.kinds for depth in depths
            for policy in policies]
    for kind, length, depth, policy in tqdm(work, desc="needle"):
        case = cases.needle(kind, length, depth)
        key = f"{kind}/{length}/{depth:.3f}/{cases.seed}/{policy.name}"
        asked = case, policy.options
        if records.holds(key, asked):
            continue
        answer = ask(client, case, policy)
        if answer is not None:
            records.add(key, asked, {"kind": str(kind), "length": length, "depth": depth, **answer})


def plot(folder: Path) -> list[Path]:
    """One heat map per policy: the mean score over kinds at each length and depth."""
    records = Records(folder, "needle")
    if not len(records):
        return []
    policies = list(dict.fromkeys(record["policy"] for record in records))
    lengths = sorted({record["length"] for record in records})
    depths = sorted({record["depth"] for record in records})
    columns = min(3, len(policies))
    rows = -(-len(policies) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(policies):]:
        axis.set_axis_off()
    found = {policy: float(np.mean([record["score"] for record in records.of(policy=policy)])) for policy in policies}
    for axis, policy in zip(axes.flat, policies):
        scores = np.full((len(depths), len(lengths)), np.nan)
        for (i, depth), (j, length) in itertools.product(enumerate(depths), enumerate(lengths)):
            if cell := records.of(policy=policy, length=length, depth=depth):
                scores[i, j] = np.mean([record["score"] for record in cell])
        heat_map(axis, scores, [tokens_label(length) for length in lengths], [f"{depth:.0%}" for depth in depths],
                 f"{policy}: {found[policy]:.0%}")
    kinds = listed(sorted({record["kind"] for record in records}))
    results = listed(f"{policy} ({mean_ratio(records.of(policy=policy)):.1f}x fewer bytes) {found[policy]:.0%} "
                     f"({span([record['score'] for record in records.of(policy=policy)])})" for policy in policies)
    return [save(figure, folder, "needle", "Needles in a haystack (the paper's Fig. 6)",
                 f"Facts of the kinds {kinds} were hidden in documents of {listed(map(tokens_label, lengths))} tokens; "
                 f"{len(records) // len(policies)} questions to each policy stand at the prompts' ends. A map shows the share of "
                 "what was asked for that the answers hold, by length (across) and by the depth of the fact (down); its title the "
                 f"mean. Found, with 95 % intervals over the questions: {results}.")]
