"""What the studies' plots share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


def heat_map(axis: Axes, values: np.ndarray, columns: Sequence[str], rows: Sequence[str], title: str) -> None:
    """Shares in [0, 1] as colours, red to green; what was not measured stays grey."""
    axis.set_facecolor("0.85")
    axis.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title, fontsize=10)
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            axis.text(j, i, f"{value:.2f}".rstrip("0").rstrip("."), ha="center", va="center", fontsize=8)


def interval(scores: Sequence[float], full: Sequence[float] | None = None) -> tuple[float, float]:
    """Of the mean over cases, or of its share of the mean of `full` on the same cases: 95 %, by a bootstrap of a fixed seed.

    Cases have random weights (Rubin's Bayesian bootstrap, 1981), and half a case of each outcome stands beside them: to resampling
    alone what no case showed is impossible, and a share certain wherever all cases agree.
    """
    beside = [(1, 1), (1, 0), (0, 1), (0, 0)] if full is not None else [(1, 1), (0, 1)]
    cases = np.array([*zip(scores, full if full is not None else [1] * len(scores), strict=True), *beside])
    weights = np.random.default_rng(0).dirichlet([1] * len(scores) + [0.5] * len(beside), 4000)
    means = weights @ cases
    low, high = np.percentile(means[:, 0] / means[:, 1], (2.5, 97.5))
    return float(low), float(high)


def span(scores: Sequence[float], full: Sequence[float] | None = None) -> str:
    """An interval in hundredths, "46-70%"; "-" where `full` found nothing to have a share of."""
    if full is not None and not any(full):
        return "-"
    low, high = interval(scores, full)
    return f"{100 * low:.0f}-{100 * high:.0f}%"


def share(score: float, full: float) -> float:
    """Of what `full` is; NaN of nothing."""
    return score / full if full else math.nan


def share_text(value: float) -> str:
    """A share in hundredths, "46%"; "-" where there is none."""
    return "-" if math.isnan(value) else f"{value:.0%}"


def tokens_label(num_tokens: int) -> str:
    """"500", "2K", "7.5K"."""
    return str(num_tokens) if num_tokens < 1000 else f"{num_tokens / 1000:g}K"


def listed(values: Iterable[object]) -> str:
    """"a, b and c"; "nothing" of nothing."""
    words = [str(value) for value in values]
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part) or "nothing"


def byte_axis(axis: Axes) -> None:
    """The x axis counts how many times fewer bytes a cache takes."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_xlabel("times fewer bytes than the full cache in f16")


def describe(folder: Path, name: str, title: str, text: str) -> None:
    """Writes NAME.caption.json for the report: what was asked, on what, and what the picture shows."""
    (folder / f"{name}.caption.json").write_text(json.dumps({"title": title, "text": text}) + "\n", encoding="utf-8")


def save(figure: Figure, folder: Path, name: str, title: str, text: str) -> Path:
    """Writes NAME.png and its caption."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    describe(folder, name, title, text)
    return path
