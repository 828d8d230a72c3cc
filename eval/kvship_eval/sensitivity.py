"""Window x kernel x pooling of SnapKV, as the paper's Table 2."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import Cases
from kvship_eval.plots import heat_map, listed, save, tokens_label
from kvship_eval.policy import Policy
from kvship_eval.records import Records, mean_ratio
from kvship_eval.service import ask


def run(client: kvship.Client, records: Records, budget: str, windows: Sequence[int], kernels: Sequence[int],
        pools: Sequence[str], cases: Cases, lengths: Sequence[int], cases_per_kind: int) -> None:
    """The same cases for every setting; `budget` is the options that stay."""
    settings = [(window, kernel, pool) for pool in pools for window in windows for kernel in kernels]
    questions = [(kind, length, i) for length in lengths for kind in cases.kinds for i in range(cases_per_kind)]
    for (kind, length, i), (window, kernel, pool) in tqdm([(q, s) for q in questions for s in settings], desc="sensitivity"):
        key = f"{kind}/{length}/{i}/{window}/{kernel}/{pool}"
        case = cases.needle(kind, length, (i + 0.5) / cases_per_kind, i)
        policy = Policy(f"W{window} k{kernel} {pool}", f"scorer=snapkv,window={window},kernel={kernel},pool={pool},{budget}")
        asked = case, policy.options
        if records.holds(key, asked):
            continue
        answer = ask(client, case, policy)
        if answer is not None:
            records.add(key, asked, {"window": window, "kernel": kernel, "pool": pool, "length": length, **answer})


def plot(folder: Path) -> list[Path]:
    """Mean score, a map per pooling."""
    records = Records(folder, "sensitivity")
    if not len(records):
        return []
    pools = sorted({record["pool"] for record in records})
    windows = sorted({record["window"] for record in records})
    kernels = sorted({record["kernel"] for record in records})
    figure, axes = pyplot.subplots(1, len(pools), figsize=(4.6 * len(pools), 3.4), squeeze=False, layout="constrained")
    for axis, pool in zip(axes.flat, pools):
        scores = np.full((len(windows), len(kernels)), np.nan)
        for (i, window), (j, kernel) in itertools.product(enumerate(windows), enumerate(kernels)):
            if found := records.of(pool=pool, window=window, kernel=kernel):
                scores[i, j] = np.mean([record["score"] for record in found])
        heat_map(axis, scores, [f"k {kernel}" for kernel in kernels], [f"W {window}" for window in windows], f"pool {pool}")
    settings = len({record["policy"] for record in records})
    lengths = listed(map(tokens_label, sorted({record["length"] for record in records})))
    return [save(figure, folder, "sensitivity", "SnapKV's window, kernel and pooling (as the paper's Table 2)",
                 f"The same {len(records) // settings} needle questions in documents of {lengths} tokens for each of {settings} "
                 f"settings, at {mean_ratio(records):.1f} times fewer bytes than the full cache. A field is the share of what was "
                 "asked for that the answers hold: windows W of voting queries down, kernels k of the pooling across.")]
